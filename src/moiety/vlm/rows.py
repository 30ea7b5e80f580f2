"""Conversations on disk: LLaVA JSON or JSONL and the ``messages`` form, read into :class:`Row`.

Only the structure is judged here, with file and line; what a row says is judged by :mod:`moiety.vlm.check`.

A question may carry ``"order": 0``: it and its answer do not belong to the pictures, a hard negative for the order loss
of scheme ``asymoe``. ``"order": 1`` says what a missing mark says, that they belong.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moiety.groups import nearest_name
from moiety.json_reader import parse_json

IMAGE_MARK = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_OWN_KEYS = frozenset({"id", "image", "images", "conversations", "messages", "type", "answers", "choices"})
_SHOWN = 20


@dataclass(frozen=True)
class Turn:
    """One utterance: role ``user``, ``assistant`` or (first only) ``system``; pictures stand as ``<image>`` marks.

    Args:
        role: Who speaks.
        text: What is said.
        order: Of a question: whether it and its answer belong to the pictures before them, for the entailment order of
            scheme ``asymoe``; False marks a hard negative. None: it says nothing, and they belong.
    """

    role: str
    text: str
    order: bool | None = None


@dataclass(frozen=True)
class Row:
    """One conversation.

    Args:
        id: Name of the row, unique in a data set.
        turns: The conversation in order.
        images: Names of its pictures in the order of the marks.
        type: Kind of question; None where the turns differ.
        answers: Accepted answers to the last question, the first one is the reference.
        choices: Options of a multiple-choice question, in the order A, B, C, ...
        file: Where the row was read; with `line` (1-based) the place that errors name.
        extra: All other fields of the row.
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

    @property
    def num_marks(self) -> int:
        """Image marks in the turns of the user."""
        return sum(turn.text.count(IMAGE_MARK) for turn in self.turns if turn.role == "user")

    @property
    def place(self) -> str:
        """``file:line`` and the id, for messages."""
        return f"{self.file}:{self.line}: row {self.id!r}" if self.file else f"row {self.id!r}"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row, and where it stands."""

    file: str
    line: int
    id: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: " + (f"row {self.id!r}: " if self.id else "") + self.text


class BadRows(ValueError):
    """Rows cannot be used. `problems` holds all of them, the text the first twenty."""

    def __init__(self, problems: Sequence[Problem], what: str = "rows cannot be read") -> None:
        self.problems = tuple(problems)
        shown = [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            shown.append(f"  ... and {len(self.problems) - _SHOWN} more")
        super().__init__("\n".join([f"{len(self.problems)} {what}:", *shown]))


def load_rows(files: Iterable[str | Path], merge_turns: bool = False, seed: int | None = None) -> list[Row]:
    """Read conversation files in order.

    Args:
        files: LLaVA JSON (one list) or JSONL (one row a line), or the same with ``messages``.
        merge_turns: Join all rows of one picture into one conversation, see :func:`merge_rows`.
        seed: Order of the joined rows, see :func:`merge_rows`.

    Raises:
        FileNotFoundError: there is no such file.
        BadRows: a row has not the structure of a conversation; all such rows are named with file and line.
    """
    rows, problems = read_rows(files)
    if problems:
        raise BadRows(problems)
    return merge_rows(rows, seed) if merge_turns else rows


def read_ids(path: str | Path) -> frozenset[str]:
    """Row ids of a list that ``moiety data check --fix-list`` wrote, one a line.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no list of row ids at {path}; write one with `moiety data check RECIPE --fix-list FILE`"
        )
    return frozenset(line for line in Path(path).read_text(encoding="utf-8").splitlines() if line)


def read_rows(files: Iterable[str | Path], skip: Collection[str] = ()) -> tuple[list[Row], list[Problem]]:
    """Read what can be read; structural problems are returned, not raised.

    Args:
        files: Conversation files.
        skip: Ids of rows that are passed over.

    Raises:
        FileNotFoundError: there is no such file.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    for file in map(str, files):
        for line, entry in _entries(file):
            try:
                if isinstance(entry, json.JSONDecodeError):
                    raise ValueError(f"not JSON: {entry.msg} (column {entry.colno})")
                row = parse_row(entry, file, line)
                if row.id not in skip:
                    rows.append(row)
            except ValueError as error:
                name = str(entry.get("id", "")) if isinstance(entry, dict) else ""
                if not name or name not in skip:
                    problems.append(Problem(file, line, name, str(error)))
    return rows, problems


def parse_row(entry: Any, file: str = "", line: int = 0) -> Row:
    """One decoded JSON object as a :class:`Row`. A row without an id is named after its file and line.

    Raises:
        ValueError: it has not the structure of a conversation.

    Example:
        >>> row = parse_row({"id": 1, "image": "a.png", "conversations": [
        ...     {"from": "human", "value": "<image>\\nWhich digit?"}, {"from": "gpt", "value": "7"}]})
        >>> row.id, row.images, row.turns[1].role, row.num_marks
        ('1', ('a.png',), 'assistant', 1)
    """
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with 'conversations' or 'messages', got {type(entry).__name__}")
    spoken = [key for key in ("conversations", "messages") if key in entry]
    if len(spoken) != 1:
        raise ValueError(f"expected one of 'conversations' and 'messages', got the keys {sorted(entry)}")
    turns, pictures = _turns(entry[spoken[0]], spoken[0])
    named = [key for key in ("image", "images") if entry.get(key) is not None]
    if len(named) + bool(pictures) > 1:
        raise ValueError("pictures are named in more than one place: use 'image', 'images' or the content parts")
    return Row(
        id=str(entry.get("id", f"{Path(file).stem}-{line}")),
        turns=turns,
        images=_texts(entry, named[0]) if named else pictures,
        type=_optional_text(entry, "type"),
        answers=_texts(entry, "answers"),
        choices=_texts(entry, "choices"),
        file=file,
        line=line,
        extra={key: value for key, value in entry.items() if key not in _OWN_KEYS},
    )


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


def _entries(file: str) -> Iterator[tuple[int, Any]]:
    """Line number and decoded value of every row; a row that is not JSON comes as its JSONDecodeError."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"no conversation file at {file}; a recipe's files are relative to data.root")
    text = Path(file).read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        yield from _array_entries(text)
        return
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield line, parse_json(content)
            except json.JSONDecodeError as error:
                yield line, error


def _array_entries(text: str) -> Iterator[tuple[int, Any]]:
    """Entries of one JSON array, each with the line it begins on (which ``json.loads`` does not tell)."""
    try:
        parse_json(text)
    except json.JSONDecodeError as error:
        yield error.lineno, error  # behind a broken entry the rest of an array cannot be found
        return
    decoder, gap = json.JSONDecoder(), re.compile(r"[\s,\]]*")
    position, line, counted = text.index("[") + 1, 1, 0
    while (position := _end_of(gap, text, position)) < len(text):
        line, counted = line + text.count("\n", counted, position), position
        entry, position = decoder.raw_decode(text, position)
        yield line, entry


def _end_of(pattern: re.Pattern[str], text: str, position: int) -> int:
    matched = pattern.match(text, position)
    return matched.end() if matched else position


def _turns(spoken: Any, key: str) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """Turns, and the pictures named inside content parts."""
    if not isinstance(spoken, list) or not spoken:
        raise ValueError(f"{key!r} must be a list of at least one turn, got {spoken!r:.80}")
    role_key, text_key = ("from", "value") if key == "conversations" else ("role", "content")
    turns, pictures = [], []
    for number, turn in enumerate(spoken, start=1):
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            raise ValueError(f"turn {number} must have {role_key!r} and {text_key!r}, got {turn!r:.80}")
        if turn[role_key] not in ROLES:
            raise ValueError(f"turn {number}: role {turn[role_key]!r}; {nearest_name(str(turn[role_key]), ROLES)}")
        text, named = _content(turn[text_key], number)
        turns.append(Turn(ROLES[turn[role_key]], text, _order(turn, ROLES[turn[role_key]], number)))
        pictures += named
    return tuple(turns), tuple(pictures)


def _order(turn: dict[str, Any], role: str, number: int) -> bool | None:
    """The mark ``order`` of one turn."""
    mark = turn.get("order")
    if mark is None:
        return None
    if role != "user":
        raise ValueError(f"turn {number}: 'order' stands on a turn of the {role}; put it on the question before")
    if type(mark) is not int or mark not in (0, 1):
        raise ValueError(
            f"turn {number}: 'order' must be 1 (question and answer belong to the pictures) or 0 (they do not), "
            f"got {mark!r:.80}"
        )
    return bool(mark)


def _content(content: Any, number: int) -> tuple[str, list[str]]:
    """Text of one turn with marks, and the pictures its parts name. Parts are joined by line breaks."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise ValueError(f"turn {number}: content must be text or a list of parts, got {content!r:.80}")
    texts, pictures = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image":
            texts.append(IMAGE_MARK)
            pictures += [part[key] for key in ("image", "path", "url") if isinstance(part.get(key), str)][:1]
        else:
            raise ValueError(f"turn {number}: a content part must be of type text or image, got {part!r:.80}")
    return "\n".join(texts), pictures


def _texts(entry: dict[str, Any], key: str) -> tuple[str, ...]:
    """A text or a list of texts."""
    value = entry.get(key)
    values = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) and text for text in values):
        raise ValueError(f"{key!r} must be a text or a list of texts, got {value!r:.80}")
    return tuple(values)


def _optional_text(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key!r} must be a text, got {value!r:.80}")
    return value
