"""The model's time, shared token by token: a long answer never keeps other people waiting for its end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_AT_ONCE = 8
"""Answers that are made at the same time. Each one holds its keys and values in memory; further ones wait in line."""


class Ended(Exception):
    """No further token is made: the page or the server closes, or nobody waits for the answer."""


class _Place:
    """A place in the line.

    Args:
        is_brief: Whether it goes before all answers that wait.
        given_up: Whether nobody waits for it any more.
    """

    def __init__(self, is_brief: bool, given_up: Callable[[], bool]) -> None:
        self.is_brief, self.given_up = is_brief, given_up


class Turns:
    """One model, several answers: one answer computes at a time, and after each token the next one in line does.

    What a model of transformers leaves on a module between two tokens is put back by :mod:`moiety.vlm.positions`.

    Args:
        most: Answers that share the time. Those behind them wait until one of the first `most` ends.
    """

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self.most = most
        self._changed = threading.Condition()
        self._line: deque[_Place] = deque()  # the first one computes
        self._ended = False

    @property
    def num_answers(self) -> int:
        """Answers that compute or wait."""
        return len(self._line)

    @contextmanager
    def taken(
        self, *, is_brief: bool = False, given_up: Callable[[], bool] = lambda: False
    ) -> Iterator[Callable[[], None]]:
        """Wait for a turn and hold it.

        Args:
            is_brief: For work that takes no longer than a token: it waits for that token and other brief work only.
            given_up: Whether nobody waits for the answer any more; asked after each token of the others.

        Yields:
            A function to call after each token. It lets the others that share the time make one token each, then
            returns.

        Raises:
            Ended: the page or the server closes, or `given_up` became true.
        """
        own = _Place(is_brief, given_up)
        with self._changed:
            places = range(1, len(self._line)) if is_brief else ()
            self._line.insert(next((place for place in places if not self._line[place].is_brief), len(self._line)), own)
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

    def _hand_on(self, own: _Place) -> None:
        with self._changed:
            if len(self._line) > 1 and not self._ended:
                self._line.remove(own)
                num_brief = sum(place.is_brief for place in self._line)
                self._line.insert(num_brief + self.most - 1, own)  # behind those that share the time
                self._changed.notify_all()
            self._wait(own)

    def _wait(self, own: _Place) -> None:
        """Return once `own` is the first in line; the lock is held by the caller."""
        self._changed.wait_for(lambda: self._ended or own.given_up() or self._line[0] is own)
        if self._ended or own.given_up():
            self._line.remove(own)
            self._changed.notify_all()
            raise Ended

    def _leave(self, own: _Place) -> None:
        with self._changed:
            if own in self._line:
                self._line.remove(own)
            self._changed.notify_all()
