"""The numbers of scheme ``asymoe`` in the log, as sums and counts, so that steps and processes can be added."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from moiety.groups import TEXT_GROUP, ExpertGroups
from moiety.moe.asymoe.experts.lorentz import LorentzExperts
from moiety.moe.trace import Routing

_SAMPLE = 256
"""About so many tokens are examined in a layer."""

MEASURES = (
    "cone/pair_loss",
    "cone/negative_loss",
    "cone/distance_loss",
    "cone/inside_share",
    "cone/outside_share",
    "cone/apex_radius",
    "inter/beyond_cap_share",
    "gate/loss",
    "gate/alpha_gap",
    "gate/score_gap",
    "evidence/alpha",
    "evidence/score",
    "evidence/mass",
    "evidence/alpha_target_loss",
)
"""Names in the log.

- ``cone``: terms of the cone loss, not weighted; share of true pairs inside the cone and of false pairs outside it;
  mean radius of an apex.
- ``inter``: share of tokens so far out that the radius cap leaves them no radial gradient.
- ``gate``: the gate objective, not weighted, and its gaps.
- ``evidence``: means of the gates over text tokens; distance of alpha from its target.
"""

Measures = dict[str, tuple[Tensor, Tensor | float]]
"""Name -> sum and count; their quotient is the mean."""


def gate_means(routings: Mapping[int, Routing], groups: ExpertGroups) -> Measures:
    """Means of alpha, evidence score and evidence mass over text tokens and layers; for alpha also over the experts.

    Args:
        routings: Routing of each layer.
        groups: Expert table of the model.
    """
    text, measures = groups.names.index(TEXT_GROUP), Measures()
    for name in ("alpha", "score", "mass"):
        sums = [_sum_and_count(found, text, name) for found in routings.values() if name in found.extras]
        if sums:
            total, count = torch.stack(sums).sum(dim=0)
            measures[f"evidence/{name}"] = total, count
    return measures


@torch.no_grad()
def beyond_cap(routing: Routing, bank: LorentzExperts, radius_cap: float) -> tuple[Tensor, Tensor]:
    """Number of points farther out than twice the radius cap before the cap is applied, and number of all points.

    A sample of the tokens is examined. A token has one point for each expert and factor, chosen or not.

    Args:
        routing: Routing of one layer, with the inputs of the layer.
        bank: The inter-modality experts of the layer.
        radius_cap: Largest radius of a token.
    """
    stride = max(1, len(routing.index) // _SAMPLE)
    group, x = routing.modality_group[::stride], routing.extras["x"][::stride].float()
    with torch.autocast(x.device.type, enabled=False):
        points = torch.einsum("th,esnh->estn", x, bank.projection.float()) * bank.log_scale.exp()[..., None, None]
    norms = points.unflatten(-1, (bank.num_factors, -1)).norm(dim=-1)  # (experts, sides, tokens, factors)
    radius = norms * (0.5 * bank.log_kappa()).exp()[:, None, None]
    own = torch.arange(bank.num_sides, device=group.device).unsqueeze(1) == group  # (sides, tokens); false on padding
    own = own.unsqueeze(-1).expand_as(radius)
    return ((radius > 2 * radius_cap) & own).sum(), own.sum()


def _sum_and_count(routing: Routing, text: int, name: str) -> Tensor:
    gate, own = routing.extras[name].detach(), routing.modality_group == text
    gate = gate if gate.ndim == 1 else gate.mean(dim=-1)  # (tokens, experts) -> (tokens,)
    return torch.stack([torch.where(own, gate, 0).sum(), own.sum().to(gate.dtype)])
