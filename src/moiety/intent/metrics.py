"""Grades of closed-set predictions, as the field computes them; each is in 0..1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score


def measures_of(counts: Float[np.ndarray, "*tables classes classes"]) -> dict[str, np.ndarray]:
    """The same six grades from confusion matrices, any number of them at once.

    Args:
        counts: Confusion matrices: rows are true labels, columns are answers.

    Returns:
        Measure -> values, ``(tables...)``, as :func:`closed_set_metrics` gives them.
    """
    hits, asked, said = counts.diagonal(axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)
    rows, occurs = asked.sum(-1), (asked + said) > 0
    precision, recall, f1 = _share(hits, said), _share(hits, asked), _share(2 * hits, asked + said)
    classes = np.maximum(occurs.sum(-1), 1)
    return {
        "acc": _share(hits.sum(-1), rows),
        "f1": f1.sum(-1) / classes,
        "prec": precision.sum(-1) / classes,
        "rec": recall.sum(-1) / classes,
        "weighted_f1": _share((f1 * asked).sum(-1), rows),
        "weighted_prec": _share((precision * asked).sum(-1), rows),
    }


def _share(part: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.divide(part, of, out=np.zeros(np.broadcast(part, of).shape), where=of > 0)


def closed_set_metrics(truth: Sequence[str] | np.ndarray, predicted: Sequence[str] | np.ndarray) -> dict[str, float]:
    """The six grades that papers on intent recognition report, each under its name.

    ``f1``, ``prec`` and ``rec`` are macro means over the labels that occur in truth or prediction. A precision that is
    not defined counts as 0. Weighted recall is left out because it equals accuracy.

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
