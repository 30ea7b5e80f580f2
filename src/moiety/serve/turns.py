"""The model's time, shared token by token: a long answer never keeps other people waiting for its end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_AT_ONCE = 8
"""Answers that are made at the same time. Each one holds its keys and values in memory; further ones wait in line."""


class Ended(Exception):
    """The page or the server closes; no further token is made."""


class Turns:
    """One model, several answers: one answer computes at a time, and after each token the next one in line does.

    What a model of transformers leaves on a module between two tokens is put back by :mod:`moiety.vlm.positions`.

    Args:
        most: Answers that share the time. Those behind them wait until one of the first `most` ends.
    """

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self.most = most
        self._changed = threading.Condition()
        self._line: deque[object] = deque()  # the first one computes
        self._ended = False

    @property
    def num_answers(self) -> int:
        """Answers that compute or wait."""
        return len(self._line)

    @contextmanager
    def taken(self) -> Iterator[Callable[[], None]]:
        """Wait for a turn and hold it.

        Yields:
            A function to call after each token. It lets the others that share the time make one token each, then
            returns.

        Raises:
            Ended: the page or the server closes.
        """
        own = object()
        with self._changed:
            self._line.append(own)
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
        with self._changed:
            if len(self._line) > 1 and not self._ended:
                self._line.remove(own)
                self._line.insert(self.most - 1, own)  # behind those that share the time, before those that wait
                self._changed.notify_all()
            self._wait(own)

    def _wait(self, own: object) -> None:
        """Return once `own` is the first in line; the lock is held by the caller."""
        self._changed.wait_for(lambda: self._ended or self._line[0] is own)
        if self._ended:
            self._line.remove(own)
            raise Ended

    def _leave(self, own: object) -> None:
        with self._changed:
            if own in self._line:
                self._line.remove(own)
            self._changed.notify_all()
