"""A conversation keeps its turns and pictures, and a mistake costs one message."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from moiety.chat import HELP, LEAVING, STOPPED, Conversation, as_path, command, run_chat
from moiety.vlm.images import open_picture
from moiety.vlm.model import load
from moiety.vlm.templates import load_processor
from tests import model_folders


@pytest.fixture
def conversation() -> Conversation:
    folder = model_folders.sparse_folder()
    return Conversation(load(folder), load_processor(folder), max_new_tokens=3)


def talk(conversation: Conversation, *lines: str, prompt: str = "") -> str:
    """What is shown when these lines are given."""
    shown: list[str] = []
    run_chat(
        conversation, source=io.StringIO("".join(f"{line}\n" for line in lines)), write=shown.append, prompt=prompt
    )
    return "".join(shown)


def test_turns_and_pictures_add_up(conversation: Conversation) -> None:
    conversation.add_image(model_folders.picture_file())
    first = conversation.ask("Where is it?")
    conversation.add_image(model_folders.picture_file())
    conversation.ask("And here?")
    assert [turn.role for turn in conversation.turns] == ["user", "assistant", "user", "assistant"]
    assert conversation.turns[0].text == "<image>\nWhere is it?"
    assert conversation.turns[1].text == first
    assert conversation.turns[2].text.startswith("<image>\n")
    assert len(conversation.images) == 2
    conversation.reset()
    assert (conversation.turns, conversation.images) == ([], {})


def test_answers_depend_on_the_turns_before(conversation: Conversation) -> None:
    alone = conversation.ask("Where?")
    conversation.reset()
    conversation.add_image(model_folders.picture_file())
    conversation.ask("Is there a blue square?")
    assert conversation.ask("Where?") != alone


def test_pieces_of_an_answer_come_as_they_are_made(conversation: Conversation) -> None:
    pieces: list[str] = []
    answer = conversation.ask("Where is the red circle?", pieces.append)
    assert "".join(pieces).strip() == answer
    prompt = conversation.batch["input_ids"][0].tolist()
    assert conversation.ids[: len(prompt)] == prompt
    assert len(conversation.ids) == len(prompt) + 3


def test_a_pipe_is_read_to_its_end(conversation: Conversation) -> None:
    shown: list[str] = []
    lines = io.StringIO("one?\n\n/reset\ntwo?\n")
    assert run_chat(conversation, source=lines, write=shown.append, prompt="> ") == 2
    assert shown.count("> ") == 5
    assert "starting again\n" in shown


@pytest.mark.parametrize("name", ["gone.png", "folder", "bad.png", "a" * 300, "~no_such_person/a.png", "'half"])
def test_what_is_no_picture_costs_one_line(conversation: Conversation, tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    (tmp_path / "folder").mkdir()
    path = name if name.startswith("~") else str(tmp_path / name)
    said = talk(conversation, f"/image {path}", "Hello?")
    reason = {
        "folder": f"no picture at {path}: that is a folder",
        "bad.png": f"picture {path} cannot be decoded (3 bytes): its format is unknown",
        "a" * 300: "[Errno 36] File name too long",
        "~no_such_person/a.png": "Could not determine home directory.",
    }.get(name, f"no picture at {path}")
    assert said.startswith(f"error: {reason}")
    assert said.count("error") == 1
    assert len(conversation.turns) == 2


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the administrator may read every file")
def test_a_picture_that_may_not_be_read(conversation: Conversation, tmp_path: Path) -> None:
    model_folders.picture().save(tmp_path / "locked.png")
    (tmp_path / "locked.png").chmod(0)
    assert "Permission denied" in command(conversation, f"/image {tmp_path / 'locked.png'}")


def test_a_path_may_stand_in_quotes(conversation: Conversation, tmp_path: Path) -> None:
    file = tmp_path / "my photo.png"
    model_folders.picture().save(file)
    for typed in (str(file), f"'{file}'", str(file).replace(" ", "\\ ")):
        assert as_path(typed) == str(file)
        assert command(conversation, f"/image {typed}") == f"{file} goes with your next question"
    assert len(conversation.images) == 3


def test_a_question_with_the_mark_of_a_picture(conversation: Conversation) -> None:
    said = talk(conversation, f"/image {model_folders.picture_file()}", "What is <image>?", "Hello?")
    assert "error: the question holds <image>, the mark of a picture; leave it out and add the picture" in said
    assert "(its pictures are forgotten)\n" in said
    assert [turn.text for turn in conversation.turns[::2]] == ["Hello?"]
    assert conversation.images == {}


def test_an_empty_question_is_refused(conversation: Conversation) -> None:
    with pytest.raises(ValueError, match="the question is empty; ask something"):
        conversation.ask(" ")


def test_a_conversation_too_long_for_the_model_says_so(conversation: Conversation) -> None:
    text = conversation.model.config.get_text_config()
    text.max_position_embeddings = 20
    said = talk(conversation, "word " * 30, "Hello?")
    assert re.match(
        r"error: the conversation has \d+ tokens, pictures included, and the model reads at most 20; start again "
        r"or ask something shorter\n",
        said,
    )
    assert len(conversation.turns) == 2
    conversation.reset()
    length = conversation.ask("Where?") and conversation.batch["input_ids"].shape[1]
    conversation.reset()
    text.max_position_embeddings = length + 1
    conversation.ask("Where?")
    assert len(conversation.ids) == length + 1


def test_a_full_device_costs_one_answer(conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise torch.OutOfMemoryError("no memory left on the device")

    with monkeypatch.context() as context:
        context.setattr(conversation.model, "generate", full)
        assert talk(conversation, "Hello?") == "error: no memory left on the device\n"
    assert conversation.ask("Hello?") is not None


class Interrupted(io.StringIO):
    """Lines of a person who presses Ctrl-C instead of every line that reads ``^C``."""

    def readline(self, size: int | None = -1, /) -> str:
        line = super().readline()
        if line == "^C\n":
            raise KeyboardInterrupt
        return line


def test_ctrl_c_stops_an_answer_and_no_more(conversation: Conversation) -> None:
    conversation.add_image(model_folders.picture_file())
    stopped = _StopsOnce()
    lines = Interrupted("Where?\n^C\nHello?\n")
    assert run_chat(conversation, source=lines, write=stopped, prompt="> ") == 1
    said = "".join(stopped.shown)
    assert STOPPED in said
    assert LEAVING in said
    assert [turn.text for turn in conversation.turns[::2]] == ["<image>\nHello?"]


class _StopsOnce:
    """Shows texts; Ctrl-C is pressed at the first piece of the first answer."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.pressed = False

    def __call__(self, text: str) -> None:
        if text and text != "> " and not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        self.shown.append(text)


def test_ctrl_c_ends_a_pipe(conversation: Conversation) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_chat(conversation, source=Interrupted("^C\n"), write=lambda text: None)
    with pytest.raises(KeyboardInterrupt):
        run_chat(conversation, source=io.StringIO("Where?\n"), write=_StopsOnce())


def test_an_answer_without_words_is_said(conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        end = torch.tensor([[conversation.processor.tokenizer.eos_token_id]])
        return torch.cat([input_ids, end], 1)

    monkeypatch.setattr(conversation.model, "generate", silent)
    assert talk(conversation, "Hello?") == "(no answer)\n"


def test_an_answer_begins_without_a_space(conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(question: str, on_text: Callable[[str], object]) -> str:
        for piece in ("", " ", " top ", " left"):
            on_text(piece)
        return "top  left"

    monkeypatch.setattr(conversation, "ask", ask)
    assert talk(conversation, "Where?") == "top  left\n"


def test_help_and_unknown_commands(conversation: Conversation) -> None:
    assert command(conversation, "/help") == HELP
    assert command(conversation, "/photo a.png") == f"error: unknown command /photo; {HELP}"
    assert command(conversation, "/image ") == "error: /image needs a path, for instance /image photo.jpg"


def test_a_path_with_a_tilde_or_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no picture at .*gone\.png"):
        open_picture("~/gone.png")
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"picture .*bad\.png cannot be decoded \(3 bytes\)"):
        open_picture(tmp_path / "bad.png")


def test_a_picture_in_memory_is_taken(conversation: Conversation) -> None:
    conversation.add_image(Image.new("RGBA", (20, 20), "red"))
    assert conversation.images["picture-0"].mode == "RGB"
    assert conversation.forget_waiting() == 1
    assert conversation.images == {}
