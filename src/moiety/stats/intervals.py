"""How sure a number is: 95 % intervals of one run, over seeds, and of differences between paired runs.

The quantiles and the Wilson interval are scipy's. ``scipy.stats`` takes about half a second to import, so each function
imports it when it is called: ``import moiety`` and ``moiety --help`` stay fast.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval.

    Args:
        mean: The estimate.
        low: Lower end; NaN when one run gives no interval.
        high: Upper end; NaN likewise.
        num_values: Number of values behind the estimate: questions of one run, or seeds.
    """

    mean: float
    low: float
    high: float
    num_values: int

    @property
    def has_interval(self) -> bool:
        """Whether the spread could be measured; False for one seed."""
        return not (math.isnan(self.low) or math.isnan(self.high))


def wilson_interval(num_right: int, num_questions: int, confidence: float = 0.95) -> Estimate:
    r"""Interval of an accuracy that was measured once, on `num_questions` questions.

    With z the normal quantile and p the accuracy, the centre is :math:`(p + z^2/2n) / (1 + z^2/n)` and the half width
    :math:`z \sqrt{p(1-p)/n + z^2/4n^2} / (1 + z^2/n)`. The interval stays inside 0..1, also for 0 or n right answers.

    Raises:
        ValueError: there is no question, or there are more right answers than questions.

    Example:
        >>> estimate = wilson_interval(8, 10)
        >>> round(estimate.low, 3), estimate.mean, round(estimate.high, 3)
        (0.49, 0.8, 0.943)

    Source:
        Wilson 1927, as in ``scipy.stats.binomtest``.
    """
    from scipy.stats import binomtest

    if not 0 <= num_right <= num_questions or num_questions == 0:
        raise ValueError(
            f"{num_right} right answers of {num_questions} questions; expected 0 <= right <= questions, >= 1"
        )
    ends = binomtest(num_right, num_questions).proportion_ci(confidence, method="wilson")
    return Estimate(num_right / num_questions, float(ends.low), float(ends.high), num_questions)


def seed_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    r"""Mean over seeds with Student's interval, :math:`\bar x \pm t_{n-1} s / \sqrt n`.

    With one seed there is no spread to measure: the ends of the interval are NaN, never the value itself.

    Raises:
        ValueError: there is no value.

    Example:
        >>> estimate = seed_interval([0.5, 0.6, 0.7])
        >>> round(estimate.mean, 3), round(estimate.high - estimate.mean, 3)
        (0.6, 0.248)
    """
    from scipy.stats import t as student

    n = len(values)
    if n == 0:
        raise ValueError("an interval over seeds needs at least one value, got none")
    mean = statistics.fmean(values)
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    # scipy is asked for the interval of the standard distribution: with `scale=0`, equal values, it answers NaN
    half = float(student.interval(confidence, n - 1)[1]) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate:
    """Mean of ``values - reference`` over the seeds that both have, with its interval.

    The two runs of a pair share the order of the data and the initial weights. What these do to both runs cancels out.

    Args:
        values: Seed -> score.
        reference: Seed -> score.

    Raises:
        ValueError: the two have no seed in common.

    Example:
        >>> round(paired_difference({0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.6, 2: 0.9}).mean, 6)
        0.1
    """
    seeds = sorted(set(values) & set(reference))
    if not seeds:
        raise ValueError(f"no seed in common: {sorted(values)} and {sorted(reference)}")
    return seed_interval([values[seed] - reference[seed] for seed in seeds])
