"""TF-IDF with logistic regression beside the network: on few rows of text the network alone may stand below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from moiety.intent.data.samples import IntentSample
from moiety.intent.metrics import closed_set_metrics

STEPS = 20
"""Shares from 0 to 1 that are tried, in so many steps."""
REGULARISATION = 10.0
"""scikit-learn's ``C`` of the logistic regression."""


@dataclass(frozen=True, eq=False)
class WordBlend:
    """Probabilities ``(1 - share) · network + share · words``, for the rows that have text.

    Args:
        share: Weight of the words, 0..1.
        vocabulary: Words, marks and pairs of them -> column.
        idf: Inverse document frequency of each column, ``(columns,)``.
        weight: Weights of the logistic regression, ``(classes, columns)``.
        bias: Its bias, ``(classes,)``.
    """

    share: float
    vocabulary: dict[str, int]
    idf: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def fit(
        cls, rows: Any, dev: Any, predict: Callable[[Sequence[IntentSample]], tuple[Tensor, Tensor]], monitor: str
    ) -> WordBlend:
        """Learn the words from the training rows; the dev rows choose the share, the smallest of equally good ones.

        Args:
            rows: Training rows (:class:`moiety.intent.training.Rows`); those without text teach nothing here.
            dev: Dev rows.
            predict: Gives logits and embeddings of the network alone.
            monitor: ``acc`` or ``f1``, the score that chooses.

        Raises:
            ValueError: some class has no training row with text.
        """
        with_text = [i for i, sample in enumerate(rows.samples) if _has_words(sample)]
        y, classes = rows.y.numpy(), int(rows.y.max()) + 1
        bare = sorted(set(range(classes)) - set(y[with_text].tolist()))
        if bare:
            raise ValueError(
                f"word_blend reads text, and {len(bare)} classes have no training row with text; leave it out"
            )
        vectorizer = _vectorizer()
        columns = vectorizer.fit_transform([str(rows.samples[i].text) for i in with_text])
        model = LogisticRegression(C=REGULARISATION, max_iter=5000).fit(columns, y[with_text])
        two_rows = len(model.coef_) == 1  # scikit-learn keeps one row for two classes: that of the second
        weight = np.concatenate([-model.coef_ / 2, model.coef_ / 2]) if two_rows else model.coef_
        bias = np.concatenate([-model.intercept_ / 2, model.intercept_ / 2]) if two_rows else model.intercept_
        vocabulary = {str(word): int(place) for word, place in vectorizer.vocabulary_.items()}
        blend = cls(0.0, vocabulary, vectorizer.idf_, weight, bias)
        logits, truth = predict(dev.samples)[0], dev.y.numpy()
        shares = [step / STEPS for step in range(STEPS + 1)]
        mixed = [cls(share, vocabulary, blend.idf, weight, bias) for share in shares]
        grades = [closed_set_metrics(truth, one.mixed(logits, dev.samples).argmax(1).numpy())[monitor] for one in mixed]
        return mixed[int(np.argmax(np.round(grades, 9)))]

    def mixed(self, logits: Tensor, samples: Sequence[IntentSample]) -> Tensor:
        """Logarithms of the mixed probabilities, ``(samples, classes)``; rows without text keep those of the network.

        Args:
            logits: Of the network, ``(samples, classes)``.
            samples: The same rows.
        """
        network = logits.double().softmax(-1)
        with_text = [i for i, sample in enumerate(samples) if _has_words(sample)]
        if with_text:
            columns = self._ready().transform([str(samples[i].text) for i in with_text])
            words = torch.from_numpy(columns @ self.weight.T + self.bias).softmax(-1)
            network[with_text] = (1 - self.share) * network[with_text] + self.share * words
        return network.clamp(min=1e-30).log().float()

    def _ready(self) -> TfidfVectorizer:
        vectorizer = _vectorizer(self.vocabulary)
        vectorizer.idf_ = self.idf
        return vectorizer

    def tensors(self) -> dict[str, Tensor]:
        """The numbers, for :mod:`moiety.intent.storage`."""
        share = np.array([self.share])
        held = {"share": share, "idf": self.idf, "weight": self.weight, "bias": self.bias}
        return {f"blend.{name}": torch.from_numpy(np.ascontiguousarray(value)) for name, value in held.items()}

    @classmethod
    def stored(cls, vocabulary: dict[str, int], tensors: dict[str, Tensor]) -> WordBlend:
        """What :meth:`tensors` gave, and the vocabulary."""
        idf, weight, bias = (tensors[f"blend.{name}"].numpy() for name in ("idf", "weight", "bias"))
        return cls(float(tensors["blend.share"]), vocabulary, idf, weight, bias)


def _has_words(sample: IntentSample) -> bool:
    return bool((sample.text or "").strip())


def _vectorizer(vocabulary: dict[str, int] | None = None) -> TfidfVectorizer:
    """Words and marks, single and in pairs; logarithmic counts."""
    return TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True, vocabulary=vocabulary)
