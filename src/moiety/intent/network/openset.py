"""Out of scope: thresholds, decisions and scores for "none of these intents", and the grades of the field.

Scores here are higher for rows that look in scope. Labels are numbers of classes; the number after the last class means
out of scope.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.metrics import auc, confusion_matrix, precision_recall_curve, roc_auc_score, roc_curve
from torch import Tensor
from torch.nn import functional as F

from moiety.groups import nearest_name


def outlier_exposure_loss(logits: Float[Tensor, "samples classes"]) -> Float[Tensor, ""]:
    """Loss on rows known to be out of scope; least, log(classes), where all logits are equal.

    Source:
        Hendrycks et al. 2019, eq. 1 with a uniform target, as the MIntRec2.0 benchmark trains.
    """
    return -F.log_softmax(logits.float(), dim=-1).mean() if len(logits) else logits.sum() * 0


def doc_thresholds(
    logits: Float[Tensor, "samples classes"], y: Int[Tensor, " samples"], scale: float = 1.0
) -> Float[Tensor, " classes"]:
    r"""The least sigmoid score that each class accepts.

    The scores *p* of the training rows of a class are mirrored at 1. A normal distribution fitted to them has mean 1
    and deviation :math:`s_c = \sqrt{mean((1-p)^2)}`; the threshold is :math:`\max(1/2, 1 - scale \cdot s_c)`. A class
    without rows gets 1/2.

    Source:
        Shu et al. 2017 (DOC), as the MIntRec2.0 benchmark applies it.

    Example:
        >>> logits = torch.logit(torch.tensor([[0.9], [0.8], [0.6]]))
        >>> round(doc_thresholds(logits, torch.zeros(3).long()).item(), 6)
        0.735425
    """
    p = torch.sigmoid(logits.double())
    thresholds = torch.full((logits.shape[1],), 0.5, dtype=torch.float64)
    for label in range(logits.shape[1]):
        of_class = p[y == label, label]
        if len(of_class):
            thresholds[label] = max(0.5, 1 - scale * (1 - of_class).square().mean().sqrt().item())
    return thresholds


def doc_decision(logits: Float[Tensor, "samples classes"], thresholds: Float[Tensor, " classes"]) -> Tensor:
    """The best class if its sigmoid score exceeds its threshold, else the number of classes (out of scope)."""
    p, label = torch.sigmoid(logits.double()).max(1)
    return torch.where(p > thresholds[label], label, logits.shape[1])


SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "msp": lambda logits: logits.softmax(-1).amax(-1),
    "energy": lambda logits: logits.logsumexp(-1),
    "max_logit": lambda logits: logits.amax(-1),
}
"""Name -> score of logits ``(samples, classes)``: largest probability, free energy at temperature 1, largest logit."""


def score_of(name: str, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, " samples"]:
    """A score of :data:`SCORES`.

    Raises:
        ValueError: there is no such score.
    """
    if name not in SCORES:
        raise ValueError(f"no out-of-scope score {name!r}; {nearest_name(name, SCORES)}")
    return SCORES[name](logits.double())


def score_threshold(in_scope_scores: np.ndarray, keep: float = 0.95) -> float:
    """The largest threshold that keeps the share `keep` of the in-scope rows."""
    return float(np.quantile(in_scope_scores, 1 - keep, method="lower"))


def score_metrics(scores: np.ndarray, in_scope: np.ndarray) -> dict[str, float]:
    """Grades of a score that need no threshold, each in 0..1.

    ``der`` multiplies each error by the share of the other class, as the code of the benchmark does;
    ``detection_error`` multiplies it by the share of its class.

    Args:
        scores: Higher = further in scope.
        in_scope: The truth, one boolean for each row.

    Raises:
        ValueError: all rows are in scope, or none is.

    Source:
        MIntRec2.0 (Zhang et al. 2024), ``utils/metrics.py`` of the released benchmark.
    """
    y = np.asarray(in_scope).astype(int)
    if not 0 < y.sum() < len(y):
        raise ValueError(
            f"{y.sum()} of {len(y)} rows are in scope; out-of-scope grades need rows in scope and rows out of scope"
        )
    fpr, tpr, _ = roc_curve(y, scores)
    precision_in, recall_in, _ = precision_recall_curve(y, scores)
    precision_out, recall_out, _ = precision_recall_curve(1 - y, 1 - np.asarray(scores))
    nearest = np.abs(fpr - (1 - tpr)).argmin()
    enough = tpr >= 0.95
    share_in, share_out = y.mean(), 1 - y.mean()
    return {
        "auroc": float(roc_auc_score(y, scores)),
        "aupr_in": float(auc(recall_in, precision_in)),
        "aupr_out": float(auc(recall_out, precision_out)),
        "fpr95": _fpr_at(scores, y, 0.95),
        "eer": float(fpr[nearest]),
        "der": float((share_out * (1 - tpr) + share_in * fpr)[enough].min()),
        "detection_error": float((share_in * (1 - tpr) + share_out * fpr)[enough].min()),
    }


def _fpr_at(scores: np.ndarray, y: np.ndarray, recall: float) -> float:
    """Share of out-of-scope rows among the highest scores, down to where `recall` of the in-scope rows is reached."""
    ordered = y[np.argsort(-np.asarray(scores), kind="stable")]
    reached = int(np.argmax(np.cumsum(ordered) / y.sum() >= recall))
    return float((ordered[: reached + 1] == 0).sum() / (y == 0).sum())


def open_set_metrics(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> dict[str, float]:
    """Grades of decisions over all classes and out of scope (number `num_classes`), each in 0..1.

    Means run over the classes that occur in truth or prediction; the F1 of any other class is undefined (NaN, not 0).

    Source:
        MIntRec2.0's released metrics; these take the last label that occurs as out of scope, here it is always the
        number `num_classes`.

    Example:
        >>> open_set_metrics(np.array([0, 2]), np.array([0, 2]), 2)["oid_f1"]
        1.0
    """
    table = confusion_matrix(truth, predicted, labels=np.arange(num_classes + 1)).astype(float)
    hits, asked, said = table.diagonal(), table.sum(1), table.sum(0)
    f1 = np.divide(2 * hits, asked + said, out=np.full_like(hits, np.nan), where=asked + said > 0)
    known = f1[:num_classes][~np.isnan(f1[:num_classes])]
    return {
        "oid_acc": float(hits.sum() / max(table.sum(), 1)),
        "oid_f1": float(np.nanmean(f1)) if table.any() else math.nan,
        "f1_known": float(known.mean()) if len(known) else math.nan,
        "f1_open": float(f1[num_classes]),
    }
