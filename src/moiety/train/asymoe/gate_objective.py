"""The gate objective on a batch: which samples run through the decoder again, and the gates of both passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from moiety.groups import Modality
from moiety.moe.asymoe.gate_loss import GateLoss, Gates, gate_loss
from moiety.moe.layer import ModalityMoE
from moiety.moe.trace import Routing
from moiety.recipe.asymoe import AsyMoESettings
from moiety.train.asymoe.masked_pass import Exchange, masked_trace, partners
from moiety.train.asymoe.measures import Measures
from moiety.vlm.data import IGNORED_LABEL
from moiety.vlm.decoder_calls import DecoderCall


class GateObjective:
    """Gate objective over the layers with evidence experts.

    Args:
        decoder: Stack of decoder layers.
        layers: Sparse layers with evidence experts.
        settings: Section ``moe.asymoe``.
        seed: Seed that chooses, together with the step, which samples run again.
        autocast: Function that makes the autocast context of the second pass.
    """

    def __init__(
        self,
        decoder: nn.Module,
        layers: Sequence[ModalityMoE],
        settings: AsyMoESettings,
        seed: int = 0,
        autocast: Any = nullcontext,
    ) -> None:
        self.decoder, self.layers, self.settings = decoder, tuple(layers), settings
        self._seed, self._autocast = seed, autocast

    def loss(
        self,
        routings: Mapping[int, Routing],
        inputs: Mapping[str, Tensor],
        image_key: Tensor,
        kept: DecoderCall,
        step: int,
    ) -> GateLoss:
        """The loss on the gates of positions that predict an answer, with the right pictures and with other ones.

        ``probes``: the gates are computed again from the inputs of both passes, so that only the gates learn. ``full``:
        gradient flows through both passes.

        Args:
            routings: Index of a layer -> its routing, with the inputs of the layer.
            inputs: The batch, with ``modality_ids`` and ``labels``.
            image_key: A number for the pictures of each row, ``(batch,)``; equal for equal pictures.
            kept: The call of the decoder in the first pass.
            step: Number of optimizer steps that are done.
        """
        image_mask = inputs["modality_ids"] == Modality.IMAGE
        predicts = nn.functional.pad(inputs["labels"][:, 1:] != IGNORED_LABEL, (0, 1))
        exchange = self._exchange(image_mask, predicts, image_key, step)
        rows, asked = exchange.rows, predicts[exchange.rows]
        present = [self._gates(layer, routings[layer.layer_index], rows, asked) for layer in self.layers]
        if not len(rows):
            return gate_loss(present, present, self.settings.gate_margin)
        assert kept.kwargs is not None
        with self._autocast():
            learns = self.settings.gate_gradient == "full"
            again = masked_trace(self.decoder, kept.kwargs, exchange, learns=learns).by_layer()
        every = torch.arange(len(rows), device=rows.device)
        masked = [self._gates(layer, again[layer.layer_index][-1], every, asked) for layer in self.layers]
        return gate_loss(present, masked, self.settings.gate_margin)

    def _exchange(self, image_mask: Tensor, predicts: Tensor, image_key: Tensor, step: int) -> Exchange:
        """Which rows run again, and with which pictures. The same seed and step give the same choice."""
        images, keys, answers = torch.stack([image_mask.sum(dim=1), image_key, predicts.sum(dim=1)]).tolist()
        batch, mean_patch = len(image_key), self.settings.gate_masking == "mean_patch"
        order = torch.randperm(batch, generator=torch.Generator().manual_seed(1_000_003 * self._seed + step)).tolist()
        if mean_patch:
            pairs = [(row, row) for row in order if images[row] and answers[row]]
        else:
            pairs = partners(images, keys, answers, order)
        return Exchange.of(image_mask, pairs[: math.ceil(batch * self.settings.gate_share)], mean_patch)

    def _gates(self, layer: ModalityMoE, routing: Routing, rows: Tensor, asked: Tensor) -> Gates:
        """Mean gates of `rows` over the positions where `asked`, ``(rows, seq)``, is true."""

        def chosen(name: str) -> Tensor:  # (batch * seq, …) -> (marked tokens, …)
            return routing.extras[name].unflatten(0, (-1, asked.shape[1]))[rows][asked]

        if self.settings.gate_gradient == "probes":
            alpha, score = layer.probe(*(chosen(name).detach() for name in ("x", "context", "mass")))
        else:
            alpha, score = chosen("alpha"), chosen("score") if "score" in routing.extras else None
        return Gates.mean(alpha, score, asked.nonzero()[:, 0], len(rows))


def weighs_evidence(layer: ModalityMoE) -> bool:
    """Whether a layer has evidence experts."""
    return layer.settings.asymoe is not None and layer.settings.asymoe.text_kind == "evidence"


def gate_measures(gate: GateLoss) -> Measures:
    """The numbers of a gate objective for the log."""
    count = float(gate.num_samples)
    return {
        "gate/loss": (gate.total.detach(), 1.0),
        "gate/alpha_gap": (gate.alpha_gap * count, count),
        "gate/score_gap": (gate.score_gap * count, count),
    }
