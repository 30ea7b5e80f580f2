"""Reads the results of an outside grader: grades of MM-Vet, verdicts on HallusionBench, extractions of MathVista.

``evaluate`` writes the file of answers for the grader, and this module computes the official numbers from the grader's
result. No question is asked here. Rates are not rounded; the released tools round most of them.

Source:
    yuweihao/MM-Vet @ 7d717c2, ``mm-vet_evaluator.py``; tianyi-lab/HallusionBench @ 744007c, ``evaluation.py``;
    lupantech/MathVista @ 2a249bb, ``calculate_score.py``. Formats and rules come from there; the code is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moiety.evaluate.benchmarks.benchmark import BenchmarkScore, mean_score, percent_by
from moiety.evaluate.benchmarks.files.entries import Kinds, entry_with, list_in, object_in
from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.registry import benchmarks_named
from moiety.evaluate.benchmarks.rules.extracted_answers import released_verdict
from moiety.evaluate.benchmarks.rules.hallusion_metrics import FAILURES, RIGHT, UNCLEAR, WRONG, Judged, judged_numbers
from moiety.evaluate.benchmarks.rules.resampling import resampled
from moiety.evaluate.benchmarks.sets.hallusionbench import PLACE, place_of
from moiety.evaluate.benchmarks.sets.mathvista import wanted
from moiety.groups import nearest_name
from moiety.vlm.rows import Row

RULE = "graded"
CODE, SAME = "gpt4v_output_gpt_check", "same"
"""Keys under which the judge of HallusionBench leaves its word on an answer, and on its agreement with figure 0."""
_VERDICT: Mapping[str, Kinds] = {**dict.fromkeys(PLACE, (str, int)), CODE: (str, int)}
Entries = Mapping[str, Any]


def score_graded(name: str, data: Path, files: Sequence[Path], limit: int | None = None) -> BenchmarkScore:
    """The official numbers of a benchmark, computed from its grader's files, with an interval as for every score.

    Args:
        name: A key of :data:`GRADED`.
        data: Folder with the benchmark's official files.
        files: The files of the grader. Several files are read together; each question occurs once.
        limit: The files are about the first questions, up to this number.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: the benchmark has no such grader, a file has another form, or its ids do not fit the questions.
    """
    benchmark = benchmarks_named([name])[0]
    if name not in GRADED:
        raise ValueError(f"{name} has no grader whose file can be read; {nearest_name(name, tuple(GRADED))}")
    read, numbers_of = GRADED[name]
    rows = benchmark.first(benchmark.read(data), limit)
    entries: dict[str, Any] = {}
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"nothing graded at {path}")
        found = read(path)
        twice = [key for key in found if key in entries]
        if twice:
            raise ValueError(f"{path}: {twice[0]!r} was graded in another file, too; each question has one grade")
        entries |= found
    benchmark.check_ids(rows, entries)
    score = numbers_of(rows, entries)
    assert score.statistic is not None
    clusters, strata = [benchmark.together(row) for row in rows], [benchmark.part(row) for row in rows]
    return replace(score, interval=resampled(score.statistic, clusters, strata))


def read_grades(path: Path) -> dict[str, list[float]]:
    """Grades of MM-Vet by question, one for each run of its grader, 0..1."""
    grades: dict[str, list[float]] = {}
    for name, entry in object_in(read_json(path), path).items():
        place = f"{path}: question {name!r}"
        values = entry_with(entry, {"score": list}, place)["score"]
        if not values or not all(type(value) in (int, float) and 0 <= value <= 1 for value in values):
            raise ValueError(f"{place}: 'score' must be one grade from 0 to 1 a run, got {values!r:.60}")
        grades[name] = [float(value) for value in values]
    runs = {len(values): name for name, values in grades.items()}
    if len(runs) > 1:
        told = ", ".join(f"{runs[count]!r} has {count}" for count in sorted(runs))
        raise ValueError(f"{path}: questions were not graded equally often ({told}); let the grader finish")
    return grades


def grade_numbers(rows: Sequence[Row], grades: Entries) -> BenchmarkScore:
    """Mean grade in percent: in all, by capability, by set of capabilities, and its spread over the grader's runs."""
    mean = {row.id: float(np.mean(grades[row.id])) for row in rows}
    numbers: dict[str, float] = {}
    told = all("capability" in row.extra for row in rows)
    for capability in dict.fromkeys(one for row in rows for one in row.extra.get("capability", ())) if told else ():
        having = [row for row in rows if capability in row.extra["capability"]]
        numbers[str(capability)] = 100 * float(np.mean([mean[row.id] for row in having]))
    if told:
        sets = percent_by(rows, mean, lambda row: "+".join(sorted(set(row.extra["capability"]))))
        numbers |= {name: value for name, value in sets.items() if "+" in name}
    runs = np.array([grades[row.id] for row in rows]).mean(axis=0)
    if len(runs) > 1:
        numbers["std over runs"] = 100 * float(runs.std())
    notes = () if told else ("no capabilities in these questions; mm-vet.json has them",)
    return mean_score("mmvet", RULE, "total", mean, numbers, (f"{len(runs)} runs of the grader", *notes))


def read_verdicts(path: Path) -> dict[str, Mapping[str, Any]]:
    """Entries of HallusionBench with the judge's word; its tool writes one file for VD and one for VS."""
    verdicts: dict[str, Mapping[str, Any]] = {}
    for number, entry in enumerate(list_in(read_json(path), path)):
        place = f"{path}: question {number}"
        entry = entry_with(entry, _VERDICT, place)
        if str(entry[CODE]) not in ("0", "1", "2") or str(entry.get(SAME, "0")) not in ("0", "1"):
            raise ValueError(
                f"{place}: {CODE!r} must be 0 (wrong), 1 (right) or 2 (unclear) and {SAME!r} 0 or 1, got "
                f"{entry[CODE]!r:.40} and {entry.get(SAME)!r:.40}"
            )
        name = place_of(entry)
        if name in verdicts:
            raise ValueError(f"{place}: {name!r} is judged a second time")
        verdicts[name] = entry
    return verdicts


def verdict_numbers(rows: Sequence[Row], verdicts: Entries) -> BenchmarkScore:
    """Every official rate; where it came from is left out when the judge was not asked what stayed the same."""
    codes = {"0": WRONG, "1": RIGHT, "2": UNCLEAR}
    judged = [
        Judged(
            **{key: str(row.extra[key]) for key in (*PLACE, "visual_input")},
            truth=int(row.answers[0] == "yes"),
            code=codes[str(verdicts[row.id][CODE])],
            same=str(verdicts[row.id].get(SAME)) == "1",
        )
        for row in rows
    ]
    told = all(SAME in verdicts[row.id] for row in rows)
    numbers = {
        name: value
        for name, value in judged_numbers(judged).items()
        if name != "aAcc" and (told or name not in FAILURES)
    }
    notes = () if told else (f"no {SAME!r} in the file: language hallucination and visual illusion are not told apart",)
    correct = {row.id: float(answer.correct) for row, answer in zip(rows, judged, strict=True)}
    return mean_score("hallusionbench", RULE, "aAcc", correct, numbers, notes)


def read_extractions(path: Path) -> dict[str, str]:
    """What was taken out of the answers to MathVista, by ``pid``."""
    entries = object_in(read_json(path), path).items()
    return {
        pid: entry_with(entry, {"extraction": str}, f"{path}: problem {pid!r}")["extraction"] for pid, entry in entries
    }


def extraction_numbers(rows: Sequence[Row], extractions: Entries) -> BenchmarkScore:
    """Accuracy in percent, also of multiple choice and of free form."""
    correct = {row.id: float(released_verdict(extractions[row.id], wanted(row))) for row in rows}
    numbers = percent_by(rows, correct, lambda row: row.type)
    return mean_score("mathvista", RULE, "accuracy", correct, numbers)


GRADED: Mapping[str, tuple[Callable[[Path], Entries], Callable[[Sequence[Row], Entries], BenchmarkScore]]] = {
    "mmvet": (read_grades, grade_numbers),
    "hallusionbench": (read_verdicts, verdict_numbers),
    "mathvista": (read_extractions, extraction_numbers),
}
