"""Grades a fitted model or floor on one split, with all modalities or with some of them hidden."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from moiety.intent.classifier import IntentClassifier
from moiety.intent.compare.floors import Majority, PooledLogistic
from moiety.intent.data.dataset import Split
from moiety.intent.data.samples import MODALITIES, has_input
from moiety.intent.data.sources import rows_of
from moiety.intent.metrics import closed_set_metrics

Model = IntentClassifier | Majority | PooledLogistic


@dataclass(frozen=True, eq=False)
class Graded:
    """The grades of a model on the rows that it can read.

    Args:
        grades: Measure -> value in 0..1; with out-of-scope measures where there are such rows.
        truth: True labels of the graded rows, ``(rows,)``.
        predicted: Answers of the model, likewise.
        without_input: Number of rows that were left out, because they have none of the modalities that are not hidden.
        groups: The speaker of each graded row; empty where the rows name none.
    """

    grades: dict[str, float]
    truth: np.ndarray
    predicted: np.ndarray
    without_input: int
    groups: Sequence[str] = ()

    def confusion(self) -> dict[str, Any]:
        """``labels``, and ``counts`` ``(labels, labels)``: rows are true labels, columns are answers."""
        labels = sorted({*self.truth.tolist(), *self.predicted.tolist()})
        return {"labels": labels, "counts": confusion_matrix(self.truth, self.predicted, labels=labels).tolist()}

    def by_group(self) -> dict[str, Any]:
        """``labels``, and for each group its ``counts``: triples of true label, answer, and number of rows."""
        labels = sorted({*self.truth.tolist(), *self.predicted.tolist()})
        place = {label: i for i, label in enumerate(labels)}
        cells = Counter(zip(self.groups, self.truth.tolist(), self.predicted.tolist(), strict=True))
        counts: dict[str, list[list[int]]] = {}
        for (group, truth, said), number in sorted(cells.items()):
            counts.setdefault(group, []).append([place[truth], place[said], number])
        return {"labels": labels, "counts": counts}


def grade(model: Model, split: Split, hide: Sequence[str] = (), oos_label: str | None = None) -> Graded | None:
    """Grade a model on every row that it can read.

    Args:
        model: A fitted classifier, or a floor.
        split: Rows with their labels.
        hide: Modalities hidden in every row.
        oos_label: Label of the rows that belong to no class, if `model` is a floor; a classifier knows this label.

    Returns:
        The grades; None where no row has a modality that is not hidden.

    Raises:
        ValueError: rows have no label, or a label that was never seen in training.
    """
    bare = [sample.key for sample, label in zip(split.samples, split.labels, strict=True) if not label]
    if bare:
        raise ValueError(f"{len(bare)} of {len(split)} rows have no label: {', '.join(bare[:5])}; grades need a label")
    taken = model.dims_ if isinstance(model, IntentClassifier) else MODALITIES
    kept = [name for name in taken if name not in hide]
    readable = [i for i, sample in enumerate(split.samples) if has_input(sample, kept)]
    if not readable:
        return None
    rows = rows_of(split, readable)
    truth = np.asarray(rows.labels, dtype=object)
    predicted = np.asarray(model.predict(rows.samples, hide=hide), dtype=object)
    if isinstance(model, IntentClassifier):
        grades = model.evaluate(rows.samples, truth, hide=hide)
    else:
        inside = np.array([label != oos_label for label in truth])
        truth, predicted = truth[inside], predicted[inside]
        rows = rows_of(rows, np.flatnonzero(inside).tolist())
        grades = closed_set_metrics(truth.astype(str), predicted.astype(str))
    return Graded(grades, truth, predicted, len(split) - len(readable), rows.groups)


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The sets to hide so that every non-empty set of `names` is left once, beginning with all of them.

    Example:
        >>> list(subsets(("text", "audio")))
        [(), ('text',), ('audio',)]
    """
    for size in range(len(names)):
        yield from itertools.combinations(names, size)
