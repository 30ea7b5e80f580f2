"""Computes the interval of a benchmark's headline from its spread over resampled sets of questions."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from moiety.stats.intervals import Estimate

Statistic = Callable[[NDArray[np.float64]], float]
"""One weight a question ``(questions,)`` -> a number; weights count how often a question was drawn."""

NUM_DRAWS = 1000


def resampled(
    statistic: Statistic,
    clusters: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Estimate:
    """95 % percentile bootstrap of a statistic, drawing whole clusters of questions with replacement.

    A draw in which the statistic is undefined (NaN: every question drawn is one that the rule leaves out) is left out;
    if all are, there is no interval.

    Args:
        statistic: The number, from weights.
        clusters: Key of each question; questions of one key are drawn together.
        strata: Part of each question; each part keeps its number of clusters, so that none is ever empty. A cluster
            belongs to the part of its first question. None: one part.
        num_draws: Resamples.
        seed: Of the draws; same seed, same interval.

    Raises:
        ValueError: there is no question.

    Source:
        Efron 1979; the percentile interval with clusters as units, so that questions on one picture are not taken for
        independent ones.

    Example:
        >>> marks = np.array([1.0, 0.0, 1.0, 1.0] * 25)
        >>> estimate = resampled(lambda weights: float(weights @ marks / weights.sum()), range(100))
        >>> estimate.mean, estimate.low < 0.75 < estimate.high, estimate.num_values
        (0.75, True, 100)
    """
    if not len(clusters):
        raise ValueError("an interval needs at least one question, got none")
    numbers: dict[Hashable, int] = {}
    place = np.array([numbers.setdefault(key, len(numbers)) for key in clusters])
    parts: dict[Hashable, list[int]] = {}
    for number, first in enumerate(np.unique(place, return_index=True)[1]):
        parts.setdefault(None if strata is None else strata[first], []).append(number)
    members = [np.array(part) for part in parts.values()]
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(num_draws):
        drawn = np.concatenate([part[generator.integers(len(part), size=len(part))] for part in members])
        values.append(statistic(np.bincount(drawn, minlength=len(numbers))[place].astype(np.float64)))
    defined = [value for value in values if not math.isnan(value)]
    low, high = np.percentile(defined, [2.5, 97.5]) if defined else (math.nan, math.nan)
    return Estimate(statistic(np.ones(len(place))), float(low), float(high), len(numbers))
