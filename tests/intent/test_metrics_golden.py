"""Grades equal those that the benchmarks' own code gave, and those of published predictions (P16)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moiety.intent.metrics import closed_set_metrics
from moiety.intent.network.openset import doc_decision, doc_thresholds, open_set_metrics, score_metrics
from tests.goldens import SHARED

PUBLISHED = {  # ACC, F1, P, R, WF1, WP in percent, from prediction files of SDIF-DA and MulT
    "mintrec/modality_masking/sdif_all": (71.69, 69.76, 70.54, 69.63, 71.47, 71.79),
    "mintrec/modality_masking/sdif_text": (69.89, 65.34, 66.19, 65.10, 69.75, 70.15),
    "mintrec/modality_masking/sdif_text_audio": (68.31, 62.99, 64.54, 62.61, 68.27, 68.96),
    "mintrec/modality_masking/sdif_video": (19.10, 6.54, 11.21, 8.84, 11.34, 14.39),
    "mintrec2/modality_masking/mult_all": (57.80, 51.92, 53.69, 51.55, 57.47, 57.84),
    "mintrec2/modality_masking/mult_text": (57.94, 52.34, 54.74, 52.46, 57.13, 57.72),
    "mintrec2/modality_masking/mult_audio": (10.87, 1.14, 0.69, 4.06, 2.62, 1.51),
}
NAMES = ("acc", "f1", "prec", "rec", "weighted_f1", "weighted_prec")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_predictions(shared: Path, name: str) -> None:
    with (shared / "data" / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = closed_set_metrics([row["actual_label"] for row in rows], [row["predicted_label"] for row in rows])
    assert tuple(round(100 * found[key], 2) for key in NAMES) == PUBLISHED[name]


def test_closed_set_grades_of_the_benchmark_code(shared: Path) -> None:
    for case in read(shared / "golden/scorers/mintrec/cases.json"):
        found = closed_set_metrics(case["y_true"], case["y_pred"])
        expected = {key: value for key, value in case["mintrec2_in_scope"].items() if key != "weighted_rec"}
        assert found == pytest.approx(expected, abs=1e-9), case["case"]


DOC_CASES = SHARED / "golden/scorers/mintrec2/doc_cases.json"


@pytest.mark.parametrize("case", read(DOC_CASES) if DOC_CASES.is_file() else [])
def test_out_of_scope_rule_and_grades_of_the_benchmark_code(shared: Path, case: dict[str, Any]) -> None:
    folder = shared / "golden/scorers/mintrec2"
    with np.load(folder / "doc_cases.npz") as file:
        own = [key for key in file.files if key.startswith(case["case"] + ".")]
        arrays = {key.partition(".")[2]: file[key] for key in own}
    logits, classes = torch.from_numpy(arrays["test_logits"]), case["classes"]
    thresholds = doc_thresholds(
        torch.from_numpy(arrays["train_logits"]), torch.from_numpy(arrays["train_labels"]).long(), case["scale"]
    )
    np.testing.assert_allclose(thresholds.numpy(), arrays["doc_threshold"], atol=1e-5)
    decided = doc_decision(logits, thresholds).numpy()
    assert (decided == arrays["doc_prediction"]).all()
    truth = arrays["test_labels"]
    inside = truth != classes
    found = closed_set_metrics(truth[inside], logits.argmax(1).numpy()[inside])
    assert found == pytest.approx({key: case["in_scope"][key] for key in NAMES}, abs=1e-6)
    assert agrees(open_set_metrics(truth, decided, classes), case["open_intent"])
    scores = score_metrics(arrays["test_confidence"], inside)
    assert {key: scores[key] for key in case["score_based"]} == pytest.approx(case["score_based"], abs=1e-6)


def agrees(found: dict[str, float], expected: dict[str, float]) -> bool:
    """To the four decimals that the benchmark prints."""
    names = {"oid_acc": "oid_acc", "f1_known": "f1-known", "f1_open": "f1-open", "oid_f1": "oid_f1"}
    return all(found[ours] == pytest.approx(expected[theirs], abs=6e-5) for ours, theirs in names.items())


def test_open_set_grades_where_out_of_scope_occurs(shared: Path) -> None:
    """The mean is over the labels that occur. Where the last does not, the benchmark takes another for out-of-scope."""
    compared = 0
    for case in read(shared / "golden/scorers/mintrec2/open_intent.json"):
        truth, said = np.array(case["y_true"]), np.array(case["y_pred"])
        expected = next(value for key, value in case.items() if isinstance(value, dict))
        if case["classes"] in set(truth) | set(said):
            assert agrees(open_set_metrics(truth, said, case["classes"]), expected), case["case"]
            compared += 1
    assert compared


def test_scores_of_the_benchmark_code(shared: Path) -> None:
    for case in read(shared / "golden/scorers/mintrec2/scores.json"):
        expected = next(value for value in case.values() if isinstance(value, dict))
        labels = next(value for key, value in case.items() if isinstance(value, list) and key != "scores")
        found = score_metrics(np.array(case["scores"]), np.array(labels).astype(bool))
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6), case["case"]
