"""Puts questions into windows: equal questions once, those about one picture together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from moiety.evaluate.decoding import CONTEXT
from moiety.evaluate.identities import prompt_turns
from moiety.vlm.images import Pictures
from moiety.vlm.problems import BadRows, Problem
from moiety.vlm.rows import Row

AHEAD = 4
"""Batches of questions that are put in order of their length together."""


def check_pictures(rows: Sequence[Row], images: Pictures) -> None:
    """Decode every picture once, so that a bad one is known before the first question is asked.

    Args:
        rows: Rows that will be asked.
        images: Name -> picture.

    Raises:
        BadRows: a picture is missing or cannot be decoded. The text names every such row.
    """
    faults: dict[str, str] = {}
    for name in dict.fromkeys(name for row in rows for name in row.images):
        try:
            images[name]
        except (OSError, KeyError, ValueError) as error:
            faults[name] = f"picture {name!r} is missing" if isinstance(error, KeyError) else str(error)
    problems = [
        Problem(row.file, row.line, row.id, faults[name], row.column)
        for row in rows
        for name in dict.fromkeys(row.images)
        if name in faults
    ]
    if problems:
        raise BadRows(problems, "rows cannot be asked; mend the pictures or take the rows out")


class Shown:
    """Tells what a row shows: the names of its pictures or, if they are replaced by blank ones, their sizes.

    Args:
        images: Name -> picture.
        blank_image: Whether pictures are replaced.
    """

    def __init__(self, images: Pictures, blank_image: bool) -> None:
        self._images, self._blank = images, blank_image
        self._sizes: dict[str, tuple[int, int]] = {}

    def __call__(self, row: Row) -> tuple[Hashable, ...]:
        """Rows with equal results see equal pictures; empty without pictures."""
        return tuple(self._size(name) if self._blank else name for name in row.images)

    def _size(self, name: str) -> tuple[int, int]:
        if name not in self._sizes:
            self._sizes[name] = self._images[name].size
        return self._sizes[name]


def windows(rows: Sequence[Row], shown: Shown, batch_size: int) -> Iterator[list[list[Row]]]:
    """Windows of groups of rows that get the same answer. A window holds the pictures that are kept at one time.

    All questions about a picture are in one window, next to each other, the short ones first. A window holds at most
    `batch_size` pictures, and at most :data:`AHEAD` batches unless one picture has more questions. Pictures with
    questions of similar length come together, so that little is padded.

    Args:
        rows: Rows of :func:`moiety.evaluate.identities.told_apart`.
        shown: Tells what a row shows.
        batch_size: Questions that are asked at once.
    """
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        turns = tuple((turn.role, turn.text) for turn in prompt_turns(row))
        groups.setdefault((turns, shown(row), row.extra.get(CONTEXT)), []).append(row)
    of_picture: dict[Hashable, list[list[Row]]] = {}
    for same in groups.values():
        of_picture.setdefault(shown(same[0]) or same[0].id, []).append(same)
    for questions in of_picture.values():
        questions.sort(key=_length)
    window: list[list[Row]] = []
    pictures = 0
    for questions in sorted(of_picture.values(), key=lambda questions: _length(questions[-1])):
        if window and (pictures == batch_size or len(window) + len(questions) > AHEAD * batch_size):
            yield window
            window, pictures = [], 0
        window, pictures = window + questions, pictures + 1
    if window:
        yield window


def cut(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Parts of at most `size` items, as equal in number as can be.

    Example:
        >>> list(cut([1, 2, 3, 4, 5], 4))
        [[1, 2, 3], [4, 5]]
    """
    parts = -(-len(items) // size)
    for part in range(parts):
        short = -(-len(items) * part // parts)
        yield items[short : -(-len(items) * (part + 1) // parts)]


def _length(same: Sequence[Row]) -> tuple[int, int]:
    """Number of pictures and of characters of a question."""
    return len(same[0].images), sum(len(turn.text) for turn in prompt_turns(same[0]))
