"""Points in hyperbolic space: tokens as the experts compute them, pictures and phrases as in the cone loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moiety.groups import Modality
from moiety.lens.ground.forced import Forced, Reading
from moiety.moe.asymoe.cone_loss import CONE_CAP, cone_points, default_rho0, pool
from moiety.moe.asymoe.experts.lorentz import LorentzExperts
from moiety.moe.asymoe.geometry import delta_hyperbolicity, distance, poincare, radius, radius_cap
from moiety.moe.experts.bank import bank_in
from moiety.moe.layer import ModalityMoE
from moiety.vlm.model import moe_layers

MOST_POINTS = 100
"""Delta-hyperbolicity looks at all quadruples of points, so its time grows with the fourth power of their number."""
KINDS = ("patches", "words", "pictures", "phrases")


@dataclass(frozen=True)
class Cloud:
    """Points of one expert.

    Args:
        layer: Decoder layer.
        expert: Expert, in bank order over all groups.
        kappa: Each factor's space has curvature minus this, ``(factors,)``.
        points: Kind of :data:`KINDS` -> tangent vectors at the origin, ``(points, factors, dim)``. ``patches`` and
            ``words`` are the tokens the expert got; ``pictures`` and ``phrases`` are means of all patches and of
            question and answer, on the scale of the cone loss.
    """

    layer: int
    expert: int
    kappa: Tensor
    points: dict[str, Tensor]

    def radii(self, kind: str) -> Tensor:
        """Hyperbolic radius of every point in every factor, ``(points * factors,)``."""
        return radius(self.points[kind], self.kappa).flatten()

    def delta_hyperbolicity(self) -> float:
        """How far the distances between all points are from those of a tree, 0..1; of many points, an even sample."""
        whole = torch.cat(list(self.points.values()))
        whole = whole[torch.linspace(0, len(whole) - 1, min(len(whole), MOST_POINTS)).long()]
        apart = distance(whole[:, None], whole[None], self.kappa).sum(dim=-1)  # (points, points, factors) -> their sum
        return float(delta_hyperbolicity(apart))

    def disc(self) -> tuple[dict[str, Tensor], float]:
        """Points of the first factor in the unit disc, kind -> ``(points, 2)``, and how much of them the plane holds.

        Distances from the centre are those of the Poincaré ball. Angles are those of the plane through the centre that
        holds most of all points; the share that it holds is given beside, 1 for a flat cloud.
        """
        balls = {kind: poincare(points[:, 0], self.kappa[0]) for kind, points in self.points.items()}
        whole = torch.cat(list(balls.values()))
        _, size, axes = torch.linalg.svd(whole, full_matrices=False)
        plane = axes[:2]
        held = float(size[:2].square().sum() / size.square().sum().clamp(min=1e-12))
        drawn = {}
        for kind, ball in balls.items():
            flat = ball @ plane.T
            length = flat.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            flat = flat / length * ball.norm(dim=-1, keepdim=True)
            drawn[kind] = torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))
        return drawn, held


def lorentz_bank(layer: ModalityMoE) -> LorentzExperts | None:
    """The hyperbolic experts of a sparse layer; None if it has none, or if they are the flat control."""
    if layer.settings.asymoe is None or not layer.groups.inter:
        return None
    group = layer.groups.group_of_expert(layer.groups.inter[0])
    return bank_in(layer.experts).bank(group.name) if group.kind in ("lorentz", "product") else None


def drawn_layers(model: Any) -> list[ModalityMoE]:
    """The hyperbolic sparse layers that pictures show: the one nearest to mid depth, and the last."""
    layers = [layer for layer in moe_layers(model) if lorentz_bank(layer) is not None]
    return [layers[(len(layers) - 1) // 2], layers[-1]] if len(layers) > 1 else layers


@torch.no_grad()
def clouds_of(model: Any, forced: Forced, reading: Reading) -> list[Cloud]:
    """Points of every hyperbolic expert in the drawn layers, from a reading that kept its inputs.

    Raises:
        RuntimeError: the reading kept no inputs.
    """
    clouds = []
    for layer in drawn_layers(model):
        routing = reading.routing[layer.layer_index]
        if "x" not in routing.extras:
            raise RuntimeError("points need the inputs of the layers; make the reading with keeps_inputs=True")
        x, index = routing.extras["x"].float(), routing.index
        bank = lorentz_bank(layer)
        assert bank is not None
        for number, expert in enumerate(layer.groups.inter):
            got = (index == expert).any(dim=-1).cpu()
            clouds.append(Cloud(layer.layer_index, expert, *_points(bank, number, x, forced, got)))
    return clouds


def _points(
    bank: LorentzExperts, expert: int, x: Tensor, forced: Forced, got: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Curvature and points of one expert."""
    kappa = bank.log_kappa()[expert].exp().float()
    is_image, text_side = forced.modality_ids == Modality.IMAGE, bank.num_sides - 1
    said = torch.arange(len(forced.modality_ids)) >= forced.prompt_length
    phrase = forced.is_text & (forced.evidence | said)
    points = {}
    for token, pooled, side, whole in (
        ("patches", "pictures", 0, is_image),
        ("words", "phrases", text_side, phrase),
    ):
        projection = bank.projection[expert, side].float()
        u = bank.log_scale[expert, side].float().exp() * (x[(got & whole).to(x.device)] @ projection.T)
        u = u.unflatten(-1, (bank.num_factors, -1))
        points[token] = radius_cap(u, kappa, bank.settings.radius_cap).cpu()
        mean = pool(x, whole[None].to(x.device))[: int(whole.any())]  # no point for an absent picture
        scale, rho0 = bank.cone_log_scale[expert, side], default_rho0(bank.settings)
        points[pooled] = cone_points(mean, projection, scale, kappa, rho0, CONE_CAP, bank.num_factors).cpu()
    return kappa.cpu(), points


def joined_clouds(samples: Sequence[Sequence[Cloud]], kinds: Sequence[str]) -> list[Cloud]:
    """The clouds of several samples as one for each expert, with the given kinds of points."""
    return [
        Cloud(
            same[0].layer,
            same[0].expert,
            same[0].kappa,
            {kind: torch.cat([cloud.points[kind] for cloud in same]) for kind in kinds},
        )
        for same in zip(*samples, strict=True)
    ]
