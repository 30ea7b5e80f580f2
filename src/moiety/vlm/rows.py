"""Conversations on disk: LLaVA JSON or JSONL, the ``messages`` form, or parquet, read into :class:`Row`.

Only the structure is checked here. The content of a row is checked by :mod:`moiety.vlm.check`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moiety.vlm.inline_pictures import picture_in
from moiety.vlm.problems import BadRows, Problem, place_of, shown
from moiety.vlm.row_files import Entry, Unreadable, entries
from moiety.vlm.row_keys import half_characters, is_system, refuse_row_keys, says_nothing
from moiety.vlm.skips import NO_SKIPS, Skips
from moiety.vlm.turns import IMAGE_MARK, ROLES, Turn, turns_of

__all__ = [
    "IMAGE_MARK",
    "ROLES",
    "BadRows",
    "Problem",
    "Row",
    "Turn",
    "load_rows",
    "merge_rows",
    "parse_row",
    "read_rows",
]

_OWN_KEYS = frozenset({"id", "image", "images", "conversations", "messages", "type", "answers", "choices"})
_TEXTS_READ_LATER = ("prior_answer", "context")


@dataclass(frozen=True)
class Row:
    """One conversation.

    Args:
        id: Name of the row in messages and predictions; several rows may share one.
        turns: The conversation in order.
        images: Names of its pictures in the order of the marks.
        type: Kind of question; None where the turns differ.
        answers: Accepted answers to the last question, the first one is the reference.
        choices: Options of a multiple-choice question, in the order A, B, C, ...
        file: Where the row was read; with `line` (1-based) and `column` the place that errors name.
        extra: All other fields of the row.
        column: Where the row begins in its line; 0 for the first one there.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()
    type: str | None = None
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    file: str = ""
    line: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    column: int = 0

    @property
    def num_marks(self) -> int:
        """Image marks in the turns of the user."""
        return sum(turn.text.count(IMAGE_MARK) for turn in self.turns if turn.role == "user")

    @property
    def where(self) -> tuple[str, int, int]:
        """File, line and column: what tells two rows apart."""
        return self.file, self.line, self.column

    @property
    def place(self) -> str:
        """``file:line`` and the id, for messages."""
        name = f"row {shown(self.id)}"
        return f"{place_of(*self.where)}: {name}" if self.file else name

    @property
    def is_named(self) -> bool:
        """Whether the row came with an id of its own."""
        return self.id != _name_of(*self.where)


def load_rows(files: Iterable[str | Path], merge_turns: bool = False, seed: int | None = None) -> list[Row]:
    """Read conversation files in order.

    Args:
        files: LLaVA JSON (one list) or JSONL (one row a line), the same with ``messages``, or parquet.
        merge_turns: Join all rows of one picture into one conversation, see :func:`merge_rows`.
        seed: Order of the joined rows, see :func:`merge_rows`.

    Raises:
        FileNotFoundError: there is no such file.
        BadRows: rows do not have the structure of a conversation; all of them are named with file and line.
    """
    rows, problems = read_rows(files)
    if problems:
        raise BadRows(problems)
    return merge_rows(rows, seed) if merge_turns else rows


def read_rows(files: Iterable[str | Path], skip: Skips = NO_SKIPS) -> tuple[list[Row], list[Problem]]:
    """Read all rows that can be read. Problems of structure are returned, not raised.

    Args:
        files: Conversation files.
        skip: Rows that are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `skip` was written for other files than these.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    passed: list[tuple[str, str]] = []
    for file in map(str, files):
        for entry in entries(file):
            found = _read(entry, file)
            if skip.holds(entry, file, found.id):
                passed.append((found.id, place_of(file, entry.line, entry.column)))
            elif isinstance(found, Row):
                rows.append(found)
            else:
                problems.append(found)
    skip.refuse_shared(passed)
    return rows, problems


def _read(entry: Entry, file: str) -> Row | Problem:
    value, where = entry.value, (file, entry.line)
    if isinstance(value, Unreadable):
        return Problem(*where, "", value.text, entry.column, value.whole)
    try:
        return parse_row(value, *where, entry.column)
    except ValueError as error:
        name = value.get("id") if isinstance(value, dict) else None
        return Problem(*where, "" if says_nothing(name) else _printable(str(name)), str(error), entry.column)


def parse_row(entry: Any, file: str = "", line: int = 0, column: int = 0) -> Row:
    """One decoded JSON object as a :class:`Row`. A row without an id is named after its file and line.

    Raises:
        ValueError: it does not have the structure of a conversation, or it holds a key that is refused, see
            ``docs/rows.md``.

    Example:
        >>> row = parse_row({"id": 1, "image": "a.png", "conversations": [
        ...     {"from": "human", "value": "<image>\\nWhich digit?"}, {"from": "gpt", "value": "7"}]})
        >>> row.id, row.images, row.turns[1].role, row.num_marks
        ('1', ('a.png',), 'assistant', 1)
    """
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with 'conversations' or 'messages', got {type(entry).__name__}")
    turns, inside = turns_of(entry)
    named = [key for key in ("image", "images") if not says_nothing(entry.get(key))]
    if len(named) + bool(inside) > 1:
        raise ValueError("pictures are named in more than one place: use 'image', 'images' or the content parts")
    images = _pictures(entry[named[0]], named[0]) if named else inside
    refuse_row_keys(entry, bool(images), "\n".join(turn.text for turn in turns))
    row = Row(
        id=_name(entry.get("id")) or _name_of(file, line, column),
        turns=turns,
        images=images,
        type=_optional_text(entry, "type"),
        answers=_texts(entry, "answers"),
        choices=_texts(entry, "choices"),
        file=file,
        line=line,
        extra={key: value for key, value in entry.items() if key not in _OWN_KEYS and not is_system(key)},
        column=column,
    )
    half = half_characters(_written(row))
    if half:
        raise ValueError(half)
    return row


def _name(given: Any) -> str:
    """The id of a row; empty where it has none.

    Raises:
        ValueError: it is neither a text nor a whole number.
    """
    if says_nothing(given) or given != given:  # a table writes a missing number as NaN
        return ""
    whole = isinstance(given, float) and given.is_integer()  # and a whole number beside a missing one as 7.0
    if isinstance(given, bool) or not (whole or isinstance(given, str | int)):
        raise ValueError(f"'id' must be a text or a whole number, got {shown(given)}; mend it, or leave the key out")
    return str(given).strip()


def _name_of(file: str, line: int, column: int) -> str:
    """What a row without an id is called."""
    return f"{Path(file).stem}-{line}" + f"-{column}" * bool(column)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _written(row: Row) -> Iterator[tuple[str, str]]:
    """Every text of a row that a tokenizer or a file may get, and what to call its place."""
    yield "'id'", row.id
    yield from ((f"turn {number}", turn.text) for number, turn in enumerate(row.turns, start=1))
    yield from (("'image'", name) for name in row.images)
    yield "'type'", row.type or ""
    yield from (("'answers'", text) for text in row.answers)
    yield from (("'choices'", text) for text in row.choices)
    yield from ((repr(key), str(row.extra[key])) for key in _TEXTS_READ_LATER if key in row.extra)


def _pictures(value: Any, key: str) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | bytes | dict) and one for one in listed):
        raise ValueError(f"{key!r} must be a text or a list of texts, got {shown(value)}")
    try:
        return tuple(picture_in(one) for one in listed)
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}") from error


def merge_rows(rows: Sequence[Row], seed: int | None = None) -> list[Row]:
    """Join the rows of one picture into one conversation, so that the picture is read once for all its questions.

    Rows with equal pictures (and equal system sentence) follow each other in their order, at the place of the first.
    Image marks stay in the first row only. The joined row keeps the id and place of the first; its type is None and
    ``extra["merged"]`` lists id and type of each part. Rows without a picture, and rows whose marks do not fit their
    pictures (a later check reports those), stay alone.

    In a joined conversation a later question can be answered from an earlier answer. Where files always ask in the same
    order, shuffle, so that every kind of question also comes first.

    Args:
        rows: One question each, or several.
        seed: Shuffle the rows of each picture by this seed; None keeps their order.
    """
    shuffle = None if seed is None else random.Random(seed).shuffle
    together: dict[object, list[Row]] = {}
    for number, row in enumerate(rows):
        system = tuple(turn for turn in row.turns if turn.role == "system")
        fits = row.images and row.num_marks == len(row.images)
        together.setdefault((row.images, system) if fits else number, []).append(row)
    for parts in together.values():
        if shuffle:
            shuffle(parts)
    return [parts[0] if len(parts) == 1 else _joined(parts) for parts in together.values()]


def _joined(parts: Sequence[Row]) -> Row:
    turns = list(parts[0].turns)
    for part in parts[1:]:
        spoken = (turn for turn in part.turns if turn.role != "system")
        turns += [replace(turn, text=_without_marks(turn.text)) if turn.role == "user" else turn for turn in spoken]
    merged = [{"id": part.id, "type": part.type} for part in parts]
    return replace(parts[0], turns=tuple(turns), type=None, answers=(), choices=(), extra={"merged": merged})


def _without_marks(text: str) -> str:
    return re.sub(rf"{IMAGE_MARK}\n?", "", text)


def _texts(entry: dict[str, Any], key: str) -> tuple[str, ...]:
    """A text or a list of texts."""
    value = entry.get(key)
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) and text for text in values):
        raise ValueError(f"{key!r} must be a text or a list of texts, got {shown(value)}")
    return tuple(values)


def _optional_text(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key!r} must be a text, got {shown(value)}")
    return value
