"""The order loss on a real batch: which layers and tokens it reads, and what is logged of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from moiety.groups import ExpertGroups, Modality
from moiety.moe.asymoe.cone_loss import OrderLoss, expert_order_loss, pool
from moiety.moe.asymoe.cone_pairs import OrderPairs, order_pairs, order_spans
from moiety.moe.experts.bank import bank_in
from moiety.moe.layer import ModalityMoE
from moiety.moe.tables import INTER_GROUP
from moiety.moe.trace import Routing
from moiety.recipe.asymoe import HYPERBOLIC, AsyMoESettings
from moiety.train.asymoe.measures import Measures, beyond_cap


class OrderObjective:
    """Order loss over the inter-modality experts of some layers.

    Args:
        layers: Sparse layers that are read, see :func:`order_layers`.
        groups: Expert table of the model.
        settings: Section ``moe.asymoe``.
    """

    def __init__(self, layers: Sequence[ModalityMoE], groups: ExpertGroups, settings: AsyMoESettings) -> None:
        self.layers, self.groups, self.settings = tuple(layers), groups, settings
        self._sides = [groups.index_of_modality(modality) for modality in (Modality.IMAGE, Modality.TEXT)]

    def loss(
        self, routings: Mapping[int, Routing], inputs: Mapping[str, Tensor], beside: Mapping[str, Tensor]
    ) -> OrderLoss:
        """Mean over layers and experts.

        Args:
            routings: Decision of each layer by its index, with what it read.
            inputs: The batch, with ``modality_ids``.
            beside: ``span_ids``, ``span_order``, ``image_key``.
        """
        spans = order_spans(inputs["modality_ids"] == Modality.IMAGE, beside["span_ids"])
        first = spans.text_mask.int().argmax(dim=1)  # one token of each span speaks for all
        pairs = order_pairs(spans, self.settings, beside["image_key"], beside["span_order"].flatten()[first] > 0)
        found = []
        for layer in self.layers:
            x = routings[layer.layer_index].extras["x"]
            x = x.detach() if self.settings.order_detach else x
            pooled = torch.stack([pool(x, spans.vision_mask), pool(x, spans.text_mask)])
            bank = inter_bank(layer)
            found += [self._of_expert(pooled, pairs, bank, expert) for expert in range(bank.num_experts)]
        return OrderLoss.mean(found)

    def measures(self, order: OrderLoss, routings: Mapping[int, Routing]) -> Measures:
        """What is logged of an order loss and of the experts that it reads."""
        beyond = [
            torch.stack(beyond_cap(routings[layer.layer_index], inter_bank(layer), self.settings.radius_cap))
            for layer in self.layers
        ]
        far, points = torch.stack(beyond).sum(dim=0)
        return {
            "order/pair_loss": (order.pair.detach(), 1.0),
            "order/negative_loss": (order.negative.detach(), 1.0),
            "order/distance_loss": (order.distance.detach(), 1.0),
            "order/inside_share": (order.num_inside, order.num_pairs),
            "order/outside_share": (order.num_outside, order.num_negatives),
            "order/apex_radius": (order.apex_radius.detach(), order.num_pairs),
            "inter/beyond_cap_share": (far, points),
        }

    def _of_expert(self, pooled: Tensor, pairs: OrderPairs, bank: Any, expert: int) -> OrderLoss:
        kappa, product = bank.log_kappa()[expert].exp(), self.settings.inter_kind == "product"
        return expert_order_loss(
            pooled,
            pairs,
            bank.projection[expert, self._sides],
            bank.cone_log_scale[expert, self._sides],
            self.settings,
            kappa if product else kappa.squeeze(-1),
            bank.num_factors if product else None,
        )


def order_layers(layers: Sequence[ModalityMoE], depth: int, settings: AsyMoESettings) -> list[ModalityMoE]:
    """Sparse layers that the order loss reads: the last, and the one nearest to mid depth; none where it is off.

    Args:
        layers: All sparse layers.
        depth: Decoder layers of the model.
        settings: Section ``moe.asymoe``.
    """
    off = not (settings.order_weight or settings.distance_weight)
    if off or settings.inter_kind not in HYPERBOLIC or not layers[0].groups.inter:
        return []
    if settings.order_layers == "all":
        return list(layers)
    middle = min(layers, key=lambda layer: abs(layer.layer_index - (depth - 1) / 2))
    return [middle] if middle is layers[-1] else [middle, layers[-1]]


def inter_bank(layer: ModalityMoE) -> Any:
    """The bank of a layer's inter-modality experts."""
    return bank_in(layer.experts).bank(INTER_GROUP)
