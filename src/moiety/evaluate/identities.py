"""Matches answers with questions: by the row's id and, if several rows share an id, also by what is asked."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moiety.evaluate.decoding import CONTEXT
from moiety.vlm.rows import Row, Turn

_SHORT = 8


@dataclass(frozen=True)
class Identity:
    """What a file of predictions stores to identify a row.

    Args:
        id: The row's own id.
        asked: Fingerprint of everything that a model is shown.
        question: Text of the question, if other rows have the same id.
    """

    id: str
    asked: str
    question: str | None = None


def told_apart(rows: Sequence[Row]) -> list[Row]:
    """The same rows with unique ids: ``id#fingerprint`` if several rows share an id, otherwise the id itself.

    The fingerprint is made from what is asked, so the ids do not depend on the order of the rows. Rows whose ids are
    unique already are not changed.

    Raises:
        ValueError: there are no rows, or two rows are equal in id and question.

    Example:
        >>> from moiety.vlm.rows import Turn
        >>> one, two = (Row(id="a", turns=(Turn("user", text),)) for text in ("Which digit?", "Which colour?"))
        >>> [row.id for row in told_apart([one, two])]
        ['a#e46326f7', 'a#d97702ff']
    """
    if not rows:
        raise ValueError("no rows to evaluate; give at least one question")
    counts = Counter(row.id for row in rows)
    found: list[Row] = []
    first: dict[str, list[Row]] = {}
    for row in rows:
        if counts[row.id] == 1:
            found.append(row)
            continue
        name = f"{row.id}#{asked(row)[:_SHORT]}"
        alike = first.setdefault(name, [])
        twin = next((other for other in alike if row.is_named and _is_same(row, other)), None)
        if twin is not None:
            raise ValueError(
                f"{row.place} has the id of {twin.place}; answers are kept by id: give each its own, or take out what "
                "stands twice"
            )
        alike.append(row)
        found.append(replace(row, id=name if len(alike) == 1 else f"{name}.{len(alike)}"))
    return found


def identity_of(row: Row) -> Identity:
    """The identity of a row of :func:`told_apart` in a file of predictions."""
    whole = asked(row)
    own = re.sub(rf"#{whole[:_SHORT]}(\.\d+)?$", "", row.id)
    return Identity(own, whole) if own == row.id else Identity(own, whole, _question(row))


def asked(row: Row) -> str:
    """A fingerprint of sixteen letters of all that the model is shown: turns, pictures and passage."""
    turns = [(turn.role, turn.text) for turn in prompt_turns(row)]
    text = json.dumps([turns, row.images, row.extra.get(CONTEXT)], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prompt_turns(row: Row) -> Sequence[Turn]:
    """The turns that a model is shown: all except the last answer."""
    turns = row.turns
    return turns[:-1] if turns and turns[-1].role == "assistant" else turns


def _question(row: Row) -> str:
    return next((turn.text for turn in reversed(row.turns) if turn.role == "user"), "")


def _is_same(row: Row, other: Row) -> bool:
    return replace(row, file="", line=0, column=0) == replace(other, file="", line=0, column=0)
