"""``moiety chat`` as a person meets it: in a terminal, with Ctrl-C and Ctrl-D."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import model_folders

pytestmark = [pytest.mark.browser, pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")]
MARKS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class Terminal:
    """A program in a pseudo-terminal: keys in, text out."""

    def __init__(self, *words: object) -> None:
        import pty

        self.end, slave = pty.openpty()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moiety", *map(str, words)],
            stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def until(self, ending: str, seconds: float = 120) -> str:
        """What was shown since the last call, once it ends so."""
        stop = time.monotonic() + seconds
        while not self.text.endswith(ending):
            assert time.monotonic() < stop, f"did not end with {ending!r}: {self.text!r}"
            if select.select([self.end], [], [], 0.2)[0]:
                try:
                    self.text += MARKS.sub("", os.read(self.end, 4096).decode(errors="replace"))
                except OSError:  # Linux: the other end is closed
                    break
        shown, self.text = self.text, ""
        return shown

    def press(self, keys: str) -> None:
        os.write(self.end, keys.encode())


def _take_terminal() -> None:
    """Makes the terminal the one whose Ctrl-C reaches the program."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def chat() -> Iterator[Callable[[int], Terminal]]:
    """Starts a chat whose answers have at most so many tokens, and waits for its prompt."""
    begun: list[Terminal] = []

    def begin(longest: int) -> Terminal:
        begun.append(Terminal("chat", model_folders.sparse_folder(), "--max-new-tokens", longest))
        assert "/image PATH adds a picture" in begun[0].until("> ")
        return begun[0]

    yield begin
    for terminal in begun:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.end)


def test_mistakes_and_ctrl_c_cost_a_line_and_ctrl_d_ends(chat: Callable[[int], Terminal], tmp_path: Path) -> None:
    talk = chat(3)
    talk.press(f"/image {tmp_path / 'gone.png'}\n")
    assert f"error: no picture at {tmp_path / 'gone.png'}\n" in talk.until("\n> ")
    talk.press(f"/image '{model_folders.picture_file()}'\n")
    assert f"{model_folders.picture_file()} goes with your next question" in talk.until("\n> ")
    talk.press("\n")
    assert talk.until("\n> ") == "\n> "
    talk.press("Where?\n")
    assert len(talk.until("\n> ").splitlines()) >= 3
    talk.press("half a questi")
    talk.until("half a questi")
    time.sleep(0.5)  # a signal between two looks of readline at the keyboard would wait for the next key
    talk.press("\x03")
    assert "Ctrl-C stops an answer; /quit or Ctrl-D leaves\n" in talk.until("\n> ")
    talk.press("/what\n")
    assert "error: unknown command /what" in talk.until("\n> ")
    talk.press("\x04")
    assert talk.process.wait(20) == 0


def test_ctrl_c_stops_an_answer(chat: Callable[[int], Terminal]) -> None:
    talk = chat(4000)
    talk.press("Where?\n")
    time.sleep(1)
    talk.press("\x03")
    assert "stopped; the question is forgotten" in talk.until("\n> ")
    talk.press("/quit\n")
    assert talk.process.wait(20) == 0
