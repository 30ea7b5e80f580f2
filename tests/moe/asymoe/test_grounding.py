"""Metrics of grounding: by hand, by definition, and by what they may not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moiety.moe.asymoe.grounding import (
    area_under_curve,
    attention_entropy,
    attention_on,
    evidence_dependence,
    grounding_ratio,
    sent_to,
    slope_over_depth,
)


def causal(seed: int, seq: int, scale: float = 1.0) -> torch.Tensor:
    scores = scale * torch.randn(seq, seq, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(~torch.ones(seq, seq, dtype=torch.bool).tril(), -torch.inf).softmax(-1)


@given(st.integers(0, 99), st.integers(1, 12))
def test_entropy_equals_a_slow_loop(seed: int, seq: int) -> None:
    attention = causal(seed, seq)
    entropy, share, counted = attention_entropy(attention)
    for row in range(seq):
        wanted = -sum(float(a) * math.log(float(a)) for a in attention[row, : row + 1])
        assert entropy[row].item() == pytest.approx(wanted, abs=1e-5)  # found 2e-7
        assert counted[row] == (row > 0)
        if row:
            assert share[row].item() == pytest.approx(wanted / math.log(row + 1), abs=1e-5)


def test_even_attention_has_share_1_whatever_its_length() -> None:
    for seq in (2, 3, 17):
        entropy, share, counted = attention_entropy(causal(0, seq, scale=0.0))
        torch.testing.assert_close(share[1:], torch.ones(seq - 1))
        assert entropy[-1].item() == pytest.approx(math.log(seq), rel=1e-6)
        assert share[0] == entropy[0] == 0
        assert counted.tolist() == [False] + [True] * (seq - 1)


@given(st.integers(0, 99), st.integers(1, 9))
def test_evidence_and_memory_share_the_attention(seed: int, seq: int) -> None:
    attention = causal(seed, seq)
    evidence = torch.rand(seq, generator=torch.Generator().manual_seed(seed)) < 0.5
    on_evidence, on_memory = attention_on(attention, evidence), attention_on(attention, ~evidence)
    torch.testing.assert_close(on_evidence + on_memory, torch.ones(seq))
    ratio = grounding_ratio(on_evidence.numpy(), on_memory.numpy())
    np.testing.assert_allclose(ratio, on_evidence, rtol=1e-5)


def test_an_expert_without_tokens_has_no_ratio() -> None:
    ratio = grounding_ratio(np.array([0.5, 0.0, 2.0]), np.array([1.5, 0.0, 0.0]))
    np.testing.assert_equal(ratio, [0.25, np.nan, 1.0])


def test_tokens_are_sent_to_their_experts_and_padding_to_none() -> None:
    assert sent_to(torch.tensor([[0, 2], [3, 3]]), 3).tolist() == [[True, False, True], [False, False, False]]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_dependence_is_odd_and_bounded(shares: list[tuple[float, float]]) -> None:
    one, other = np.array(shares).T
    found = evidence_dependence(one, other)
    np.testing.assert_allclose(found, -evidence_dependence(other, one))
    assert (np.abs(found) <= 1).all()
    assert (evidence_dependence(one, one) == 0).all()


def test_the_slope_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, 40).astype(float)
    lines = 0.5 - 0.03 * np.arange(6) + 0.02 * rng.standard_normal((40, 6))
    found = slope_over_depth(lines * counts[:, None], counts)
    mean = (lines * counts[:, None]).sum(0) / counts.sum()
    assert found.value == pytest.approx(np.polyfit(np.arange(6), mean, 1)[0], abs=1e-12)
    assert found.low < -0.03 < found.high
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.01


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for seed in range(200):
        lines = 0.01 * np.arange(4) + 0.05 * rng.standard_normal((50, 4))
        found = slope_over_depth(lines, np.ones(50), num_draws=200, seed=seed)
        covered += found.low <= 0.01 <= found.high
    assert 0.88 <= covered / 200 <= 0.99  # found 0.93; two standard errors around 95 % are 92 to 98


def test_one_sample_has_no_interval() -> None:
    found = slope_over_depth(np.array([[1.0, 2.0]]), np.array([1.0]))
    assert found.value == 1.0
    assert np.isnan([found.low, found.high]).all()


def test_area_under_the_curve() -> None:
    assert area_under_curve([1.0, 1.0], [0.0]) == 1.0
    assert area_under_curve([0.0], [1.0, 2.0]) == 0.0
    assert area_under_curve([1.0, 1.0], [1.0]) == 0.5
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
    slow = np.mean([(p > n) + 0.5 * (p == n) for p in positives for n in negatives])
    assert area_under_curve(positives, negatives) == pytest.approx(slow)


def test_messages() -> None:
    with pytest.raises(ValueError, match="a slope needs 2 layers and 1 position, got 1 layers and 3 positions"):
        slope_over_depth(np.ones((3, 1)), np.ones(3))
    with pytest.raises(ValueError, match="an area under the curve needs values on both sides, got 0 positives and 1"):
        area_under_curve([], [1.0])
