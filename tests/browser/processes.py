"""Programs of ours in processes of their own, and what they say."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator


class Running:
    """A ``moiety`` command that runs; its lines on stderr are read as they come."""

    def __init__(self, *words: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moiety", *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.said: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, beginning: str, seconds: float = 120) -> str:
        """The first line that begins so; what was said instead is in the error."""
        with contextlib.suppress(queue.Empty):
            while (line := self._lines.get(timeout=seconds)) is not None:
                self.said.append(line)
                if line.startswith(beginning):
                    return line
        raise AssertionError(f"nothing began with {beginning!r}: {self.said}")

    def end(self) -> int:
        """Ask it to stop; the exit status."""
        self.process.terminate()
        status = self.process.wait(20)
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@contextlib.contextmanager
def running(*words: object) -> Iterator[Running]:
    """A command that is stopped in the end."""
    program = Running(*words)
    try:
        yield program
    finally:
        program.end()
