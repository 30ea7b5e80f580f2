"""The sign-flip test counts what it says it counts; Holm's correction keeps its promise."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from moiety.stats.permutation import holm, sign_flip_test

# Differences of accuracies on 200 questions: ties between sign patterns are common, and must be counted as ties.
steps = st.integers(-40, 40).map(lambda step: step / 200)


@given(st.lists(steps, min_size=1, max_size=7))
def test_equals_counting_by_hand(differences: list[float]) -> None:
    whole = [round(200 * value) for value in differences]
    patterns = list(itertools.product((1, -1), repeat=len(whole)))
    as_far = sum(abs(sum(s * d for s, d in zip(signs, whole, strict=True))) >= abs(sum(whole)) for signs in patterns)
    test = sign_flip_test(differences)
    assert test.p == as_far / len(patterns)
    assert test.exact
    assert test.smallest <= test.p <= 1


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=6))
def test_equals_scipy_on_whole_numbers(differences: list[int]) -> None:
    """Whole numbers are added without rounding, so scipy sees all ties."""

    def distance(signed: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(np.sum(signed, axis=axis))

    theirs = permutation_test(
        (differences,), distance, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert sign_flip_test(differences).p == theirs.pvalue


def test_a_sum_of_0_is_a_tie_whatever_rounding_makes_of_it() -> None:
    """``scipy.stats.permutation_test`` answers 0.984375 here: its tolerance is relative to the sum that was seen."""
    steps_of_200 = [18, -39, 5, -31, -35, 26, 28, 28]
    assert sum(steps_of_200) == 0
    assert sign_flip_test([step / 200 for step in steps_of_200]).p == 1


def test_three_seeds_by_hand() -> None:
    # sums of ±1 ±2 ±4: 7 5 3 1 and their negatives; the seen one is 1 + 2 - 4 = -1, and all eight are as far from 0
    assert sign_flip_test([0.1, 0.2, -0.4]).p == 1
    # seen: -1 + 2 + 4 = 5; as far: ±7, ±5
    assert sign_flip_test([-0.1, 0.2, 0.4]).p == 4 / 8
    assert sign_flip_test([0.1, 0.2, 0.4]).p == 2 / 8


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=16), st.booleans())
def test_one_direction_reaches_the_smallest_p(sizes: list[float], down: bool) -> None:
    test = sign_flip_test([-size if down else size for size in sizes])
    assert test.p == test.smallest == 2.0 ** (1 - len(sizes))


def test_five_seeds_cannot_reach_a_twentieth_and_six_can() -> None:
    assert sign_flip_test([0.3] * 5).p == 0.0625
    assert sign_flip_test([0.3] * 6).p == 0.03125
    assert sign_flip_test([0.0] * 6).p == 1


def test_sampling_agrees_with_counting_and_repeats() -> None:
    draws = np.random.default_rng(3).normal(0.2, 0.5, 16).tolist()
    counted, sampled = sign_flip_test(draws), sign_flip_test([*draws, 0.0])  # a zero changes no sum
    assert counted.exact
    assert not sampled.exact
    assert sampled.p == pytest.approx(counted.p, abs=0.005)  # standard error of 100,000 draws: at most 0.0016
    assert sampled == sign_flip_test([*draws, 0.0])
    assert sign_flip_test([1.0] * 40).p == sign_flip_test([1.0] * 40).smallest == 1 / 100_001


def test_level_is_kept_when_nothing_differs() -> None:
    draws = np.random.default_rng(0).standard_t(2, size=(1500, 8)) / 50  # heavy tails: no normal theory needed
    false_alarms = np.mean([sign_flip_test(row.tolist()).p < 0.05 for row in draws])
    assert false_alarms < 0.065  # 12 of 256 patterns, 0.047, and three standard errors of 0.0055


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_by_its_definition(p_values: list[float]) -> None:
    corrected = holm(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(order):
        steps = [min(1.0, (len(p_values) - j) * p_values[other]) for j, other in enumerate(order[: rank + 1])]
        assert corrected[index] == max(steps)
    assert all(p <= more for p, more in zip(p_values, corrected, strict=True))


def test_messages() -> None:
    with pytest.raises(ValueError, match="a sign-flip test needs at least one paired difference, got none"):
        sign_flip_test([])
