"""The entries of conversation files: JSON (one list), JSON lines, and parquet in the form of the Hugging Face Hub."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moiety.records.json_reader import parse_json
from moiety.records.text_files import TextFileError, as_utf8, bad_byte
from moiety.vlm.inline_pictures import of_content

PICTURE_COLUMNS = ("image", "images")
_BATCH = 64


@dataclass(frozen=True)
class Unreadable:
    """An entry that cannot be read as a row.

    Args:
        text: What is wrong and what to do.
        content: The bytes that cannot be read.
        whole: The rest of the file cannot be read either.
    """

    text: str
    content: bytes = b""
    whole: bool = False


@dataclass(frozen=True)
class Entry:
    """One value of a file.

    Args:
        line: Line where it begins, from 1; in a table, the number of its row.
        value: The value, or :class:`Unreadable`.
        column: Where it begins in that line, if an earlier entry begins in the same line; otherwise 0.
    """

    line: int
    value: Any
    column: int = 0


def entries(file: str | Path) -> Iterator[Entry]:
    """Every entry of one file in order. An entry that is not JSON comes as :class:`Unreadable`.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: it is a parquet file, and pyarrow is not installed.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no conversation file at {path}; a recipe's files are relative to data.root")
    with path.open("rb") as opened:
        is_table = opened.read(4) == b"PAR1" or path.suffix == ".parquet"
    yield from _of_table(path) if is_table else _of_text(path)


def fingerprint(value: Any) -> str:
    """Sixteen letters that differ between entries; the order of the keys does not change them."""
    if isinstance(value, Unreadable):
        return hashlib.sha256(value.content).hexdigest()[:16]
    text = json.dumps(value, sort_keys=True, default=_as_text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _as_text(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _of_text(path: Path) -> Iterator[Entry]:
    data = path.read_bytes()
    try:
        content = as_utf8(data, path)
    except TextFileError as error:
        yield Entry(1, Unreadable(f"{error.place} {error.reason}", data, whole=True))
        return
    if not content.lstrip().startswith(b"["):
        yield from _of_lines(content, data, path)
        return
    try:
        yield from _of_array(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield Entry(line, Unreadable(_misfit(error, len(data) - len(content), data, path), content, whole=True))


def _misfit(error: UnicodeDecodeError, start: int, data: bytes, path: Path) -> str:
    """The message about a byte that is not UTF-8; `start` is where the decoded part begins in the file."""
    found = bad_byte(data, start + error.start, path)
    return f"{found.place} {found.reason}"


def _of_lines(content: bytes, data: bytes, path: Path) -> Iterator[Entry]:
    start = len(data) - len(content)  # the file may begin with a byte order mark
    for line, raw in enumerate(content.split(b"\n"), start=1):
        value = _of_line(raw, start, data, path) if raw.strip() else None
        if line == 1 and isinstance(value, Unreadable) and raw.lstrip().startswith(b"{"):
            try:  # one object over several lines
                yield Entry(1, parse_json(content))
                return
            except ValueError:
                pass
        if raw.strip():
            yield Entry(line, value)
        start += len(raw) + 1


def _of_line(raw: bytes, start: int, data: bytes, path: Path) -> Any:
    try:
        return parse_json(raw.decode())
    except UnicodeDecodeError as error:
        return Unreadable(_misfit(error, start, data, path), raw)
    except json.JSONDecodeError as error:
        return Unreadable(f"not JSON: {error.msg} (column {error.colno})", raw)
    except (ValueError, RecursionError) as error:  # a number with too many digits, or too many nested brackets
        return Unreadable(f"not JSON that can be read: {error}", raw)


def _of_array(text: str) -> Iterator[Entry]:
    """Entries of one JSON array, each with the line where it begins; ``json.loads`` does not give that line."""
    try:
        parse_json(text)
    except json.JSONDecodeError as error:  # after a broken entry, the start of the next one is unknown
        yield Entry(error.lineno, Unreadable(f"not JSON: {error.msg} (column {error.colno})", text.encode(), True))
        return
    except (ValueError, RecursionError) as error:
        yield Entry(1, Unreadable(f"not JSON that can be read: {error}", text.encode(), True))
        return
    decoder, gap = json.JSONDecoder(), re.compile(r"[\s,\]]*")
    position, line, counted, last = text.index("[") + 1, 1, 0, 0
    while (position := _end_of(gap, text, position)) < len(text):
        line, counted = line + text.count("\n", counted, position), position
        column = position - text.rfind("\n", 0, position) if line == last else 0
        entry, position = decoder.raw_decode(text, position)
        yield Entry(line, entry, column)
        last = line


def _end_of(pattern: re.Pattern[str], text: str, position: int) -> int:
    matched = pattern.match(text, position)
    return matched.end() if matched else position


# -- tables -----------------------------------------------------------------------------------------------------------
def _of_table(path: Path) -> Iterator[Entry]:
    """Rows of a parquet file. Their pictures are not kept in memory; they are read again when they are needed."""
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise ImportError(f"{path} is a parquet file; to read it: pip install pyarrow") from error
    number, stamp = 0, _stamp(path)
    try:
        with _parquet(path) as file:
            for group in range(file.num_row_groups):
                inside = 0
                for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group]):
                    for entry in batch.to_pylist():
                        number += 1
                        yield Entry(number, _unpacked(entry, (path, stamp, group), inside))
                        inside += 1
    except (ArrowException, OSError) as error:
        text = f"not a whole parquet file ({str(error).splitlines()[0]}); fetch it again"
        yield Entry(number + 1, Unreadable(text, whole=True))


def _parquet(path: Path) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path)


def _unpacked(entry: dict[str, Any], group: tuple[Path, tuple[int, int], int], row: int) -> dict[str, Any]:
    """The entry with each picture replaced by a name that reads the bytes from the file when they are needed."""
    for column in PICTURE_COLUMNS:
        value = entry.get(column)
        listed = value if isinstance(value, list) else [value]
        named = [
            of_content(content, _path_in(cell), functools.partial(_cell, *group, column, row, place))
            if (content := _bytes_in(cell))
            else cell
            for place, cell in enumerate(listed)
        ]
        if column in entry:
            entry[column] = named if isinstance(value, list) else named[0]
    return entry


def _bytes_in(cell: Any) -> bytes | None:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return content if isinstance(content, bytes) else None


def _path_in(cell: Any) -> str:
    return str(cell.get("path") or "") if isinstance(cell, dict) else ""


def _stamp(path: Path) -> tuple[int, int]:
    """Time and size of a file; they change when it is written again."""
    return path.stat().st_mtime_ns, path.stat().st_size


def _cell(path: Path, stamp: tuple[int, int], group: int, column: str, row: int, place: int) -> bytes:
    value = _column(path, stamp, group, column)[row].as_py()
    return _bytes_in(value[place] if isinstance(value, list) else value) or b""


@functools.lru_cache(maxsize=4)
def _column(path: Path, stamp: tuple[int, int], group: int, column: str) -> Any:
    """One column of one row group; the last four of them are kept in memory."""
    if _stamp(path) != stamp:
        raise ValueError(f"{path} was changed after its rows were read; start again")
    with _parquet(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)
