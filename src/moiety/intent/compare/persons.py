"""How sure a grade is for people: persons are drawn anew, or change sides, with all of their rows.

Seeds tell how much training varies. What another person would give only other persons tell, so the person is the unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from moiety.intent.compare.run_record import IntentRun
from moiety.intent.metrics import measures_of
from moiety.stats.intervals import Estimate
from moiety.stats.permutation import SignFlip

NUM_DRAWS = 2_000
"""Draws of an interval and of a test."""

Tables = Float[np.ndarray, "runs groups classes classes"]


def tables_of(runs: Mapping[str, Sequence[IntentRun]], hide: str = "") -> dict[str, np.ndarray]:
    """Name -> counts of each of its runs and groups, ``(runs, groups, classes, classes)``, truth down.

    Groups and classes are in the same order for all names.

    Args:
        runs: Name in the table -> its runs.
        hide: Modalities taken away, "" for none.
    """
    given = {name: [run.by_group[hide] for run in own] for name, own in runs.items()}
    found = [one for own in given.values() for one in own]
    labels = {label: i for i, label in enumerate(sorted({label for one in found for label in one["labels"]}))}
    groups = {group: i for i, group in enumerate(sorted({group for one in found for group in one["counts"]}))}
    tables = {}
    for name, own in given.items():
        table = np.zeros((len(own), len(groups), len(labels), len(labels)))
        for number, one in enumerate(own):
            for group, cells in one["counts"].items():
                for truth, said, count in cells:
                    place = labels[one["labels"][truth]], labels[one["labels"][said]]
                    table[(number, groups[group], *place)] += count
        tables[name] = table
    return tables


def drawn(tables: Mapping[str, Tables], weights: Mapping[str, float]) -> dict[str, tuple[Estimate, SignFlip]]:
    """Weighted sums of grades, each a mean over runs, with intervals of persons drawn with replacement.

    Args:
        tables: Name -> counts.
        weights: Name -> weight.

    Returns:
        Measure -> the estimate, whose interval holds the middle 95 % of the draws (none with one group), and a test
        whose *p* is twice the share of draws on the rarer side of 0.

    Source:
        Efron 1979, the person as the unit that is drawn.
    """
    groups = next(iter(tables.values())).shape[1]
    draws = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=NUM_DRAWS)
    seen = _weighted({name: _summed(tables[name], np.ones((1, groups))) for name in weights}, weights)
    values = _weighted({name: _summed(tables[name], draws) for name in weights}, weights)
    found = {}
    for measure, mean in seen.items():
        low, high = np.quantile(values[measure], [0.025, 0.975]) if groups > 1 else (np.nan, np.nan)
        rarer = 2 * min((values[measure] <= 0).sum(), (values[measure] >= 0).sum())
        p = min(1.0, float(rarer + 1) / (NUM_DRAWS + 1))
        estimate = Estimate(float(mean[0]), float(low), float(high), groups)
        found[measure] = estimate, SignFlip(p, 1 / (NUM_DRAWS + 1), groups, exact=False)
    return found


def swapped(first: Tables, second: Tables) -> dict[str, SignFlip]:
    r"""Could chance alone have made this difference? Two-sided: the answers to each person change sides at random.

    If nothing distinguishes two methods, the answers of either to one person may as well be those of the other. *p* is
    the share of random exchanges whose difference is at least as large, the one that was seen among them.

    Source:
        Fisher 1935, section 21, with persons as pairs; grades are computed anew for each exchange, since a mean F1 is
        no mean over persons.
    """
    groups = first.shape[1]
    second, first = np.broadcast_arrays(second, first)
    is_exact = 2 ** (groups - 1) <= NUM_DRAWS
    if is_exact:  # an exchange and its mirror image differ equally, so the first person can stay
        change = ((np.arange(2 ** (groups - 1))[:, None] >> np.arange(groups)) & 1).astype(float)
    else:
        change = np.random.default_rng(0).integers(0, 2, size=(NUM_DRAWS, groups)).astype(float)
    change[0] = 0  # nobody changes sides: what was seen
    both = {
        "a": _summed(first, 1 - change) + _summed(second, change),
        "b": _summed(first, change) + _summed(second, 1 - change),
    }
    found = {}
    for measure, values in _weighted(both, {"a": 1.0, "b": -1.0}).items():
        p = float(np.mean(np.abs(values) >= abs(values[0]) - 1e-12))
        found[measure] = SignFlip(p, 1 / len(change), groups, is_exact)
    return found


def _summed(tables: Tables, times: Float[np.ndarray, "draws groups"]) -> np.ndarray:
    """Counts of each run with each person as often as a draw says, ``(runs, draws, classes, classes)``."""
    runs, groups, classes, _ = tables.shape
    return (times @ tables.reshape(runs, groups, -1)).reshape(runs, len(times), classes, classes)


def _weighted(tables: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Measure -> grades averaged over runs, times their weights, ``(draws,)``."""
    found = {name: measures_of(tables[name]) for name in weights}
    measures = next(iter(found.values()))
    return {
        measure: np.sum([weight * found[name][measure].mean(0) for name, weight in weights.items()], axis=0)
        for measure in measures
    }
