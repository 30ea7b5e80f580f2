"""Reading the golden numbers of public scorers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore
from moiety.vlm.rows import Row


def golden_rows(shared: Path, name: str, file: str = "predictions.jsonl") -> list[dict[str, Any]]:
    text = (shared / "golden" / "scorers" / name / file).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def golden_scores(shared: Path, name: str) -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((shared / "golden" / "scorers" / name / "scores.json").read_text())
    return scores


def checked_score(benchmark: Benchmark, rows: list[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """The score without the cost of its interval, whose statistic must give the headline from weights of one."""
    assert benchmark.scorer is not None
    benchmark.check_ids(rows, answers)
    score = benchmark.scorer(rows, answers, rule)
    assert score.statistic is not None
    assert np.isclose(score.statistic(np.ones(len(rows))), score.headline[1], rtol=1e-12)
    assert score.numbers[score.headline[0]] == score.headline[1]
    return score
