"""Rows that choose the best epoch, where a classifier is given none: a stratified share of the training rows."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from sklearn.model_selection import train_test_split


def dev_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the rows that teach, and of the rows that choose the epoch, both rising.

    Args:
        labels: Label of each row, ``(rows,)``.
        fraction: Share of the rows that chooses, within 0..1. At least as many rows choose as there are labels.
        seed: Draws the rows.

    Raises:
        ValueError: a label has one row, which cannot do both, or so many rows choose that a label has none left that
            teaches.

    Source:
        scikit-learn's ``train_test_split``, stratified.
    """
    counts = Counter(labels.tolist())
    rare = min(sorted(counts), key=lambda label: counts[label])
    if counts[rare] < 2:
        raise ValueError(f"label {rare!r} has 1 row, so no dev share can be split off; give X_dev and y_dev")
    share = max(fraction, len(counts) / len(labels))
    rows = np.arange(len(labels))
    left = len(labels) - math.ceil(share * len(labels))
    if left < len(counts):
        raise ValueError(_too_large(fraction, f"{left} of {len(labels)} rows to learn {len(counts)} labels from"))
    teach, choose = train_test_split(rows, test_size=share, stratify=labels, random_state=seed)
    untaught = sorted(set(counts) - set(labels[teach].tolist()))
    if untaught:
        raise ValueError(_too_large(fraction, f"no row to learn label {untaught[0]!r} from"))
    return sorted(teach.tolist()), sorted(choose.tolist())


def _too_large(fraction: float, left: str) -> str:
    return f"validation_fraction={fraction:g} leaves {left}; set a smaller one (default 0.1), or give X_dev and y_dev"
