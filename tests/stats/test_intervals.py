"""Intervals: known values, their defining equations, and what one value cannot say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moiety.stats.intervals import paired_difference, seed_interval, wilson_interval


@given(st.integers(1, 400), st.data())
def test_wilson_ends_solve_the_score_equation(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    estimate = wilson_interval(right, n)
    assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    for end in (estimate.low, estimate.high):  # (p - end)^2 = z^2 end (1 - end) / n
        assert (right / n - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / n, abs=1e-6)


def test_seed_interval_known_value() -> None:
    estimate = seed_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    # t quantile for 4 degrees of freedom is 2.776445
    assert estimate.high - estimate.mean == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), abs=1e-5)


def test_intervals_cover_as_often_as_they_say() -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.1, size=(2000, 4))
    hits = [estimate.low <= 0.3 <= estimate.high for estimate in map(seed_interval, draws.tolist())]
    assert 0.935 < np.mean(hits) < 0.965


def test_one_seed_has_no_interval() -> None:
    estimate = seed_interval([0.4])
    assert not estimate.has_interval
    assert estimate.mean == 0.4


def test_pairs_remove_what_a_seed_does_to_both() -> None:
    seeds = {0: 0.1, 1: 0.5, 2: 0.9}
    better = {seed: value + 0.02 for seed, value in seeds.items()}
    difference = paired_difference(better, seeds)
    assert difference.low > 0.019
    assert difference.num_values == 3


def test_messages() -> None:
    with pytest.raises(ValueError, match="3 right answers of 2 questions"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="at least one value, got none"):
        seed_interval([])
    with pytest.raises(ValueError, match=r"no seed in common: \[0\] and \[1\]"):
        paired_difference({0: 1.0}, {1: 1.0})
