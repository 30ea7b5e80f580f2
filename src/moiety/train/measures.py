"""What is logged of scheme ``asymoe``, as sums and counts, so that windows and ranks add up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from moiety.groups import TEXT_GROUP, ExpertGroups
from moiety.moe.trace import Routing

MEASURES = (
    "order/pair_loss",
    "order/negative_loss",
    "order/distance_loss",
    "order/inside_share",
    "order/outside_share",
    "order/apex_radius",
    "gate/loss",
    "gate/alpha_gap",
    "gate/score_gap",
    "evidence/alpha",
    "evidence/score",
    "evidence/mass",
)
"""Names in the log: terms of the order loss, not weighted; shares of true pairs inside and false pairs outside their
cone, mean radius of an apex; the gate objective, not weighted, and its gaps; means of the gates over text tokens."""

Measures = dict[str, tuple[Tensor, Tensor | float]]
"""Name -> sum and count; their quotient is the mean."""


def gate_means(routings: Mapping[int, Routing], groups: ExpertGroups) -> Measures:
    """Alpha, score and mass over text tokens and layers, of alpha over the experts as well.

    Args:
        routings: Decision of each layer.
        groups: Expert table of the model.
    """
    text, measures = groups.names.index(TEXT_GROUP), Measures()
    for name in ("alpha", "score", "mass"):
        sums = [_sum_and_count(found, text, name) for found in routings.values() if name in found.extras]
        if sums:
            total, count = torch.stack(sums).sum(dim=0)
            measures[f"evidence/{name}"] = total, count
    return measures


def _sum_and_count(routing: Routing, text: int, name: str) -> Tensor:
    gate, own = routing.extras[name].detach(), routing.modality_group == text
    gate = gate if gate.ndim == 1 else gate.mean(dim=-1)  # (tokens, experts) -> (tokens,)
    return torch.stack([torch.where(own, gate, 0).sum(), own.sum().to(gate.dtype)])
