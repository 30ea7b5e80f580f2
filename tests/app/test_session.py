"""A session answers, keeps turns and the reading of the last answer, and says what it cannot do."""

from __future__ import annotations

import itertools
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moiety.app.session import MOST_PIXELS, NO_PICTURE, NO_QUESTION, STOPPED, Session, as_they_come, picture_in
from moiety.lens.trace.observe import observe
from tests import model_folders
from tests.app.conftest import Ask, new_session


def test_an_answer_grows_and_stays(session: Session, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety.app.session.SECONDS_BETWEEN", 0)
    shown = ask("Where is the red circle?")
    assert shown[0].note == "Reading …"
    assert [turn["role"] for turn in shown[-1].history] == ["user", "assistant"]
    assert shown[-1].history[0]["content"] == "Where is the red circle?"
    prompt, made = session.conversation.batch["input_ids"].shape[1], 4
    assert shown[-1].note.startswith(f"{prompt} tokens read, {made} made in ")
    assert not any(said.is_error for said in shown)
    grown = [said.history[-1]["content"] for said in shown[1:-1] if said.history[-1]["content"] != "…"]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(grown))
    assert grown[-1].strip() == session.conversation.turns[-1].text


def test_the_reading_is_that_of_the_lens(session: Session, ask: Ask) -> None:
    ask("Where is the red circle?")
    assert session.reading is not None
    seen = session.reading.observation
    picture, model = model_folders.picture_file(), session.conversation.model
    expected = observe(model, session.conversation.processor, picture, "Where is the red circle?", max_new_tokens=4)
    assert (seen.answer, seen.words, seen.generated) == (expected.answer, expected.words, expected.generated)
    assert (seen.grid, seen.layers, seen.groups) == (expected.grid, expected.layers, expected.groups)
    assert np.array_equal(np.array(seen.picture), np.array(expected.picture))
    for phase in ("prefill", "decode"):
        for layer in seen.layers:
            assert seen.phases[phase][layer].index.equal(expected.phases[phase][layer].index)


def test_the_talk_goes_on_until_the_picture_changes(session: Session, ask: Ask, given: Path) -> None:
    ask("Where?")
    first = len(session.reading.observation.words)
    assert len(ask("And now?")[-1].history) == 4
    assert len(session.reading.observation.words) > first
    assert session.reading.observation.is_image.sum() == 16
    other = given.with_name("other.png")
    model_folders.picture(64).save(other)
    assert len(ask("Where?", other)[-1].history) == 2
    session.clear()
    assert (session.history(), session.reading, session.file) == ([], None, None)


def test_a_dense_model_answers_and_has_no_reading() -> None:
    session = new_session(model_folders.dense_folder())
    shown = list(session.ask(str(model_folders.picture_file()), "Where?", 2))
    assert not shown[-1].is_error
    assert session.reading is None


def test_what_is_missing_is_said(session: Session, given: Path) -> None:
    (said,) = session.ask(None, "Where?", 2)
    assert (said.note, said.is_error) == (NO_PICTURE, True)
    (said,) = session.ask(str(given), "  ", 2)
    assert (said.note, said.is_error) == (NO_QUESTION, True)


def test_what_is_no_picture_is_said_and_the_talk_stays(session: Session, ask: Ask, given: Path) -> None:
    ask("Where?")
    text = given.with_name("text.png")
    text.write_text("not a picture")
    svg = given.with_name("drawing.svg")
    svg.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    for file in (text, svg):
        (said,) = ask("Where?", file)
        assert said.note == f"The file {file.name} is no picture that can be read; PNG, JPEG, WebP, GIF and BMP can."
        assert said.is_error
        assert len(said.history) == 2
    cut = given.with_name("cut.png")
    cut.write_bytes(model_folders.picture_file().read_bytes()[:100])
    assert ask("Where?", cut)[-1].note.startswith("Picture cut.png cannot be decoded (100 bytes)")
    assert not ask("And now?")[-1].is_error


@pytest.mark.parametrize("size", [(8001, 8000), (12000, 12000), (20000, 20000)])
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    file = tmp_path / "huge.png"
    content = bytearray(model_folders.picture_file().read_bytes())
    content[16:24] = b"".join(side.to_bytes(4, "big") for side in size)  # width and height of a PNG
    file.write_bytes(_with_checksum(content))
    with pytest.raises(
        ValueError, match=rf"the picture huge\.png has more than {MOST_PIXELS // 10**6} million pixels; make it sm"
    ):
        picture_in(file, tmp_path)


def _with_checksum(content: bytearray) -> bytes:
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_a_tiny_picture_and_one_of_grey_are_taken(ask: Ask, given: Path) -> None:
    for name, picture in {"dot": Image.new("RGB", (1, 1)), "grey": Image.new("L", (300, 5), 128)}.items():
        picture.save(given.with_name(f"{name}.png"))
        assert not ask("Where?", given.with_name(f"{name}.png"))[-1].is_error


def test_a_question_that_cannot_be_answered_costs_one_note(session: Session, ask: Ask) -> None:
    said = ask("What is <image>?")[-1]
    assert said.note == ("The question holds <image>, the mark of a picture; leave it out and add the picture.")
    session.conversation.model.config.get_text_config().max_position_embeddings = 30
    assert "the model reads at most 30" in ask("word " * 40)[-1].note
    assert not ask("Where?")[-1].is_error


def test_an_answer_without_words_is_said(session: Session, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.conversation.processor.tokenizer, "decode", lambda *_, **__: "")
    assert ask("Where?")[-1].history[-1]["content"] == "(no answer)"


def test_pieces_come_as_they_are_made_and_errors_too() -> None:
    def work(hand_over) -> None:
        hand_over("a")
        hand_over("b")
        raise ValueError("no more")

    pieces = as_they_come(work)
    assert (next(pieces), next(pieces)) == ("a", "b")
    with pytest.raises(ValueError, match="no more"):
        next(pieces)


def test_work_ends_when_nobody_waits() -> None:
    go_on, ended, made = threading.Event(), threading.Event(), []

    def work(hand_over) -> None:
        try:
            for number in range(1000):
                hand_over(str(number))
                made.append(number)
                go_on.wait(5)
        finally:
            ended.set()

    pieces = as_they_come(work)
    assert next(pieces) == "0"
    go_on.set()
    pieces.close()
    assert ended.wait(5)
    assert len(made) < 1000


@pytest.mark.parametrize("how", ["stop", "clear"])
def test_an_answer_can_be_ended(
    session: Session, ask: Ask, given: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("moiety.app.session.SECONDS_BETWEEN", 0)
    ask("Where?")
    shown = session.ask(str(given), "And now?", 100)
    for _ in range(3):
        next(shown)
    getattr(session, how)()
    (last,) = shown
    assert (last.note, last.is_error, len(last.history)) == (STOPPED, False, 2 if how == "stop" else 0)
    assert session.history() == last.history
    assert (session.reading is None) == (how == "clear")
    assert not ask("Where?")[-1].is_error
    session.stop()
    assert ask("Again?")[-1].note != STOPPED


def test_a_question_that_was_left_leaves_the_talk_as_it_was(
    session: Session, ask: Ask, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moiety.app.session.SECONDS_BETWEEN", 0)
    ask("Where?")
    before, reading = session.history(), session.reading
    shown = session.ask(str(given), "And now?", 100)
    for _ in range(3):
        next(shown)
    shown.close()
    assert (session.history(), session.reading) == (before, reading)
    assert len(ask("And now?")[-1].history) == 4
