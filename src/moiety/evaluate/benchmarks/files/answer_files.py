"""Reads the answer files of other tools as lines of fields. The content of a file tells which tool wrote it."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from moiety.evaluate.benchmarks.files.questions import read_json, read_lines, text_of

SUFFIXES = (".jsonl", ".json", ".tsv", ".csv", ".xlsx", ".txt")
REPLY = "moiety: reply"
"""Key of a line's reply where the file keeps it in another form than text under one key."""
FOUR_COLUMNS = ("image", "question", "answer", REPLY)
_WRAPPED = ("logs", "results", "answers", "predictions", "samples", "outputs", "data")


@dataclass(frozen=True)
class AnswerLine:
    """One answer: its place in the file, and its fields by name."""

    place: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class AnswerFile:
    """What one file holds.

    Args:
        path: The file.
        kind: Which tool writes such files, in words.
        lines: Its answers, in their order.
        reply: Key of the model's reply, if the kind of file defines it; otherwise None.
        made_for: Settings in the first line of a file of moiety, ``benchmark`` among them.
    """

    path: Path
    kind: str
    lines: Sequence[AnswerLine]
    reply: str | None = None
    made_for: Mapping[str, Any] = field(default_factory=dict)


def files_at(paths: Sequence[Path]) -> list[Path]:
    """The given files. A folder stands for all answer files in it and in its subfolders.

    Raises:
        FileNotFoundError: there is nothing at a path, or no answer file in a folder.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _suffix(file) in SUFFIXES)
            if not inside:
                raise FileNotFoundError(f"no answers in the folder {path}; files of {', '.join(SUFFIXES)} are read")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"no answers at {path}")
    return found


def read_file(path: Path) -> AnswerFile:
    """All answers of one file, and what kind of file it is.

    Raises:
        ImportError: it is a spreadsheet and openpyxl is not installed.
        ValueError: it cannot be read, or holds no answers.
    """
    made_for, lines, pairs = _content(path)
    if not lines:
        raise ValueError(f"{path} holds no answer")
    if made_for is not None:
        return AnswerFile(path, "made by moiety", lines, "prediction", made_for)
    if pairs:
        return AnswerFile(path, "one object of answers by id", lines, REPLY)
    keys = set().union(*(line.fields for line in lines))
    if _suffix(path) == ".txt":
        return AnswerFile(path, "result file of MME (picture, question, label, answer)", lines, REPLY)
    if keys & {"resps", "filtered_resps"}:
        lines = _once([_sample(line) for line in lines])
        return AnswerFile(path, "samples of lmms-eval", lines, REPLY)
    if {"index", "prediction"} <= keys:
        return AnswerFile(path, "table of VLMEvalKit", lines, "prediction")
    if {"question_id", "text"} <= keys and keys & {"prompt", "answer_id", "model_id"}:
        return AnswerFile(path, "lines of LLaVA's evaluation", lines, "text")
    return AnswerFile(path, f"lines of {', '.join(sorted(keys))}"[:80], lines)


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _content(path: Path) -> tuple[Mapping[str, Any] | None, list[AnswerLine], bool]:
    """The settings (of a file of moiety), the lines, and whether the file was one object id -> text."""
    suffix = _suffix(path)
    if suffix == ".pkl":
        raise ValueError(f"{path}: nothing is unpickled here; write the table as .xlsx, .tsv or .jsonl")
    if suffix == ".json":
        return None, *_document(path)
    if suffix in (".tsv", ".csv"):
        return None, list(_table(path, "\t" if suffix == ".tsv" else ",")), False
    if suffix == ".xlsx":
        return None, list(_sheet(path)), False
    if suffix == ".txt":
        return None, list(_columns(path)), False
    lines = [AnswerLine(f"{path}:{number}", entry) for number, entry in read_lines(path)]
    if lines and set(lines[0].fields) == {"settings"} and isinstance(lines[0].fields["settings"], Mapping):
        return lines[0].fields["settings"], lines[1:], False
    return None, lines, False


# -- JSON --------------------------------------------------------------------------------------------------------------
def _document(path: Path) -> tuple[list[AnswerLine], bool]:
    whole = read_json(path)
    if isinstance(whole, dict):
        whole = _unwrapped(whole)
    if isinstance(whole, dict):
        if all(isinstance(entry, dict) for entry in whole.values()):
            return [AnswerLine(f"{path}: {name!r}", {"id": name, **entry}) for name, entry in whole.items()], False
        return [AnswerLine(str(path), {"id": name, REPLY: text}) for name, text in whole.items()], True
    if not isinstance(whole, list):
        raise ValueError(f"{path}: expected a list or an object id -> text, got {type(whole).__name__}")
    lines = []
    for number, entry in enumerate(whole, start=1):
        if not isinstance(entry, dict):
            raise ValueError(f"{path}:{number}: expected an object, got {entry!r:.40}")
        if not (number == 1 and set(entry) == {"settings"}):
            lines.append(AnswerLine(f"{path}:{number}", entry))
    return lines, False


def _unwrapped(whole: dict[str, Any]) -> Any:
    """The answers inside a report: ``outputs`` of ScienceQA's script, ``logs`` of lmms-eval, columns of a table."""
    if isinstance(whole.get("outputs"), dict) and "results" in whole:
        return whole["outputs"]
    if whole and "prediction" in whole and all(isinstance(column, dict | list) for column in whole.values()):
        columns = {name: list(cells.values()) if isinstance(cells, dict) else cells for name, cells in whole.items()}
        return [dict(zip(columns, cells, strict=False)) for cells in zip(*columns.values(), strict=False)]
    for key in _WRAPPED:
        inner = whole.get(key)
        if isinstance(inner, list) and inner and all(isinstance(entry, dict) for entry in inner):
            return inner
        if key == "logs" and isinstance(inner, dict) and len(inner) == 1:
            return next(iter(inner.values()))
    return whole


# -- tables ------------------------------------------------------------------------------------------------------------
def _table(path: Path, delimiter: str) -> Iterator[AnswerLine]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(text_of(path), newline=""), delimiter=delimiter)
    head = next(reader, [])
    if len(head) == 2 and not {"prediction", "answer", "text", "response"} & {name.strip().lower() for name in head}:
        # the released scorer of NLVR2 takes lines without a head: identifier, prediction
        yield AnswerLine(f"{path}:1", {"id": head[0], "prediction": head[1]})
        head = ["id", "prediction"]
    for cells in reader:
        if not any(cells):
            continue
        if len(cells) > len(head):
            raise ValueError(f"{path}:{reader.line_num}: {len(cells)} cells in a table of {len(head)} columns")
        named = dict.fromkeys(head, "") | dict(zip(head, cells, strict=False))
        yield AnswerLine(f"{path}:{reader.line_num}", named)


def _sheet(path: Path) -> Iterator[AnswerLine]:
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise ImportError(
            f"{path} is a spreadsheet; to read it: pip install openpyxl, or save it as .tsv or .csv"
        ) from error
    try:
        # formulas are wanted as they were written: an answer that begins with = is stored as one, without a value
        rows = (
            load_workbook(io.BytesIO(path.read_bytes()), read_only=True, data_only=False)
            .worksheets[0]
            .iter_rows(values_only=True)
        )
    except (BadZipFile, InvalidFileException, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a complete spreadsheet ({error!s:.60}); write it again") from error
    head = ["" if name is None else str(name) for name in next(rows, ())]
    for number, cells in enumerate(rows, start=2):
        if any(cell is not None for cell in cells):
            values = ("" if cell is None else _cell(cell) for cell in cells)
            yield AnswerLine(f"{path}: row {number}", dict(zip(head, values, strict=False)))


def _cell(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _columns(path: Path) -> Iterator[AnswerLine]:
    """Lines of a result file of MME. A line without tabs continues the answer of the line before."""
    found: list[tuple[int, list[str]]] = []
    for number, text in enumerate(text_of(path).split("\n"), start=1):
        cells = text.rstrip("\r").split("\t", maxsplit=3)
        if len(cells) == 4 and cells[2].strip().lower() in ("yes", "no"):
            found.append((number, cells))
        elif found and "\t" not in text:
            found[-1][1][3] += f"\n{text}"
        elif text.strip():
            raise ValueError(
                f"{path}:{number}: expected picture, question, Yes or No, and the model's answer between tabs, got "
                f"{text!r:.40}"
            )
    for number, cells in found:
        named = dict(zip(FOUR_COLUMNS, [*cells[:3], cells[3].rstrip("\n")], strict=True))
        yield AnswerLine(f"{path}:{number}", {**named, "category": path.name.removesuffix(".gz").removesuffix(".txt")})


# -- lmms-eval ---------------------------------------------------------------------------------------------------------
def _sample(line: AnswerLine) -> AnswerLine:
    """A sample with the fields of its document, and with the model's text before any filter."""
    fields = line.fields
    document: Mapping[str, Any] = fields["doc"] if isinstance(fields.get("doc"), Mapping) else {}
    written = fields.get("resps") or fields.get("filtered_resps")
    texts = set(map(str, _leaves(written)))
    if len(texts) > 1:
        raise ValueError(f"{line.place}: {len(texts)} different replies to one question, got {written!r:.40}; keep one")
    prompt = fields.get("input") if isinstance(fields.get("input"), str) else None
    kept = {key: fields[key] for key in ("doc_id", "target", "filter") if key in fields}
    return AnswerLine(
        line.place, {**kept, **document, **({"prompt": prompt} if prompt else {}), REPLY: next(iter(texts), "")}
    )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    elif value is not None:
        yield value


def _once(lines: Sequence[AnswerLine]) -> list[AnswerLine]:
    """Samples without the copies that further filters add."""
    kept: dict[tuple[str, str], AnswerLine] = {}
    for number, line in enumerate(lines):
        name = str(line.fields.get("doc_id", f"line {number}"))
        filtered = "filter" in line.fields
        kept.setdefault((name, str(line.fields[REPLY]) if filtered else f"{number}"), line)
    return list(kept.values())
