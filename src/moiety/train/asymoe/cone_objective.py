"""The cone loss on a batch: which layers and tokens it reads, and what the log shows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moiety.groups import ExpertGroups, Modality
from moiety.moe.asymoe.cone_loss import ConeLoss, expert_cone_loss, pool
from moiety.moe.asymoe.cone_pairs import ConePairs, cone_pairs, cone_spans
from moiety.moe.experts.bank import bank_in
from moiety.moe.layer import ModalityMoE
from moiety.moe.tables import INTER_GROUP
from moiety.moe.trace import Routing
from moiety.recipe.asymoe import HYPERBOLIC, AsyMoESettings
from moiety.train.asymoe.measures import Measures, beyond_cap


class ConeObjective:
    """Cone loss over the inter-modality experts of some layers.

    Args:
        layers: Sparse layers that the loss reads, see :func:`cone_layers`.
        groups: Expert table of the model.
        settings: Section ``moe.asymoe``.
    """

    def __init__(self, layers: Sequence[ModalityMoE], groups: ExpertGroups, settings: AsyMoESettings) -> None:
        self.layers, self.groups, self.settings = tuple(layers), groups, settings
        self._sides = [groups.index_of_modality(modality) for modality in (Modality.IMAGE, Modality.TEXT)]

    def loss(
        self, routings: Mapping[int, Routing], inputs: Mapping[str, Tensor], trainer_inputs: Mapping[str, Tensor]
    ) -> ConeLoss:
        """The cone loss, as the mean over layers and experts.

        Args:
            routings: Index of a layer -> its routing, with the inputs of the layer.
            inputs: The batch, with ``modality_ids``.
            trainer_inputs: The part of the batch that only the trainer reads: ``span_ids`` and ``span_order``,
                ``(batch, seq)``, and ``image_key``, ``(batch,)``.
        """
        spans = cone_spans(inputs["modality_ids"] == Modality.IMAGE, trainer_inputs["span_ids"])
        first = spans.text_mask.int().argmax(dim=1)  # all tokens of a span have the same value, so one is read
        belongs = trainer_inputs["span_order"].flatten()[first] > 0
        pairs = cone_pairs(spans, self.settings, trainer_inputs["image_key"], belongs)
        found = []
        for layer in self.layers:
            x = routings[layer.layer_index].extras["x"]
            x = x.detach() if self.settings.cone_detach else x
            pooled = torch.stack([pool(x, spans.vision_mask), pool(x, spans.text_mask)])
            bank = inter_bank(layer)
            found += [self._of_expert(pooled, pairs, bank, expert) for expert in range(bank.num_experts)]
        return ConeLoss.mean(found)

    def measures(self, cone: ConeLoss, routings: Mapping[int, Routing]) -> Measures:
        """The numbers for the log: terms of a cone loss, and how far out the tokens of its experts are."""
        beyond = [
            torch.stack(beyond_cap(routings[layer.layer_index], inter_bank(layer), self.settings.radius_cap))
            for layer in self.layers
        ]
        far, points = torch.stack(beyond).sum(dim=0)
        return {
            "cone/pair_loss": (cone.pair.detach(), 1.0),
            "cone/negative_loss": (cone.negative.detach(), 1.0),
            "cone/distance_loss": (cone.distance.detach(), 1.0),
            "cone/inside_share": (cone.num_inside, cone.num_pairs),
            "cone/outside_share": (cone.num_outside, cone.num_negatives),
            "cone/apex_radius": (cone.apex_radius.detach(), cone.num_pairs),
            "inter/beyond_cap_share": (far, points),
        }

    def _of_expert(self, pooled: Tensor, pairs: ConePairs, bank: Any, expert: int) -> ConeLoss:
        kappa, product = bank.log_kappa()[expert].exp(), self.settings.inter_kind == "product"
        return expert_cone_loss(
            pooled,
            pairs,
            bank.projection[expert, self._sides],
            bank.cone_log_scale[expert, self._sides],
            self.settings,
            kappa if product else kappa.squeeze(-1),
            bank.num_factors if product else None,
        )


def cone_layers(layers: Sequence[ModalityMoE], depth: int, settings: AsyMoESettings) -> list[ModalityMoE]:
    """Sparse layers that the cone loss reads: the last one, and the one nearest to the middle; none if it is off.

    Args:
        layers: All sparse layers.
        depth: Number of decoder layers.
        settings: Section ``moe.asymoe``.
    """
    off = not (settings.cone_weight or settings.distance_weight)
    if off or settings.inter_kind not in HYPERBOLIC or not layers[0].groups.inter:
        return []
    if settings.cone_layers == "all":
        return list(layers)
    middle = min(layers, key=lambda layer: abs(layer.layer_index - (depth - 1) / 2))
    return [middle] if middle is layers[-1] else [middle, layers[-1]]


def inter_bank(layer: ModalityMoE) -> Any:
    """The bank with the inter-modality experts of a layer."""
    return bank_in(layer.experts).bank(INTER_GROUP)
