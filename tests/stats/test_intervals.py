"""Intervals: known values, their defining equations, and what one value cannot say."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

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


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 1, 0.0, 0.7934506856227626),
        (8, 10, 0.49016247153664183, 0.9433178485456247),
        (60, 100, 0.5020025867910618, 0.6905987135675411),
        (400, 400, 0.9904877056657034, 1.0),
    ],
)
def test_wilson_gives_the_numbers_of_the_formula_that_scipy_replaced(
    right: int, n: int, low: float, high: float
) -> None:
    estimate = wilson_interval(right, n)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-15)  # worst of 1,000 pairs: 2.3e-16


def test_seed_interval_gives_the_numbers_of_the_formula_that_scipy_replaced() -> None:
    values = [0.412, 0.398, 0.441, 0.405, 0.377]
    estimate = seed_interval(values)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx(
        (0.40659999999999996, 0.3777116256960545, 0.43548837430394544), abs=1e-15
    )
    equal = seed_interval([0.7] * 3)
    assert equal.low == equal.mean == equal.high == pytest.approx(0.7)  # width 0, not NaN


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_seed_interval_equals_students_formula(values: list[float]) -> None:
    n, mean = len(values), math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)
    estimate = seed_interval(values)
    assert (estimate.low, estimate.high) == pytest.approx((mean - half, mean + half), abs=1e-12)


def test_importing_the_intervals_leaves_scipy_alone() -> None:
    program = "import sys, moiety.stats.intervals, moiety.stats.contrasts; print('scipy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


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
