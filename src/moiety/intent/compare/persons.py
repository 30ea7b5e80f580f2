"""Intervals and tests over persons: a person is drawn, or exchanged, together with all of their rows.

Several seeds show how much training varies. Only several persons show how other persons would score, so here the unit
is the person.
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
"""Number of draws for an interval, and for a test."""

Tables = Float[np.ndarray, "runs groups classes classes"]


def tables_of(runs: Mapping[str, Sequence[IntentRun]], hide: str = "") -> dict[str, np.ndarray]:
    """Name -> confusion matrix of each run and group, ``(runs, groups, classes, classes)``; rows are true labels.

    Groups and classes are in the same order for all names.

    Args:
        runs: Name in the table -> its runs.
        hide: Hidden modalities, "" for none.
    """
    given = {name: [run.by_group[hide] for run in of_name] for name, of_name in runs.items()}
    found = [counts for of_name in given.values() for counts in of_name]
    labels = {label: i for i, label in enumerate(sorted({label for one in found for label in one["labels"]}))}
    groups = {group: i for i, group in enumerate(sorted({group for one in found for group in one["counts"]}))}
    tables = {}
    for name, of_name in given.items():
        table = np.zeros((len(of_name), len(groups), len(labels), len(labels)))
        for number, one in enumerate(of_name):
            for group, cells in one["counts"].items():
                for truth, said, count in cells:
                    place = labels[one["labels"][truth]], labels[one["labels"][said]]
                    table[(number, groups[group], *place)] += count
        tables[name] = table
    return tables


def drawn(tables: Mapping[str, Tables], weights: Mapping[str, float]) -> dict[str, tuple[Estimate, SignFlip]]:
    """Weighted sums of grades (means over runs), with intervals from persons drawn with replacement.

    Args:
        tables: Name -> confusion matrices, as :func:`tables_of` makes them.
        weights: Name -> weight.

    Returns:
        Measure -> the estimate and a test. The interval of the estimate holds the middle 95 % of the draws; one group
        gives none. The *p* of the test is twice the share of draws on the rarer side of 0.

    Source:
        The bootstrap of Efron 1979, with the person as the unit that is drawn.
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
    r"""A two-sided permutation test of the difference between two methods, with persons as pairs.

    If the methods do not differ, their answers for a person may be exchanged. *p* is the share of random exchanges
    whose difference is at least as large as the one that was seen, which is counted among them.

    Source:
        Fisher 1935, section 21, with persons as pairs. The grades are computed again for each exchange, since a macro
        F1 is not a mean over persons.
    """
    groups = first.shape[1]
    second, first = np.broadcast_arrays(second, first)
    is_exact = 2 ** (groups - 1) <= NUM_DRAWS
    if is_exact:  # an exchange and its mirror image have the same size, so the first person need not be exchanged
        change = ((np.arange(2 ** (groups - 1))[:, None] >> np.arange(groups)) & 1).astype(float)
    else:
        change = np.random.default_rng(0).integers(0, 2, size=(NUM_DRAWS, groups)).astype(float)
    change[0] = 0  # no exchange: the difference that was seen
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
    """Confusion matrix of each run and draw, ``(runs, draws, classes, classes)``: each person as often as drawn."""
    runs, groups, classes, _ = tables.shape
    return (times @ tables.reshape(runs, groups, -1)).reshape(runs, len(times), classes, classes)


def _weighted(tables: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Measure -> weighted sum over names of the grades averaged over runs, ``(draws,)``."""
    found = {name: measures_of(tables[name]) for name in weights}
    measures = next(iter(found.values()))
    return {
        measure: np.sum([weight * found[name][measure].mean(0) for name, weight in weights.items()], axis=0)
        for measure in measures
    }
