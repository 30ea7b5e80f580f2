"""A conversation keeps its turns and pictures, and a mistake costs one message."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from moiety.chat import Conversation, run_chat
from moiety.vlm.images import open_picture
from moiety.vlm.model import load
from moiety.vlm.templates import load_processor
from tests import model_folders


@pytest.fixture
def conversation() -> Conversation:
    folder = model_folders.sparse_folder()
    return Conversation(load(folder), load_processor(folder), max_new_tokens=3)


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


def test_a_pipe_is_read_to_its_end(conversation: Conversation) -> None:
    shown: list[str] = []
    lines = io.StringIO("one?\n\n/reset\ntwo?\n")
    assert run_chat(conversation, source=lines, write=shown.append, prompt="> ") == 2
    assert shown.count("> ") == 5
    assert "starting anew\n" in shown


def test_a_path_with_a_tilde_or_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no picture at .*gone\.png"):
        open_picture("~/gone.png")
    (tmp_path / "bad.png").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"picture .*bad\.png cannot be decoded \(3 bytes\)"):
        open_picture(tmp_path / "bad.png")
