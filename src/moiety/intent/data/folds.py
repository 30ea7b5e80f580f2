"""Folds of persons: each person is scored once, by models that never saw that person."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from moiety.intent.data.dataset import Split
from moiety.intent.data.sources import Parts, rows_of, set_aside


def fold_rows(split: Split, folds: int) -> list[list[int]]:
    """Numbers of the rows that are scored in each fold: whole groups, labels spread as evenly as the groups allow.

    The folds do not depend on a seed.

    Args:
        split: Rows that name their group.
        folds: Number of folds.

    Raises:
        ValueError: rows name no group, or there are fewer groups than folds.

    Source:
        scikit-learn's ``StratifiedGroupKFold``, unshuffled.
    """
    if not split.groups:
        raise ValueError(
            f"data.folds is {folds}, but no row says who speaks; name the persons in a field `group` (or person, "
            "speaker, session), or leave folds out"
        )
    number = len(set(split.groups))
    if number < folds:
        raise ValueError(f"data.folds is {folds}, but there are {number} groups; give at most {number}")
    parts = StratifiedGroupKFold(n_splits=folds).split(np.zeros(len(split)), split.labels, split.groups)
    return [sorted(score.tolist()) for _, score in parts]


def folds_of(split: Split, folds: int, seed: int, fraction: float = 0.1) -> list[Parts]:
    """The parts of each fold: its persons are scored; of the others some choose the best epoch and the rest teach.

    Args:
        split: Rows that name their group.
        folds: Number of folds.
        seed: Seed that draws the persons who choose. The persons who are scored are the same for every seed and method.
        fraction: Share of the other rows that chooses.

    Raises:
        ValueError: rows name no group, there are too few groups, or none can be set aside to choose.
    """
    return [_parts(split, set(score), seed, fraction, folds) for score in fold_rows(split, folds)]


def _parts(split: Split, score: set[int], seed: int, fraction: float, folds: int) -> Parts:
    others = rows_of(split, [i for i in range(len(split)) if i not in score])
    taken = set_aside(others, seed, fraction)
    left = [i for i in range(len(others)) if i not in taken]
    persons = len(set(split.groups))
    note = (
        f"each of {persons} groups was scored once, in {folds} folds, by models that never saw it; the best epoch was "
        f"chosen on {fraction:.0%} of the other rows, whole groups drawn by the seed"
    )
    return Parts(rows_of(others, left), rows_of(others, sorted(taken)), rows_of(split, sorted(score)), others, [note])
