r"""Lorentz model of hyperbolic space: pure functions in polar form, on points stored as tangent vectors.

This convention holds for this file and for all code that calls it. The space has curvature :math:`-\kappa` with
:math:`\kappa > 0`. A point is stored as the tangent vector :math:`z` at the origin that leads to it. The result of
:math:`\exp_o` is computed where it is needed and never stored.

- The *radius* of a point is :math:`\rho = \sqrt\kappa\,\lVert z\rVert`, without unit. Its distance from the origin is
  :math:`\rho/\sqrt\kappa`.
- :math:`\exp_o(z) = (x_0, x_s)` with :math:`x_s = \frac{\sinh\rho}{\rho} z` and
  :math:`-x_0^2 + \lVert x_s\rVert^2 = -1/\kappa`.
- The *centred time* is :math:`\tau = x_0 - 1/\sqrt\kappa`. It is 0 at the origin and stays finite as
  :math:`\kappa \to 0`.

Other software uses other names for this number: ``curv`` in MERU is :math:`\kappa`, while ``k`` in geoopt and ``c`` in
HELM are :math:`1/\kappa`.

The form is polar because :math:`x_0^2` becomes very large: the product :math:`\langle x, y\rangle_L` of two points has
no correct digit from radius 9 on in float32, and from 3.5 on in bfloat16. Radii and unit vectors keep all digits.

Every function computes in float32, or in float64 if its input is float64. It consists of sums and elementwise
operations, which autocast never lowers. Values and gradients are finite for every finite input that has passed
:func:`radius_cap`. Without a cap, radii up to 40 are safe in float32. `kappa` is a number, or a tensor that broadcasts
with ``points``: ``(factors,)`` with points ``(pairs, factors, hyp_dim)`` gives each factor a curvature of its own.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Points = Float[Tensor, "*points hyp_dim"]
Scalars = Float[Tensor, "*points"]
Pointwise = Float[Tensor, "*#points hyp_dim"]
"""Points that are compared with other points; the shapes of the two broadcast."""
Curvature = float | Float[Tensor, "..."]
ApertureKind = Literal["meru", "eq15"]

_NORM_FLOOR = 1e-12
"""This is added under the root of every norm, so that the gradient at 0 is 0 instead of NaN."""

_MAX_SINE = 1 - 1e-4
"""The argument of arcsin is kept below 1, where its slope is infinite."""


def widened(value: Scalars) -> Scalars:
    """Return `value` in float32, or in float64 if it is float64 already."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _root(kappa: Curvature) -> Curvature:
    return widened(kappa).sqrt() if isinstance(kappa, Tensor) else math.sqrt(kappa)


def safe_norm(vector: Points) -> Scalars:
    r"""Norm over the last axis, :math:`\sqrt{\sum v^2 + 10^{-12}}`. It is at least 1e-6, and its gradient at 0 is 0."""
    return (widened(vector).square().sum(dim=-1) + _NORM_FLOOR).sqrt()


def radius(z: Points, kappa: Curvature) -> Scalars:
    """Hyperbolic radius of points, without unit: ``(points, hyp_dim)`` -> ``(points,)``, at least 1e-6 sqrt(kappa)."""
    return _root(kappa) * safe_norm(z)


def radius_cap(u: Points, kappa: Curvature, cap: float) -> Points:
    r"""Shorten tangent vectors smoothly, so that no radius exceeds `cap`: :math:`\rho \mapsto r\tanh(\rho/r)`.

    The map has slope 1 at the origin. Beyond a radius of 9 times `cap`, the result no longer changes in float32 and the
    radial gradient is exactly 0. The direction still gets a gradient there.

    Source:
        Ours. HELM and HypLoRA clip the norm, so that the radial gradient is 0 from the cap on.

    Example:
        >>> radius_cap(torch.tensor([[0.1, 0.0], [0.0, 1e4]]), 1.0, 3.0)
        tensor([[0.1000, 0.0000],
                [0.0000, 3.0000]])
    """
    rho = radius(u, kappa)
    return widened(u) * (cap * (rho / cap).tanh() / rho).unsqueeze(-1)


def lift(z: Points, kappa: Curvature) -> tuple[Scalars, Points]:
    r"""Exponential map at the origin: centred time and space coordinates of a point.

    :math:`\tau = 2\sinh^2(\rho/2)/\sqrt\kappa` and :math:`x_s = \sinh(\rho)/\rho\; z`.

    Example:
        >>> time, space = lift(torch.tensor([1.0, 0.0]), 1.0)
        >>> round(time.item() + 1, 4), round(space[0].item(), 4)  # cosh 1, sinh 1
        (1.5431, 1.1752)
    """
    rho = radius(z, kappa)
    return 2 * (rho / 2).sinh().square() / _root(kappa), widened(z) * (rho.sinh() / rho).unsqueeze(-1)


def log_origin(space: Points, kappa: Curvature) -> Points:
    r"""Logarithm at the origin, from space coordinates alone: the inverse of :func:`lift`.

    The formula is :math:`\mathrm{asinh}(s)/s\; x_s` with :math:`s = \sqrt\kappa\lVert x_s\rVert`.

    Source:
        The usual form divides by an arcosh of the time coordinate. In float32 it gives 0 for norms below 1e-4, and its
        gradient at the origin is NaN. This form is exact in both places.
    """
    size = radius(space, kappa)
    return widened(space) * (size.asinh() / size).unsqueeze(-1)


def centred_time(space: Points, kappa: Curvature) -> Scalars:
    r"""Centred time of the point that has the given space coordinates, ``(points, hyp_dim)`` -> ``(points,)``.

    It equals :math:`\sqrt{1/\kappa + \lVert x_s\rVert^2} - 1/\sqrt\kappa`, computed without the loss of digits of that
    difference.
    """
    root = _root(kappa)
    squared = widened(space).square().sum(dim=-1)
    return root * squared / ((1 + root * root * squared).sqrt() + 1)


def poincare(z: Points, kappa: Curvature) -> Points:
    r"""Coordinates in the Poincaré ball of radius 1, for drawing: :math:`\tanh(\rho/2)` in the direction of `z`.

    Example:
        >>> poincare(torch.tensor([0.0, 2.0]), 1.0)
        tensor([0.0000, 0.7616])
    """
    rho = radius(z, kappa)
    return widened(z) * ((rho / 2).tanh() * _root(kappa) / rho).unsqueeze(-1)


def _polar(x: Pointwise, y: Pointwise, kappa: Curvature) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Both radii, their difference, and the squared lengths of the difference and of the sum of the unit vectors.

    The squared lengths are 2(1 - cos) and 2(1 + cos), where cos is the cosine between the points. For points of similar
    radius they are computed from the exact difference ``x - y``, because the difference of two rounded unit vectors
    has few correct digits when the points are close.
    """
    x, y = widened(x), widened(y)
    r_x, r_y = safe_norm(x), safe_norm(y)
    u, v = x / r_x.unsqueeze(-1), y / r_y.unsqueeze(-1)
    gap, total = x - y, x + y
    radial = (gap * total).sum(dim=-1) / (r_x + r_y)  # r_x - r_y
    turned = (gap * (r_x + r_y).unsqueeze(-1) - total * radial.unsqueeze(-1)) / (2 * r_x * r_y).unsqueeze(-1)  # u - v
    alike = (radial.abs() < torch.minimum(r_x, r_y)).unsqueeze(-1)
    apart = torch.where(alike, turned, u - v).square().sum(dim=-1)
    root = _root(kappa)
    return root * r_x, root * r_y, root * radial, apart, (u + v).square().sum(dim=-1)


def distance(x: Pointwise, y: Pointwise, kappa: Curvature, *, epsilon: float = 1e-12) -> Float[Tensor, "*#points"]:
    r"""Geodesic distance of two points, by the hyperbolic law of half-chords.

    The formula is :math:`\frac{2}{\sqrt\kappa}\,\mathrm{asinh}\sqrt{\sinh^2\frac{\rho_x-\rho_y}{2} + \tfrac14
    \sinh\rho_x \sinh\rho_y\,q + \kappa\epsilon}` with :math:`q = \lVert u_x - u_y\rVert^2`. Exchanging the points gives
    a bit-equal result. The distance of a point to itself is :math:`2\sqrt\epsilon` = 2e-6, with gradient 0.

    Source:
        It equals :math:`\mathrm{arcosh}(-\kappa\langle x, y\rangle_L)/\sqrt\kappa`, the form of MERU and geoopt. That
        form is wrong by 40 % in float32 for close pairs at radius 15.
    """
    rho_x, rho_y, radial, q, _ = _polar(x, y, kappa)
    half_chord = (radial / 2).sinh().square() + 0.25 * (rho_x.sinh() * rho_y.sinh()) * q
    root = _root(kappa)
    return (half_chord + root * root * epsilon).sqrt().asinh() * 2 / root


def exterior_angle(x: Pointwise, y: Pointwise, kappa: Curvature, *, epsilon: float = 1e-8) -> Float[Tensor, "*#points"]:
    r"""Angle at `x` between the outward ray from the origin and the geodesic to `y`, in radians, 0 to pi.

    The angle is 0 where `y` lies straight behind `x`, seen from the origin. It is pi where `y` lies toward the origin
    or on its other side. At `x` = `y` it is pi/2.

    The formula is :math:`\mathrm{atan2}(\tfrac12\sinh\rho_y\sqrt{qp + \epsilon/\cosh^2\rho_y},\ \sinh(\rho_y-\rho_x) -
    \tfrac12\cosh\rho_x\sinh\rho_y\,q)` with :math:`q` as in :func:`distance` and :math:`p = \lVert u_x + u_y\rVert^2`.
    The term with :math:`\epsilon` shrinks with the radius, as apertures do. A constant would keep every point outside
    the cones beyond radius 4.5. The gradient grows as one over the distance.

    Source:
        This replaces eq. 16 of AsyMoE (2606.00275), which takes the arccos of numbers at or below -1. It is the
        exterior angle of Ganea et al. 2018 and MERU (2304.09172). Their arccos has no gradient on the axis.
    """
    rho_x, rho_y, radial, q, p = _polar(x, y, kappa)
    across = 0.5 * rho_y.sinh() * (q * p + epsilon / rho_y.cosh().square()).sqrt()
    along = -radial.sinh() - 0.5 * rho_x.cosh() * rho_y.sinh() * q
    return torch.atan2(across, along)


def flat_distance(x: Pointwise, y: Pointwise, *, epsilon: float = 1e-12) -> Float[Tensor, "*#points"]:
    """Distance in the Euclidean twin, ``(points,)``; the root has the same lower bound as in :func:`distance`."""
    return ((widened(x) - widened(y)).square().sum(dim=-1) + epsilon).sqrt()


def flat_exterior_angle(x: Pointwise, y: Pointwise, *, epsilon: float = 1e-8) -> Float[Tensor, "*#points"]:
    """Angle between `x` and `y - x` in radians: the limit of :func:`exterior_angle` as kappa goes to 0."""
    _, r_y, radial, q, p = _polar(x, y, 1.0)
    return torch.atan2(0.5 * r_y * (q * p + epsilon).sqrt(), -radial - 0.5 * r_y * q)


def aperture_meru(rho: Scalars, cone_k: float) -> Scalars:
    r"""Half-angle of the cone at radius `rho` in radians: :math:`\arcsin(2k/\sinh\rho)`.

    Below radius asinh(2k) the cone is a half-space.

    Source:
        Ganea et al. 2018, MERU (2304.09172). The clamp below arcsin(1) is ours.
    """
    return flat_aperture("meru", widened(rho).sinh(), cone_k)


def aperture_eq15(rho: Scalars, cone_k: float) -> Scalars:
    r"""Half-angle of the cone at radius `rho` in radians: :math:`\arcsin(2k/(1 + k\sinh^2\rho))`.

    `cone_k` is at most 0.5. The half-angle is at most arcsin(2k), so an apex does not profit from moving to the origin.
    But the cones are not nested below radius asinh(1/sqrt(k)), see :func:`is_transitive`.

    Source:
        AsyMoE (2606.00275), eq. 15.
    """
    return flat_aperture("eq15", widened(rho).sinh(), cone_k)


def aperture(kind: ApertureKind, rho: Scalars, cone_k: float) -> Scalars:
    """Half-angle in radians by :func:`aperture_meru` or :func:`aperture_eq15`, as `kind` says."""
    return flat_aperture(kind, widened(rho).sinh(), cone_k)


def flat_aperture(kind: ApertureKind, size: Scalars, cone_k: float) -> Scalars:
    """Half-angle of the Euclidean twin's cones: the same formulas with the norm in place of sinh(rho).

    Raises:
        ValueError: `kind` is unknown.
    """
    size = widened(size)
    if kind == "meru":
        sine = 2 * cone_k / size.clamp(min=2 * cone_k)
    elif kind == "eq15":
        sine = 2 * cone_k / (1 + cone_k * size.square())
    else:
        raise ValueError(f"aperture {kind!r} is unknown; choose 'meru' or 'eq15'")
    return sine.clamp(max=_MAX_SINE).asin()


def nested_size(kind: ApertureKind, cone_k: float) -> float:
    """Least sinh(rho) from which on the cone of a point contains the cones of all points in it.

    In the Euclidean twin this is the least norm.
    """
    return 2 * cone_k if kind == "meru" else 1 / math.sqrt(cone_k)


def is_transitive(kind: ApertureKind, rho: Scalars, cone_k: float) -> Bool[Tensor, "*points"]:
    r"""Whether cones at radius `rho` and beyond are nested: if x contains y and y contains z, then x contains z.

    This holds where :math:`\sinh\rho\,\sin\psi(\rho)` no longer increases (Clairaut's relation). That begins at
    asinh(2k) for ``meru`` and at asinh(1/sqrt(k)) for ``eq15``.
    """
    return widened(rho) >= math.asinh(nested_size(kind, cone_k))


def delta_hyperbolicity(distances: Float[Tensor, "points points"]) -> Float[Tensor, ""]:
    r"""How far a metric is from that of a tree: Gromov's delta times 2 / diameter. It is 0 for a tree and at most 1.

    For four points, take the sums :math:`d_{wx} + d_{yz}`, :math:`d_{wy} + d_{xz}` and :math:`d_{wz} + d_{xy}`, and
    half the gap between the two largest. Delta is the largest such value over all quadruples. Time grows with the
    fourth power of the number of points, and memory with the third. So give a sample of at most two hundred points.

    Source:
        Gromov 1987. The computation as a max-min product of Gromov products for each base point is that of Fournier et
        al. 2015, and the scale is that of Khrulkov et al. 2020.

    Example:
        >>> square = torch.tensor([[0., 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]])  # a cycle of four
        >>> delta_hyperbolicity(square).item()
        1.0
    """
    distances = widened(distances)
    delta = distances.new_zeros(())
    for base in distances:
        product = (base.unsqueeze(0) + base.unsqueeze(1) - distances) / 2
        best = torch.minimum(product.unsqueeze(2), product.unsqueeze(0)).amax(dim=1)
        delta = torch.maximum(delta, (best - product).max())
    diameter = distances.max()
    return torch.where(diameter > 0, 2 * delta / diameter.clamp(min=torch.finfo(distances.dtype).tiny), 0)
