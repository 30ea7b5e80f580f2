"""Rows files: which clip says what, with which label, in which split. JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from moiety.groups import nearest_name
from moiety.records.text_files import TextFileError, read_text

GROUP_NAMES = ("group", "person", "speaker", "session")
"""Names that a file may use for the field ``group``."""
_WORDS = ("key", "text", "label", "split", "group")


@dataclass(frozen=True)
class ClipRow:
    """One utterance as a clip on the disk.

    Args:
        key: Name of the row in every message; no two rows have the same.
        clip: Media file with pictures, sound or both; None: there is none.
        text: What is said; None: not known.
        audio: File with the sound, used instead of the sound of the clip; None: the sound of the clip is used.
        start_s: Start of the utterance in clip and audio, seconds from the start of the file.
        end_s: End of the utterance, seconds from the start of the file; None: the end of the file.
        label: The intent; None: not known.
        split: ``train``, ``dev``, ``test`` or another name; None: the file has no splits.
        group: The speaker, or the session. Where ``intent compare`` divides rows, rows of one group stay together. A
            file may call this field ``person``, ``speaker`` or ``session``.
    """

    key: str
    clip: Path | None = None
    text: str | None = None
    audio: Path | None = None
    start_s: float = 0.0
    end_s: float | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None

    @classmethod
    def of(cls, tree: Mapping[str, Any], folder: Path) -> ClipRow:
        """A row from a mapping. Blank strings and null count as not given.

        Args:
            tree: Names of fields -> values. Numbers may be written as text.
            folder: Relative paths start at this folder.

        Raises:
            ValueError: a name is unknown, there is no key or no input, or a value cannot be used.
        """
        known = [field.name for field in fields(cls)]
        grouped = [name for name in tree if name in GROUP_NAMES]
        if len(grouped) > 1:
            raise ValueError(f"{' and '.join(grouped)} both name the group of the row; give one of them")
        tree = {"group" if name in grouped else name: value for name, value in tree.items()}
        for name in tree:
            if name not in known:
                raise ValueError(f"unknown field {name!r}; {nearest_name(str(name), known)}")
        given = {name: value for name, value in tree.items() if value is not None and str(value).strip()}
        words = {name: _text(name, given[name]) for name in _WORDS if name in given}
        paths = {name: folder / _text(name, given[name]) for name in ("clip", "audio") if name in given}
        seconds = {name: _seconds(name, given[name]) for name in ("start_s", "end_s") if name in given}
        if "key" not in words:
            raise ValueError("no key; give each row a key that no other row has")
        if not paths and "text" not in words:
            raise ValueError("no clip, audio or text; give at least one")
        start, end = seconds.get("start_s", 0.0), seconds.get("end_s")
        if end is not None and end <= start:
            raise ValueError(f"end_s {end:g} is not after start_s {start:g}; give a later end")
        return cls(**words, **paths, **seconds)  # type: ignore[arg-type]


class RowsError(ValueError):
    """Rows that cannot be used.

    Args:
        where: The file or the list that was read.
        problems: All problems: line or key, and the reason.
    """

    def __init__(self, where: str, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = list(problems)
        super().__init__(f"{where}: {listed(self.problems)}")


def listed(problems: Sequence[tuple[str, str]], most: int = 20) -> str:
    """Problems as one sentence: how many there are, then each name with its reason.

    Example:
        >>> listed([("a", "no key"), ("b", "no text")])
        '2 problems: a: no key; b: no text'
    """
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"{count}: " + "; ".join(f"{name}: {reason}" for name, reason in problems[:most]) + more


def read_clip_rows(path: str | Path) -> list[ClipRow]:
    """Rows of a file, in its order.

    Args:
        path: A ``.jsonl`` file with one object on each line, or a ``.csv`` file with a head. The fields are those of
            :class:`ClipRow`. Relative paths in it start at its folder. Whether the media files exist is checked later.

    Raises:
        FileNotFoundError: there is no such file.
        RowsError: lines cannot be used, or keys are repeated; all problems are listed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no rows file at {path}; give a .jsonl or .csv with key, clip, text")
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise RowsError(str(path), [("name", f"ends in {path.suffix!r}; rows are read from .jsonl or .csv")])
    try:
        text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    except TextFileError as error:
        raise RowsError(str(path), [(error.place, error.reason)]) from error
    problems: list[tuple[str, str]] = []
    rows: list[ClipRow] = []
    lines: dict[str, str] = {}
    for line, read in (_csv if path.suffix.lower() == ".csv" else _jsonl)(text):
        try:
            row = ClipRow.of(read(), path.parent)
        except ValueError as error:
            problems.append((line, str(error)))
            continue
        if row.key in lines:
            problems.append((line, f"key {row.key!r} is also the key of {lines[row.key]}; give another one"))
        lines.setdefault(row.key, line)
        rows.append(row)
    if problems:
        raise RowsError(str(path), problems)
    if not rows:
        raise RowsError(str(path), [("file", "it holds no rows")])
    return rows


Line = tuple[str, Callable[[], Mapping[str, Any]]]
"""Name of a line, and a function that reads its fields or raises ValueError."""


def _jsonl(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", partial(_object, line)


def _object(line: str) -> Mapping[str, Any]:
    try:
        tree = json.loads(line, object_pairs_hook=_unrepeated)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at letter {error.pos + 1})") from error
    except RecursionError as error:
        raise ValueError("no row: nested too deep") from error
    if not isinstance(tree, Mapping):
        raise ValueError(f"{type(tree).__name__}, expected an object with key, clip, text")
    return tree


def _unrepeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is given twice; give it once")
    return dict(pairs)


def _csv(text: str) -> Iterator[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head: list[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"line {reader.line_num}", partial(_refuse, f"no CSV ({error})")
            return
        if head is None:
            head = [name.strip() for name in cells]
        elif any(cell.strip() for cell in cells):
            yield f"line {reader.line_num}", partial(_cells, head, cells)


def _cells(head: Sequence[str], cells: Sequence[str]) -> Mapping[str, Any]:
    if len(cells) != len(head):
        raise ValueError(f"{len(cells)} fields, the head has {len(head)}")
    return _unrepeated(list(zip(head, cells, strict=True)))


def _refuse(reason: str) -> Mapping[str, Any]:
    raise ValueError(reason)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str | Path):
        raise ValueError(f"{name} is {type(value).__name__} {value!r}, expected text")
    if "\0" in str(value):
        raise ValueError(f"{name} holds a zero byte; remove it")
    half = next((place for place, letter in enumerate(str(value)) if "\ud800" <= letter <= "\udfff"), None)
    if half is not None:
        raise ValueError(f"{name} holds half a character (letter {half + 1}, {str(value)[half]!a}); write it again")
    return str(value).strip()


def _seconds(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} is {value!r}, expected seconds, 0 or more")
    return number
