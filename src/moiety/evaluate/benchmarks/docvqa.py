"""DocVQA: questions about scanned documents, scored by average normalised Levenshtein similarity.

Mathew et al. 2021 (2007.00398). Rules ``official`` and ``lmms_eval`` are one; ``stvqa`` takes the divisor after
stripping and leaves blanks inside. No answer scores 0. Test answers are kept by the server: ``docvqa_test`` writes its
file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from moiety.evaluate.benchmarks.anls import anls, anls_stvqa
from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.entries import (
    asked_shortly,
    entry_with,
    list_in,
    pictures_below,
    texts_in,
    write_document,
)
from moiety.evaluate.benchmarks.files import published, read_json
from moiety.vlm.rows import Row

VAL, TEST = ("val_v1.0_withQT.json", "val_v1.0.json"), ("test_v1.0.json",)
RULES: Mapping[str, Callable[[str, Sequence[str]], float | None]] = {
    "official": anls,
    "lmms_eval": anls,
    "stvqa": anls_stvqa,
}


def read_val(folder: Path) -> list[Row]:
    """The validation questions."""
    return _read(published(folder, *VAL), with_answers=True)


def read_test(folder: Path) -> list[Row]:
    """The test questions, without answers."""
    return _read(published(folder, *TEST), with_answers=False)


def _read(path: Path, with_answers: bool) -> list[Row]:
    rows = []
    for number, entry in enumerate(list_in(read_json(path), path, "data")):
        place = f"{path}: question {number}"
        entry = entry_with(entry, {"questionId": int, "question": str, "image": str}, place)
        labels = texts_in(entry_with(entry, {"answers": list}, place), "answers", place) if with_answers else []
        if with_answers and not labels:
            raise ValueError(f"{place} has no answers; fetch the file anew")
        rows.append(
            asked(
                str(entry["questionId"]),
                asked_shortly(entry["question"]),
                [PurePosixPath(entry["image"]).name],
                answers=labels,
                extra={"questionId": entry["questionId"]},
                file=str(path),
            )
        )
    return rows


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Mean ANLS in percent; ``stvqa`` leaves out questions whose answer and label are both empty."""
    given = [RULES[rule](answers[row.id], row.answers) for row in rows]
    marks = np.array([np.nan if mark is None else mark for mark in given])
    scored = ~np.isnan(marks)

    def mean(weights: NDArray[np.float64]) -> float:
        drawn = weights[scored]
        return 100 * float(drawn @ marks[scored] / drawn.sum()) if drawn.any() else np.nan

    value = mean(np.ones(len(rows)))
    left_out = int((~scored).sum())
    notes = (f"{left_out} questions with empty answer and label are left out",) if left_out else ()
    correct = {row.id: mark for row, mark in zip(rows, given, strict=True) if mark is not None}
    return BenchmarkScore("docvqa", rule, ("anls", value), {"anls": value}, len(rows), correct, notes, statistic=mean)


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The list of ``questionId`` and ``answer`` that the server takes."""
    write_document(path, [{"questionId": row.extra["questionId"], "answer": answers[row.id]} for row in rows])


DOCVQA = Benchmark(
    name="docvqa",
    title="DocVQA val",
    files=f"{' or '.join(VAL)}, pictures in documents/, val/documents/ or spdocvqa_images/",
    reader=read_val,
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=32,
    pictures=pictures_below("documents", "val/documents", "spdocvqa_images"),
    writer=write_answers,
)
DOCVQA_TEST = Benchmark(
    name="docvqa_test",
    title="DocVQA test",
    files=f"{TEST[0]}, pictures in documents/, test/documents/ or spdocvqa_images/",
    reader=read_test,
    scorer=None,
    rules=("official",),
    max_new_tokens=32,
    pictures=pictures_below("documents", "test/documents", "spdocvqa_images"),
    writer=write_answers,
)
