"""Grades of closed-set predictions as the field computes them, each in 0..1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score


def closed_set_metrics(truth: Sequence[str] | np.ndarray, predicted: Sequence[str] | np.ndarray) -> dict[str, float]:
    """The six grades that papers on intent recognition mix, always by name.

    Macro means run over the labels that occur in truth or prediction. A precision that is not defined counts 0.
    Weighted recall is accuracy, and is left out for that.

    Source:
        MIntRec (Zhang et al. 2022) for ``acc``, ``f1``, ``prec``, ``rec``; later papers for the weighted two.
    """
    macro = {"average": "macro", "zero_division": 0}
    weighted = {"average": "weighted", "zero_division": 0}
    return {
        "acc": float(accuracy_score(truth, predicted)),
        "f1": float(f1_score(truth, predicted, **macro)),
        "prec": float(precision_score(truth, predicted, **macro)),
        "rec": float(recall_score(truth, predicted, **macro)),
        "weighted_f1": float(f1_score(truth, predicted, **weighted)),
        "weighted_prec": float(precision_score(truth, predicted, **weighted)),
    }
