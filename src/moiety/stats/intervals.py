"""How sure a number is: 95 % intervals of one run, over seeds, and of differences between paired runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import ndtri, stdtrit


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval.

    Args:
        mean: The estimate.
        low: Lower end; NaN when one run gives no interval.
        high: Upper end; NaN likewise.
        num_values: How many values it rests on: questions of one run, or seeds.
    """

    mean: float
    low: float
    high: float
    num_values: int

    @property
    def has_interval(self) -> bool:
        """False when a single value says nothing about its spread."""
        return not (math.isnan(self.low) or math.isnan(self.high))


def wilson_interval(num_right: int, num_questions: int, confidence: float = 0.95) -> Estimate:
    r"""Interval of an accuracy measured once on `num_questions` questions.

    With z the normal quantile and p the accuracy, the centre is :math:`(p + z^2/2n) / (1 + z^2/n)` and the half width
    :math:`z \sqrt{p(1-p)/n + z^2/4n^2} / (1 + z^2/n)`. It stays inside 0..1, also for 0 or n right answers.

    Raises:
        ValueError: no question, or more right answers than questions.

    Example:
        >>> estimate = wilson_interval(8, 10)
        >>> round(estimate.low, 3), estimate.mean, round(estimate.high, 3)
        (0.49, 0.8, 0.943)

    Source:
        Wilson 1927.
    """
    if not 0 <= num_right <= num_questions or num_questions == 0:
        raise ValueError(
            f"{num_right} right answers of {num_questions} questions; expected 0 <= right <= questions, >= 1"
        )
    z = float(ndtri(0.5 + confidence / 2))
    share, n = num_right / num_questions, num_questions
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The interval holds `share`; rounding at 0 and n right answers would leave it outside by one ulp.
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n)


def seed_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    r"""Mean over seeds with Student's interval, :math:`\bar x \pm t_{n-1} s / \sqrt n`.

    One seed has no spread: the interval is NaN, never zero.

    Raises:
        ValueError: no value.

    Example:
        >>> estimate = seed_interval([0.5, 0.6, 0.7])
        >>> round(estimate.mean, 3), round(estimate.high - estimate.mean, 3)
        (0.6, 0.248)
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval over seeds needs at least one value, got none")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * spread / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate:
    """Mean of ``values - reference`` over the seeds that both have, with its interval.

    Pairs share data order and initial weights, so what a seed does to both cancels.

    Args:
        values: Seed -> score.
        reference: Seed -> score.

    Raises:
        ValueError: no seed in common.

    Example:
        >>> round(paired_difference({0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.6, 2: 0.9}).mean, 6)
        0.1
    """
    seeds = sorted(set(values) & set(reference))
    if not seeds:
        raise ValueError(f"no seed in common: {sorted(values)} and {sorted(reference)}")
    return seed_interval([values[seed] - reference[seed] for seed in seeds])
