"""ChartQA: questions about charts, half written by people, half made from captions.

Masry et al. 2022 (2203.10244), test. The published measure forgives five per cent of a number, and its widely used code
hands model and label over in the wrong order: rule ``official`` repeats that, ``sound`` (default) does not,
``lmms_eval`` and ``moiie`` are those projects' own readings; see :mod:`moiety.evaluate.benchmarks.relaxed`. No answer
scores 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score, percent_by
from moiety.evaluate.benchmarks.entries import asked_shortly, entry_with, list_in, pictures_below
from moiety.evaluate.benchmarks.files import published, read_json
from moiety.evaluate.benchmarks.relaxed import RELAXED_RULES
from moiety.vlm.rows import Row

SPLITS = ("human", "augmented")


def read(folder: Path) -> list[Row]:
    """The test questions, those by people first; ids are ``human/0``, ``human/1``, ..."""
    rows = []
    for split in SPLITS:
        path = published(folder, f"test_{split}.json", f"test/test_{split}.json")
        for number, entry in enumerate(list_in(read_json(path), path)):
            entry = entry_with(entry, {"imgname": str, "query": str, "label": str}, f"{path}: question {number}")
            prompt, answers = asked_shortly(entry["query"]), [entry["label"]]
            name = f"{split}/{number}"
            rows.append(asked(name, prompt, [entry["imgname"]], answers=answers, type=split, file=str(path)))
    return rows


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Relaxed accuracy in percent over all questions and over each half."""
    correct = {row.id: float(RELAXED_RULES[rule](answers[row.id], row.answers[0])) for row in rows}
    numbers = {str(split): value for split, value in percent_by(rows, correct, lambda row: row.type).items()}
    return mean_score("chartqa", rule, "relaxed_accuracy", correct, numbers)


CHARTQA = Benchmark(
    name="chartqa",
    title="ChartQA test",
    files="test_human.json and test_augmented.json there or in test/, pictures in png/ beside them",
    reader=read,
    scorer=score,
    rules=tuple(RELAXED_RULES),
    max_new_tokens=16,
    pictures=pictures_below("png", "test/png", "test/png.tar", "png.tar"),
)
