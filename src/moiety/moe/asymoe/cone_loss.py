r"""Cone loss: the cone of a picture must contain the words that belong to it, and exclude the words that do not.

The functions are pure and are called in this order. :mod:`moiety.moe.asymoe.cone_pairs` says which spans and pictures
belong together. :func:`pool` and :func:`cone_points` turn both into points. :func:`cone_loss` compares the points.
:func:`expert_cone_loss` does the last two steps for one expert.

A span is read after self-attention, so its words have seen the picture. The loss therefore orders what the words say
*about this picture*, and one scene may contain many parts.
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
"""Largest radius of the point of a picture or of a span."""

_VISION, _TEXT = 0, 1
_CLOSE = 0.05
"""Distance below which the weight of a pair fades out."""


@dataclass(frozen=True, eq=False)
class ConeLoss:
    """Terms of the cone loss before any weight, and the numbers that are logged with them. All are scalars.

    Args:
        pair: Mean angle in radians by which true pairs lie outside their cone.
        negative: Mean angle in radians by which false pairs fall short of the margin.
        distance: Mean squared distance of true pairs, at most 9.
        num_pairs: Number of true pairs.
        num_inside: Number of true pairs inside the whole cone of their apex (eta = 1).
        num_negatives: Number of false pairs.
        num_outside: Number of false pairs outside the whole cone of their apex.
        apex_radius: Sum of the radii of the apices over true pairs.
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
        """The term that ``cone_weight`` multiplies: the sum over true and false pairs."""
        return self.pair + self.negative

    @staticmethod
    def mean(losses: Sequence[ConeLoss]) -> ConeLoss:
        """Average the terms over layers and experts, and add up the counts and sums.

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
        hidden_states: Input of the experts, ``(tokens, hidden)``.
        mask: Tokens of each span, ``(spans, tokens)``; a row without tokens gives zeros.
    """
    x = widened(hidden_states)
    with torch.autocast(x.device.type, enabled=False):
        total = mask.to(x.dtype) @ x
    mean = total / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return mean * (mean.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt()


def default_rho0(settings: AsyMoESettings) -> float:
    """Radius by which points are moved outward: ``rho0``, or the radius from which on cones are nested.

    That radius is asinh(2 cone_k) + 0.3 for aperture ``meru`` and asinh(1/sqrt(cone_k)) for ``eq15``. The Euclidean
    twin uses the same formulas without the asinh.
    """
    if settings.rho0 is not None:
        return settings.rho0
    size = geometry.nested_size(settings.aperture, settings.cone_k)
    nested = size if settings.inter_kind == "euclidean" else math.asinh(size)
    return nested + 0.3 if settings.aperture == "meru" else nested


def shift_and_cap(u: geometry.Points, kappa: Curvature, rho0: float, cap: float = CONE_CAP) -> geometry.Points:
    """Move points outward by `rho0`, then cap their radius; the shape stays.

    A point at exactly 0 has no direction and stays there. Near 0 the slope is steep but finite, rho0 / 1e-3.
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
    """Points of one side (pictures or text), as tangent vectors in float32 or wider.

    Args:
        pooled: Result of :func:`pool`, ``(spans, hidden)``.
        projection: The expert's projection of this side, ``(hyp_dim, hidden)``.
        log_scale: Log of the expert's scale for cones. It is separate from the scale for tokens, so that this loss
            cannot push tokens outward.
        kappa: The space has curvature ``-kappa``; ``(num_factors,)`` for a product of spaces.
        rho0: Radius by which points are moved outward, see :func:`default_rho0`.
        cap: Largest radius.
        num_factors: Number of factors of equal width that each point is cut into. None: one space.

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
    r"""Angle by which true pairs lie outside the cone, and angle by which false pairs are not far enough outside.

    Let :math:`\xi` be the exterior angle and :math:`\psi` the aperture of the apex. The first term is the mean over
    true pairs of :math:`g\,[\xi - \eta\psi]_+`. The second is the mean over false pairs of :math:`[\mathrm{margin} -
    [\xi - \eta\psi]_+]_+`. The weight :math:`g = d^2/(d^2 + 0.05^2)` has no gradient. It cancels the factor 1/d in the
    gradient of the angle. In a product of spaces, :math:`[\xi - \eta\psi]_+` is averaged over the factors, and the
    distance is the sum over the factors. A term without pairs is a 0 that stays in the graph.

    Args:
        apex: Points whose cones should contain `inside`, ``(pairs, hyp_dim)`` or ``(pairs, factors, hyp_dim)``.
        inside: Points that should lie in these cones, same shape.
        false_apex, false_inside: Apices and points of false pairs, which should lie outside, ``(negatives, …)``.
        settings: ``inter_kind`` (the space), ``aperture``, ``cone_k``, ``eta`` and ``cone_margin`` are read.
        kappa: The space has curvature ``-kappa``. None: the setting ``curvature``. The Euclidean twin does not read it.

    Raises:
        ValueError: ``inter_kind`` is ``ffn``, which has no cones.

    Source:
        AsyMoE (2606.00275), eq. 14-17, with the exterior angle in place of eq. 16. Negatives and margin are as in Ganea
        et al. 2018, and eta as in HyCoCLIP (2410.06912). The weight g and the mean over factors are ours.
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
    """Mean of the values; without values, a 0 that stays in the graph."""
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
        pooled: Results of :func:`pool` for the pictures and for the spans. All experts of a layer share them.
        pairs: Result of :func:`moiety.moe.asymoe.cone_pairs.cone_pairs`.
        projection: The expert's projections, one for each side; side 0 reads pictures, side 1 text.
        log_scale: Logs of their scales for cones.
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
