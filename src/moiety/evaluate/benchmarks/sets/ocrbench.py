"""OCRBench: reading text in pictures, 1,000 questions of ten kinds.

Liu et al. 2023 (2305.07895). The only rule is that of lmms-eval: an answer is right if it contains a label. The score
is the number of right answers (points). An empty answer scores 0.

Source:
    EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/ocrbench/utils.py``. It divides the points by 1,000, even if fewer
    questions were asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.files.entries import Kinds, entry_with, list_in, texts_in
from moiety.evaluate.benchmarks.files.layouts import SITE, Layout, Questions, beside, hub_layout
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.files.release import Release
from moiety.vlm.rows import Row

QUESTIONS = ("OCRBench.json", "FullTest.json")
FORMULAS = "HME100k"
_ENTRY: Mapping[str, Kinds] = {
    **{"dataset_name": str, "type": str, "question": str},
    **{"answers": (str, list)},
}
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def read(release: Release) -> Questions:
    """The questions in the order of the file. Ids are their places in it, from 0."""
    path = release.one(*QUESTIONS)
    rows = []
    for number, entry in enumerate(list_in(read_json(path), path)):
        entry = entry_with(entry, {"image_path": str}, f"{path}: question {number}")
        rows.append(_row(number, entry, entry["image_path"], str(path)))
    return Questions(rows, beside(release, "OCRBench_Images"))


def read_hub(table: HubTable) -> Questions:
    """The questions of the table from the Hugging Face Hub, which has other keys. Ids are its lines, from 0."""
    rows = []
    for number, (file, _, entry) in enumerate(table.rows()):
        renamed = {
            "dataset_name": entry.get("dataset"),
            "type": entry.get("question_type"),
            "answers": entry.get("answer"),
        }
        rows.append(_row(number, {**entry, **renamed}, str(entry.get("image")), file))
    return Questions(rows, table.pictures)


def _row(number: int, entry: Mapping[str, Any], picture: str, file: str) -> Row:
    place = f"{file}: question {number}"
    labels = texts_in(entry_with(dict(entry), _ENTRY, place), "answers", place)
    extra = {"dataset_name": entry["dataset_name"]}
    question, kind = entry["question"], entry["type"]
    return asked(str(number), question, [picture], answers=labels, type=kind, extra=extra, file=file)


def contains_label(text: str, labels: Sequence[str], formula: bool) -> bool:
    r"""Whether a text contains a label. Formulas are compared without blanks, other text on one line in lower case.

    Example:
        >>> contains_label("x ^ 2", ["x^2"], formula=True), contains_label("It says ＥＸＩＴ.", ["Exit"], formula=False)
        (True, True)
    """
    form = _formula_form if formula else _text_form
    return any(form(label) in form(text) for label in labels)


def _formula_form(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _text_form(text: str) -> str:
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")


def _mark(row: Row, text: str) -> float:
    return float(contains_label(text, row.answers, formula=row.extra["dataset_name"] == FORMULAS))


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Points, one for each right answer; also accuracy in percent, and points for each kind of question."""
    marks = np.array([_mark(row, answers[row.id]) for row in rows])

    def points(weights: NDArray[np.float64]) -> float:
        return float(weights @ marks)

    numbers = {"points": points(np.ones(len(rows))), "accuracy": 100 * float(marks.mean())}
    for row, mark in zip(rows, marks, strict=True):
        numbers[f"points {row.type}"] = numbers.get(f"points {row.type}", 0.0) + float(mark)
    correct = {row.id: float(mark) for row, mark in zip(rows, marks, strict=True)}
    notes = () if len(rows) == 1000 else (f"points of {len(rows)} questions; the benchmark has 1,000",)
    headline = ("points", numbers["points"])
    return BenchmarkScore("ocrbench", rule, headline, numbers, len(rows), correct, notes, statistic=points)


OCRBENCH = Benchmark(
    name="ocrbench",
    title="OCRBench",
    layouts=(
        Layout(SITE, (QUESTIONS,), read, " or ".join(QUESTIONS), "pictures in OCRBench_Images/"),
        hub_layout("test", read_hub),
    ),
    scorer=score,
    rules=("lmms_eval",),
    max_new_tokens=128,
)
