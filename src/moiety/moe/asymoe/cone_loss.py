r"""Cone loss: a picture's cone must hold the words that belong to it, and leave out the words that do not.

Pure functions, in the order of the journey: :mod:`moiety.moe.asymoe.cone_pairs` says which spans and pictures belong
together, :func:`pool` and :func:`cone_points` make points of both, :func:`cone_loss` compares the points;
:func:`expert_cone_loss` joins the last two for one expert.

A span is read after self-attention, so its words have seen the picture: what is ordered is what the words say *about
this picture*, and one scene may hold many parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moiety.moe.asymoe import geometry
from moiety.moe.asymoe.cone_pairs import ConePairs
from moiety.moe.asymoe.geometry import Curvature, widened
from moiety.recipe.asymoe import AsyMoESettings

CONE_CAP = 6.0
"""Largest radius of a point that stands for a picture or a span."""

_VISION, _TEXT = 0, 1
_CLOSE = 0.05
"""Distance below which the weight of a pair fades out."""


@dataclass(frozen=True, eq=False)
class ConeLoss:
    """Terms of the cone loss, none of them weighted, with what to log.

    Args:
        pair: Mean angle by which true pairs lie outside their cone.
        negative: Mean angle by which false pairs fall short of the margin.
        distance: Mean squared distance of true pairs, at most 9.
        num_pairs: True pairs.
        num_inside: True pairs inside the whole cone of their apex (eta = 1).
        num_negatives: False pairs.
        num_outside: False pairs outside it.
        apex_radius: Sum of the apices' radii over true pairs.
    """

    pair: Float[Tensor, ""]
    negative: Float[Tensor, ""]
    distance: Float[Tensor, ""]
    num_pairs: Float[Tensor, ""]
    num_inside: Float[Tensor, ""]
    num_negatives: Float[Tensor, ""]
    num_outside: Float[Tensor, ""]
    apex_radius: Float[Tensor, ""]

    @property
    def angle(self) -> Float[Tensor, ""]:
        """What ``cone_weight`` multiplies: true and false pairs together."""
        return self.pair + self.negative

    @staticmethod
    def mean(losses: Sequence[ConeLoss]) -> ConeLoss:
        """Mean of the terms over layers and experts; counts and sums are added up.

        Raises:
            ValueError: `losses` is empty.
        """
        if not losses:
            raise ValueError("no cone losses to take the mean of; give at least one layer with inter-modality experts")
        terms = [torch.stack([getattr(loss, name) for loss in losses]).mean() for name in _TERMS]
        counts = [torch.stack([getattr(loss, name) for loss in losses]).sum() for name in _COUNTS]
        return ConeLoss(*terms, *counts)


_TERMS = ("pair", "negative", "distance")
_COUNTS = ("num_pairs", "num_inside", "num_negatives", "num_outside", "apex_radius")


def pool(hidden_states: Float[Tensor, "tokens hidden"], mask: Bool[Tensor, "spans tokens"]) -> Tensor:
    """Mean of the marked tokens, scaled to a root mean square of 1: ``(spans, hidden)``, float32 at least.

    Args:
        hidden_states: What the experts read.
        mask: Tokens of each span; a row without any gives zeros.
    """
    x = widened(hidden_states)
    with torch.autocast(x.device.type, enabled=False):
        total = mask.to(x.dtype) @ x
    mean = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return mean * (mean.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt()


def default_rho0(settings: AsyMoESettings) -> float:
    """Radius that points are moved out by: ``rho0``, or just past where cones begin to be nested.

    ``meru``: asinh(2 cone_k) + 0.3. ``eq15``: asinh(1/sqrt(cone_k)). In the Euclidean twin without the asinh.
    """
    if settings.rho0 is not None:
        return settings.rho0
    size = geometry.nested_size(settings.aperture, settings.cone_k)
    nested = size if settings.inter_kind == "euclidean" else math.asinh(size)
    return nested + 0.3 if settings.aperture == "meru" else nested


def shift_and_cap(u: geometry.Points, kappa: Curvature, rho0: float, cap: float = CONE_CAP) -> geometry.Points:
    """Move points outward by `rho0`, then cap their radius.

    A point at exactly 0 has no direction and stays; beside it the slope is steep, rho0 / 1e-3, and finite.
    """
    rho = geometry.radius(u, kappa)
    return geometry.radius_cap(widened(u) * (1 + rho0 * (rho.square() + 1e-6).rsqrt()).unsqueeze(-1), kappa, cap)


def cone_points(
    pooled: Float[Tensor, "spans hidden"],
    projection: Float[Tensor, "hyp_dim hidden"],
    log_scale: Float[Tensor, ""],
    kappa: Curvature,
    rho0: float,
    cap: float = CONE_CAP,
    num_factors: int | None = None,
) -> Tensor:
    """Points of one side, as tangent vectors, float32 at least.

    Args:
        pooled: From :func:`pool`.
        projection: An expert's map of this side.
        log_scale: Its scale for cones, apart from the one for tokens, so that this loss cannot push tokens outward.
        kappa: The space has curvature minus this; ``(num_factors,)`` for a product of spaces.
        rho0: Radius to move outward by, see :func:`default_rho0`.
        cap: Largest radius.
        num_factors: Cut each point into so many of equal width. None: one space.

    Returns:
        ``(spans, hyp_dim)``, or ``(spans, factors, hyp_dim / factors)``.
    """
    pooled = widened(pooled)
    with torch.autocast(pooled.device.type, enabled=False):
        u = widened(log_scale).exp() * (pooled @ projection.to(pooled.dtype).T)
    if num_factors is not None:
        u = u.unflatten(-1, (num_factors, -1))
    return shift_and_cap(u, kappa, rho0, cap)


def cone_loss(
    apex: Float[Tensor, "pairs *factors hyp_dim"],
    inside: Float[Tensor, "pairs *factors hyp_dim"],
    false_apex: Float[Tensor, "negatives *factors hyp_dim"],
    false_inside: Float[Tensor, "negatives *factors hyp_dim"],
    settings: AsyMoESettings,
    kappa: Curvature | None = None,
) -> ConeLoss:
    r"""Angle by which true pairs lie outside the cone, and by which false pairs lie not far enough outside.

    With :math:`\xi` the exterior angle and :math:`\psi` the aperture of the apex: mean over true pairs of
    :math:`g\,[\xi - \eta\psi]_+`, mean over false pairs of :math:`[\mathrm{margin} - [\xi - \eta\psi]_+]_+`. The weight
    :math:`g = d^2/(d^2 + 0.05^2)`, without gradient, takes away the 1/d of the angle's gradient. In a product of spaces
    :math:`[\xi - \eta\psi]_+` is the mean over factors, the distance the sum. Without pairs a term is a 0 in the graph.

    Args:
        apex: Points whose cones should hold, ``(pairs, hyp_dim)``; with ``inter_kind: product``
            ``(pairs, factors, hyp_dim)``.
        inside: Points they should hold, same shape.
        false_apex, false_inside: Apices that should not hold, and what they should not, ``(negatives, …)``.
        settings: ``inter_kind`` (the space), ``aperture``, ``cone_k``, ``eta``, ``cone_margin``.
        kappa: The space has curvature minus this. None: ``curvature``. The twin does not read it.

    Raises:
        ValueError: ``inter_kind`` is ``ffn``, which has no cones.

    Source:
        AsyMoE (2606.00275), eq. 14-17, with the exterior angle in place of eq. 16. Negatives and margin as in Ganea et
        al. 2018, eta as in HyCoCLIP (2410.06912); the weight g and the mean over factors are ours.
    """
    if settings.inter_kind == "ffn":
        raise ValueError("inter_kind 'ffn' has no cones; choose lorentz, euclidean or product, or cone_weight: 0")
    kappa = settings.curvature if kappa is None else kappa
    if settings.inter_kind != "product":  # one space is a product of one factor
        apex, inside, false_apex, false_inside = (p.unsqueeze(-2) for p in (apex, inside, false_apex, false_inside))
    angle, psi, length = _relation(apex, inside, settings, kappa)
    near = length.detach().square()
    hinge = near / (near + _CLOSE**2) * (angle - settings.eta * psi).relu()
    false_angle, false_psi, _ = _relation(false_apex, false_inside, settings, kappa)
    outside = (false_angle - settings.eta * false_psi).relu().mean(dim=-1)
    with torch.no_grad():
        num_inside, num_outside = (angle <= psi).all(dim=-1).sum(), (false_angle > false_psi).any(dim=-1).sum()
        rho = geometry.radius(apex, 1.0 if settings.inter_kind == "euclidean" else kappa).mean(dim=-1).sum()
        counts = (len(angle), num_inside, len(false_angle), num_outside, rho)
    return ConeLoss(
        _mean(hinge.mean(dim=-1)),
        _mean((settings.cone_margin - outside).relu()),
        _mean(length.sum(dim=-1).square().clamp(max=9)),
        *(angle.new_tensor(count) if isinstance(count, int) else count.to(angle) for count in counts),
    )


def _mean(values: Tensor) -> Tensor:
    """Mean; of nothing a 0 that still hangs in the graph."""
    return values.sum() / max(values.numel(), 1)


def _relation(apex: Tensor, inside: Tensor, settings: AsyMoESettings, kappa: Curvature) -> tuple[Tensor, ...]:
    """Exterior angle, aperture and distance, each ``(pairs, factors)``."""
    if settings.inter_kind == "euclidean":
        psi = geometry.flat_aperture(settings.aperture, geometry.safe_norm(apex), settings.cone_k)
        return geometry.flat_exterior_angle(apex, inside), psi, geometry.flat_distance(apex, inside)
    psi = geometry.aperture(settings.aperture, geometry.radius(apex, kappa), settings.cone_k)
    return geometry.exterior_angle(apex, inside, kappa), psi, geometry.distance(apex, inside, kappa)


def expert_cone_loss(
    pooled: Float[Tensor, "2 spans hidden"],
    pairs: ConePairs,
    projection: Float[Tensor, "sides hyp_dim hidden"],
    log_scale: Float[Tensor, " sides"],
    settings: AsyMoESettings,
    kappa: Curvature | None = None,
    num_factors: int | None = None,
) -> ConeLoss:
    """Cone loss of one inter-modality expert in one layer.

    Args:
        pooled: :func:`pool` of the pictures, then of the spans; the same for all experts of the layer.
        pairs: From :func:`cone_pairs`.
        projection: The expert's maps; side 0 reads pictures, side 1 text.
        log_scale: Their scales for cones.
        settings: Recipe section ``moe.asymoe``.
        kappa: As in :func:`cone_loss`.
        num_factors: Number of spaces of ``inter_kind: product``.
    """
    flat = settings.inter_kind == "euclidean"
    kappa = 1.0 if flat else settings.curvature if kappa is None else kappa
    vision, text = (
        cone_points(
            pooled[side], projection[side], log_scale[side], kappa, default_rho0(settings), CONE_CAP, num_factors
        )
        for side in (_VISION, _TEXT)
    )
    true, false = (vision[pairs.true[0]], text[pairs.true[1]]), (vision[pairs.false[0]], text[pairs.false[1]])
    if settings.apex == "text":
        true, false = true[::-1], false[::-1]
    return cone_loss(*true, *false, settings, kappa)
