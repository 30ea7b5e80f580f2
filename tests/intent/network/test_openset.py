"""Out-of-scope rules and grades against fixtures and invariances (P13 to P16)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from moiety.intent.metrics import closed_set_metrics
from moiety.intent.network.openset import (
    doc_decision,
    doc_thresholds,
    open_set_metrics,
    outlier_exposure_loss,
    score_metrics,
    score_of,
    score_threshold,
)

law = settings(max_examples=30, deadline=None, derandomize=True, database=None)
SCORES, IN = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.4, 0.3, 0.2]), np.array([1, 1, 0, 1, 1, 0, 1, 0], dtype=bool)


def test_score_grades_equal_those_of_the_benchmark_code() -> None:
    """Values made by running the benchmark's own functions on this example."""
    found = score_metrics(SCORES, IN)
    expected = {
        "auroc": 0.73333,
        "aupr_in": 0.83476,
        "aupr_out": 0.67778,
        "fpr95": 0.66667,
        "eer": 0.33333,
        "der": 0.41667,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("change", [np.log, lambda s: 3 * s - 7, lambda s: s**3], ids=["log", "line", "cube"])
def test_only_the_order_of_scores_counts(change: object) -> None:
    assert score_metrics(change(SCORES), IN) == pytest.approx(score_metrics(SCORES, IN))  # type: ignore[operator]


def test_perfect_scores() -> None:
    found = score_metrics(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False]))
    assert found == pytest.approx(
        {"auroc": 1, "aupr_in": 1, "aupr_out": 1, "fpr95": 0, "eer": 0, "der": 0, "detection_error": 0}
    )


def test_grades_need_rows_of_both_kinds() -> None:
    with pytest.raises(
        ValueError, match="8 of 8 rows are in scope; out-of-scope grades need rows in scope and rows out of scope"
    ):
        score_metrics(SCORES, np.ones(8, dtype=bool))


def test_open_set_grades_equal_those_of_the_benchmark_code() -> None:
    truth, said = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2]), np.array([0, 0, 2, 1, 0, 2, 2, 1, 2])
    expected = {"oid_acc": 0.6667, "oid_f1": 0.6389, "f1_known": 0.5833, "f1_open": 0.75}
    assert open_set_metrics(truth, said, 2) == pytest.approx(expected, abs=1e-4)


def test_out_of_scope_stays_the_last_row_where_a_class_never_occurs() -> None:
    found = open_set_metrics(np.array([0, 2]), np.array([0, 2]), 2)
    assert found["f1_open"] == 1
    assert found["f1_known"] == found["oid_f1"] == 1  # class 1 is in neither: undefined, and not 0 in a mean
    missed = open_set_metrics(np.array([0, 1, 2]), np.array([0, 0, 2]), 2)
    assert missed["f1_known"] == pytest.approx((2 / 3 + 0) / 2)  # class 1 is asked and never said: 0
    never = open_set_metrics(np.array([0, 1]), np.array([0, 1]), 2)
    assert np.isnan(never["f1_open"])
    assert never["oid_f1"] == 1


@law
@given(st.lists(st.floats(0.05, 0.999), min_size=1, max_size=20))
def test_doc_threshold_is_the_normal_fit_of_mirrored_scores(p: list[float]) -> None:
    logits = torch.logit(torch.tensor(p, dtype=torch.float64)).unsqueeze(1)
    mirrored = np.concatenate([p, 2 - np.array(p)])
    mean, deviation = norm.fit(mirrored)
    assert mean == pytest.approx(1)
    found = doc_thresholds(logits, torch.zeros(len(p)).long()).item()
    assert found == pytest.approx(max(0.5, 1 - deviation), abs=1e-9)


def test_doc_decides_strictly_and_a_class_without_rows_asks_for_half() -> None:
    thresholds = doc_thresholds(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    assert thresholds.tolist() == [0.5, 0.5]
    logits = torch.tensor([[0.0, -1.0], [1e-3, -1.0], [-1.0, 2.0]])
    assert doc_decision(logits, thresholds).tolist() == [2, 0, 1]


def test_outlier_exposure_is_least_where_all_is_equal() -> None:
    assert outlier_exposure_loss(torch.zeros(2, 5)).item() == pytest.approx(math.log(5))
    assert outlier_exposure_loss(torch.tensor([[3.0, 0, 0, 0, 0]])).item() > math.log(5)
    assert outlier_exposure_loss(torch.zeros(0, 5)).item() == 0


def test_scores_by_hand_and_by_name() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]])
    assert [score_of(name, logits).item() for name in ("msp", "energy", "max_logit")] == pytest.approx(
        [0.75, math.log(4), math.log(3)]
    )
    with pytest.raises(ValueError, match=r"no out-of-scope score 'enrgy'; known: energy.*did you mean 'energy'"):
        score_of("enrgy", logits)


def test_threshold_keeps_its_share() -> None:
    scores = np.arange(100.0)
    assert (scores >= score_threshold(scores)).mean() == 0.96
    assert (scores >= score_threshold(scores, 0.5)).mean() >= 0.5


def test_closed_set_grades() -> None:
    found = closed_set_metrics(["a", "a", "b", "c"], ["a", "b", "b", "b"])
    assert found["acc"] == 0.5
    assert found["prec"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found["rec"] == pytest.approx((0.5 + 1 + 0) / 3)
