"""Puts questions into batches: equal questions once, those about one picture together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from moiety.evaluate.decoding import CONTEXT
from moiety.evaluate.identities import prompt_turns
from moiety.vlm.images import Pictures
from moiety.vlm.problems import BadRows, Problem
from moiety.vlm.rows import Row


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


def batches(rows: Sequence[Row], shown: Shown, batch_size: int) -> Iterator[list[list[Row]]]:
    """Batches of groups of rows that get the same answer.

    Questions about one picture come together, because their openings are computed once. Pictures with questions of
    similar length come together, so that little is padded.
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
    ordered = sorted(of_picture.values(), key=lambda questions: _length(questions[-1]))
    batch: list[list[Row]] = []
    for questions in ordered:
        if batch and len(batch) + len(questions) > batch_size:
            yield batch
            batch = []
        batch += questions
        while len(batch) > batch_size:
            yield batch[:batch_size]
            batch = batch[batch_size:]
    if batch:
        yield batch


def _length(same: Sequence[Row]) -> tuple[int, int]:
    """Number of pictures and of characters of a question."""
    return len(same[0].images), sum(len(turn.text) for turn in prompt_turns(same[0]))
