"""DocVQA: questions about scanned documents, scored by average normalised Levenshtein similarity.

Mathew et al. 2021 (2007.00398). Rules ``official`` and ``lmms_eval`` are the same. Rule ``stvqa`` computes the divisor
after stripping, and keeps blanks inside the text. An empty answer scores 0. The answers of the test split are not
public; ``docvqa_test`` writes the file for its server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.files.entries import (
    asked_shortly,
    entry_with,
    list_in,
    texts_in,
    write_document,
)
from moiety.evaluate.benchmarks.files.layouts import SITE, Layout, Questions, beside, hub_layout
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.anls import anls, anls_stvqa
from moiety.vlm.rows import Row

VAL, TEST = ("val_v1.0_withQT.json", "val_v1.0.json"), ("test_v1.0.json",)
RULES: Mapping[str, Callable[[str, Sequence[str]], float | None]] = {
    "official": anls,
    "lmms_eval": anls,
    "stvqa": anls_stvqa,
}


def read_val(release: Release) -> Questions:
    """The validation questions."""
    return _read(release, VAL, ("spdocvqa_images", "val/documents", "documents"), with_answers=True)


def read_test(release: Release) -> Questions:
    """The test questions, without answers."""
    return _read(release, TEST, ("spdocvqa_images", "test/documents", "documents"), with_answers=False)


def _read(release: Release, names: Sequence[str], places: Sequence[str], with_answers: bool) -> Questions:
    path = release.one(*names)
    rows = []
    for number, entry in enumerate(list_in(read_json(path), path, "data")):
        place = f"{path}: question {number}"
        entry = entry_with(entry, {"questionId": (int, str), "question": str, "image": str}, place)
        rows.append(_row(entry, PurePosixPath(entry["image"]).name, with_answers, place, str(path)))
    return Questions(rows, beside(release, *places))


def read_hub_val(table: HubTable) -> Questions:
    """The validation questions of the hub's table."""
    return _read_hub(table, with_answers=True)


def read_hub_test(table: HubTable) -> Questions:
    """The test questions of the hub's table, without answers."""
    return _read_hub(table, with_answers=False)


def _read_hub(table: HubTable, with_answers: bool) -> Questions:
    rows, names = [], dict[str, str]()
    for file, line, entry in table.rows():
        place = f"{file}:{line}"
        entry = entry_with(entry, {"questionId": (int, str), "question": str}, place)
        page = entry.get("ucsf_document_page_no")
        name = f"{entry['ucsf_document_id']}_{page}.png" if page is not None else str(entry.get("image"))
        names.setdefault(name, str(entry.get("image")))
        rows.append(_row(entry, name, with_answers, place, file))
    return Questions(rows, lambda: table.pictures(names))


def _row(entry: Mapping[str, Any], picture: str, with_answers: bool, place: str, file: str) -> Row:
    labels = texts_in(entry_with(dict(entry), {"answers": list}, place), "answers", place) if with_answers else []
    if with_answers and not labels:
        raise ValueError(f"{place} has no answers; fetch the file again")
    name = str(entry["questionId"])
    extra = {"questionId": int(name) if name.isdecimal() else name}
    return asked(name, asked_shortly(entry["question"]), [picture], answers=labels, extra=extra, file=file)


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Mean ANLS in percent. Rule ``stvqa`` leaves out questions whose answer and label are both empty."""
    given = [RULES[rule](answers[row.id], row.answers) for row in rows]
    marks = np.array([np.nan if mark is None else mark for mark in given])
    scored = ~np.isnan(marks)

    def mean(weights: NDArray[np.float64]) -> float:
        drawn = weights[scored]
        return 100 * float(drawn @ marks[scored] / drawn.sum()) if drawn.any() else np.nan

    value = mean(np.ones(len(rows)))
    left_out = int((~scored).sum())
    notes = (
        (f"{left_out} questions are left out, because both their answer and their label are empty",) if left_out else ()
    )
    correct = {row.id: mark for row, mark in zip(rows, given, strict=True) if mark is not None}
    return BenchmarkScore("docvqa", rule, ("anls", value), {"anls": value}, len(rows), correct, notes, statistic=mean)


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The list of ``questionId`` and ``answer`` that the server takes."""
    write_document(path, [{"questionId": row.extra["questionId"], "answer": answers[row.id]} for row in rows])


DOCVQA = Benchmark(
    name="docvqa",
    title="DocVQA val",
    layouts=(
        Layout(SITE, (VAL,), read_val, " or ".join(VAL), "pictures in spdocvqa_images/, val/documents/ or documents/"),
        hub_layout("validation", read_hub_val, "DocVQA"),
    ),
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=32,
    writer=write_answers,
)
DOCVQA_TEST = Benchmark(
    name="docvqa_test",
    title="DocVQA test",
    layouts=(
        Layout(SITE, (TEST,), read_test, beside="pictures in spdocvqa_images/, test/documents/ or documents/"),
        hub_layout("test", read_hub_test, "DocVQA"),
    ),
    scorer=None,
    rules=("official",),
    max_new_tokens=32,
    folders=("docvqa",),
    writer=write_answers,
)
