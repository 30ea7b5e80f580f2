"""The model's time, handed round token by token: a long answer never keeps another person waiting for its end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Ended(Exception):
    """The page closes; no further token is made."""


class Turns:
    """One model for several answers: one computes at a time, and after each token the next one that waits.

    What a model of transformers leaves on a module between two tokens is put back by :mod:`moiety.vlm.positions`.

    Args:
        model: The model that all of them use.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._changed = threading.Condition()
        self._line: deque[object] = deque()  # the first one computes
        self._ended = False

    @contextmanager
    def taken(self) -> Iterator[Callable[[], None]]:
        """Wait for a turn and hold it.

        Returns:
            What to call after each token: the others that wait make a token each, then it comes back.

        Raises:
            Ended: the page closes.
        """
        own = object()
        self._wait(own)
        try:
            yield lambda: self._hand_on(own)
        finally:
            self._leave(own)

    def end(self) -> None:
        """End every answer at its next token, and let none begin."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _hand_on(self, own: object) -> None:
        if len(self._line) > 1 and not self._ended:
            self._leave(own)
            self._wait(own)
        if self._ended:
            raise Ended

    def _wait(self, own: object) -> None:
        with self._changed:
            self._line.append(own)
            self._changed.wait_for(lambda: self._ended or self._line[0] is own)
            if self._ended:
                self._line.remove(own)
                raise Ended

    def _leave(self, own: object) -> None:
        with self._changed:
            if own in self._line:
                self._line.remove(own)
            self._changed.notify_all()
