"""Reads official question files as they were published, also with the ending ``.gz``."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator
from typing import Any

from moiety.evaluate.benchmarks.files.release import Readable
from moiety.records.json_reader import parse_json


def text_of(path: Readable) -> str:
    """The whole file as text, unpacked if it ends in ``.gz``. Line endings are not changed.

    Raises:
        ValueError: it is not UTF-8 or not a whole gzip file.
    """
    content = path.read_bytes()
    try:
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); fetch the file again") from error


def read_json(path: Readable) -> Any:
    """One JSON document.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return parse_json(text_of(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno} is not JSON ({error.msg}); fetch the file again") from error


def read_lines(path: Readable) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (1-based) and object of each line. Only line feeds end a line. Empty lines are skipped.

    Raises:
        ValueError: a line is not a JSON object.
    """
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number} is not JSON ({error.msg}); fetch the file again") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{path}:{number}: expected an object, got {type(entry).__name__}")
        yield number, entry


def read_entries(path: Readable) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (1-based) and object of each entry, of a file of lines or of one JSON list.

    Raises:
        ValueError: it is neither.
    """
    if not text_of(path).lstrip().startswith("["):
        yield from read_lines(path)
        return
    for number, entry in enumerate(read_json(path), start=1):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}:{number}: expected an object, got {type(entry).__name__}")
        yield number, entry


def read_table(path: Readable) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of a tab-separated table with a head line; quoted cells may hold line breaks."""
    csv.field_size_limit(sys.maxsize)  # cells hold whole pictures
    lines = csv.DictReader(io.StringIO(text_of(path), newline=""), delimiter="\t")
    for entry in lines:
        yield lines.line_num, {key: value or "" for key, value in entry.items() if key is not None}
