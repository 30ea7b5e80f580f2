"""What tasks of lmms-eval ask, in our words; the answers are those of evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moiety.evaluate.run import answer_rows
from moiety.lmms.asked import Asked, answers, read_messages, read_settings
from moiety.vlm.model import load
from moiety.vlm.rows import Row
from moiety.vlm.templates import load_processor
from tests import model_folders


def asked(question: str, picture: Any, name: str = "one") -> tuple[Row, dict[str, Image.Image]]:
    parts = [{"type": "image", "url": picture}, {"type": "text", "text": question}]
    return read_messages([{"role": "user", "content": parts}], name)


def test_messages_become_rows_as_our_data_has_them() -> None:
    row, pictures = asked("Where?", model_folders.picture())
    assert (row.id, row.turns[0].text, row.images) == ("one", "<image>\nWhere?", ("one/0",))
    assert pictures["one/0"].mode == "RGB"
    said = read_messages([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}], "two")
    assert [turn.text for turn in said[0].turns] == ["Be brief.", "Hi?"]
    assert said[1] == {}


def test_a_picture_may_be_a_file_or_its_bytes_and_lies_on_white() -> None:
    path = model_folders.picture_file()
    for given in (str(path), Path(path).read_bytes(), model_folders.picture()):
        assert asked("?", given)[1]["one/0"].tobytes() == model_folders.picture().tobytes()
    clear = asked("?", Image.new("RGBA", (4, 4), (0, 0, 0, 0)))[1]["one/0"]
    assert clear.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "video", "url": "a.mp4"}, r"row 'one': a part of type 'video'; moiety reads text and image"),
        ({"type": "text", "text": "an <image>"}, r"row 'one': a text holds <image>, the mark of a picture"),
    ],
)
def test_what_cannot_be_shown_is_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_messages([{"role": "user", "content": [part]}], "one")


def test_settings_of_tasks() -> None:
    greedy = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n"]}
    assert read_settings({**greedy, "image_aspect_ratio": "original"}, 9) == Asked(16, ("\n",))
    assert read_settings({"until": "."}, 9) == Asked(9, (".",))
    assert read_settings({"max_gen_toks": 3, "until": None}, 9) == Asked(3)
    assert read_settings({"do_sample": True, "temperature": 0}, 9) == Asked(9)
    assert read_settings({"do_sample": False, "temperature": 0.7}, 9) == Asked(9)
    sampled = read_settings({"temperature": 0.7, "top_p": 0.9, "seed": 1, "num_beams": 2}, 9)
    assert sampled == Asked(9, (), 1, {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "num_beams": 2})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": "many"}, r"max_new_tokens must be a whole number from 1 on, got 'many'"),
        ({"max_new_tokens": 0}, r"max_new_tokens must be a whole number from 1 on, got 0"),
        ({"until": [1]}, r"until must be texts, got \[1\]"),
        ({"frames": 8}, r"'frames' is unknown to this model, and ignoring it would change what is scored; known"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(given, 9)


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    return load(model_folders.sparse_folder()), load_processor(model_folders.sparse_folder())


def test_answers_are_those_of_evaluate_for_every_batch_size(both: tuple[Any, Any]) -> None:
    shown = [asked(text, model_folders.picture(), text) for text in ("Where?", "Is there a blue square?", "What?")]
    rows, pictures = [row for row, _ in shown], {name: picture for _, found in shown for name, picture in found.items()}
    expected = list(answer_rows(*both, rows, pictures, batch_size=3, max_new_tokens=4).values())
    for size in (1, 2):
        assert answers(*both, rows, pictures, Asked(4), size) == expected
    spelled_out = Asked(4, (), None, {"repetition_penalty": 1.0})  # the other path, which decodes the same
    assert answers(*both, rows, pictures, spelled_out, 2) == expected
    stop = expected[0][1]
    assert answers(*both, rows, pictures, Asked(4, (stop,)), 3)[0] == expected[0][: expected[0].index(stop)].strip()


def test_what_is_sampled_goes_by_its_seed(both: tuple[Any, Any]) -> None:
    row, pictures = asked("Where?", model_folders.picture())
    warm = {"do_sample": True, "temperature": 1.5}
    said = [answers(*both, [row], pictures, Asked(6, (), seed, warm), 1) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]
