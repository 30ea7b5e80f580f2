"""The rule that calls a sample out of scope, as a fitted classifier holds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from moiety.intent.data.samples import IntentSample
from moiety.intent.network.model import IntentNetwork
from moiety.intent.network.openset import doc_decision, doc_thresholds, score_of, score_threshold
from moiety.intent.training import Rows

Predict = Callable[[Sequence[IntentSample]], tuple[Tensor, Tensor]]
"""Samples -> logits ``(samples, classes)`` and embeddings ``(samples, width)``."""


@dataclass(frozen=True, eq=False)
class ScopeRule:
    """Decides which samples belong to no class.

    Args:
        kind: ``doc``; a score (``msp``, ``energy``, ``max_logit``, ``distance``); or None: all samples are in scope.
        thresholds: For ``doc`` one value for each class, ``(classes,)``; for a score the least value that counts as in
            scope; None without a rule.
        network: What made the logits; ``distance`` asks it for the label descriptions.
    """

    kind: str | None
    thresholds: Any
    network: IntentNetwork

    @classmethod
    def fit(cls, kind: str | None, network: IntentNetwork, predict: Predict, rows: Rows, dev: Rows) -> ScopeRule:
        """The rule with its thresholds.

        Args:
            kind: See above.
            network: The trained network.
            predict: Samples -> their logits and embeddings.
            rows: Training rows; they decide the thresholds of ``doc``.
            dev: Dev rows; the threshold of a score keeps 95 % of them in scope.
        """
        if kind is None:
            return cls(None, None, network)
        if kind == "doc":
            return cls(kind, doc_thresholds(predict(rows.samples)[0], rows.y), network)
        return cls(kind, score_threshold(cls(kind, None, network).scores(*predict(dev.samples)).numpy()), network)

    def score_kind(self, kind: str | None = None) -> str:
        """The score that is asked for: `kind`, else that of the rule, else ``msp``."""
        return kind or (self.kind if self.kind not in (None, "doc") else "msp")

    def scores(self, logits: Tensor, embedding: Tensor, kind: str | None = None) -> Tensor:
        """How far each sample looks in scope, ``(samples,)``: higher = further in, as thresholds and grades take it."""
        kind = self.score_kind(kind)
        if kind == "distance":
            device = next(self.network.parameters()).device
            samples, descriptions = self.network.synchronised(embedding.to(device))
            return (samples @ descriptions.T).amax(-1).detach().cpu()
        return score_of(kind, logits)

    def oos_scores(self, logits: Tensor, embedding: Tensor, kind: str | None = None) -> np.ndarray:
        """How far each sample looks out of scope, ``(samples,)``: 1 - msp, or minus the other scores."""
        scores = self.scores(logits, embedding, kind).numpy()
        return 1 - scores if self.score_kind(kind) == "msp" else -scores

    def refused(self, logits: Tensor, embedding: Tensor) -> np.ndarray:
        """Which samples are out of scope, ``(samples,)``."""
        if self.kind is None:
            return np.zeros(len(logits), dtype=bool)
        if self.kind == "doc":
            return doc_decision(logits, self.thresholds).numpy() == logits.shape[1]
        return self.scores(logits, embedding).numpy() < self.thresholds
