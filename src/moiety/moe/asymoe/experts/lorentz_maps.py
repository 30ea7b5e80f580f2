r"""Factors of the maps between flat and curved space, from sums of squares alone.

The exponential map, its radius cap and the logarithm all change the length of a vector and keep its direction. So the
factor depends on the squared norm of the row alone, and the vector is multiplied once. All tensors here are float32 or
float64 of shape ``(rows,)``. The curvature is :math:`-\kappa`. Time is centred, so it is 0 at the origin, and in the
limit :math:`\kappa \to 0` the expert is a plain gated FFN.

Source:
    Desai et al. 2023 (MERU) for maps at the origin on space components. Ours are centred, capped and free of
    cancellation; :mod:`moiety.moe.asymoe.geometry` has the same maps for vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SAFE = 1e-12
"""This is added to a squared norm, so that its root has a gradient at 0."""
FLAT_TIME = 0.5
"""The constant that replaces the time coordinate in the Euclidean twin, so that time columns act as biases."""


@dataclass(frozen=True)
class Maps:
    """The maps of one bank.

    Args:
        flat: Whether these are the maps of the Euclidean twin.
        radius_cap: Largest hyperbolic radius of a point.
        inner: Inner width of an expert.
    """

    flat: bool
    radius_cap: float
    inner: int

    def lift(
        self, squares: Float[Tensor, "rows factors"], log_scale: Tensor, log_kappa: Tensor
    ) -> tuple[Float[Tensor, "rows factors"], Float[Tensor, "rows factors"]]:
        r"""The factor that turns :math:`Wx` into the space coordinates of its point, and the point's centred time.

        The radius :math:`\rho = \sqrt\kappa\, e^\theta ||Wx||` is capped to :math:`\rho_c = r\tanh(\rho/r)`. The factor
        is :math:`e^\theta \sinh(\rho_c)/\rho` and the time :math:`2\sinh(\rho_c/2)^2/\sqrt\kappa`.

        Args:
            squares: Squared norm of each block of :math:`Wx`.
            log_scale: :math:`\theta` of each row, ``(rows, 1)``.
            log_kappa: Log of the curvature of each row and block.
        """
        scale, root = log_scale.exp(), (0.5 * log_kappa).exp()
        radius = root * (scale.square() * squares + SAFE).sqrt()
        capped = self.radius_cap * torch.tanh(radius / self.radius_cap)
        if self.flat:
            return scale * capped / radius, torch.full_like(capped, FLAT_TIME)
        return scale * torch.sinh(capped) / radius, 2 * torch.sinh(0.5 * capped).square() / root

    def inner_scale(self, log_scale: Tensor) -> Tensor:
        r"""Scale *b* of the gated state, :math:`e^\theta/\sqrt{inner}`.

        No row is multiplied by it. The state *q* enters the last product unscaled, its time is divided by *b*, and the
        factor of the answer corrects both.
        """
        return log_scale.exp() / math.sqrt(self.inner)

    def inner_time(
        self, squares: Float[Tensor, " rows"], log_scale: Tensor, log_kappa: Tensor
    ) -> Float[Tensor, " rows"]:
        r"""Centred time that puts the scaled state :math:`p = bq` on the manifold, divided by *b*.

        The time is :math:`\tau = ||p||^2 / (\sqrt{1/\kappa + ||p||^2} + 1/\sqrt\kappa)`.

        Args:
            squares: Squared norm of *q*.
            log_scale: Log scale of *b*.
            log_kappa: Log of the curvature.
        """
        scale = self.inner_scale(log_scale)
        if self.flat:
            return (FLAT_TIME / scale).expand_as(squares)
        norm, inverse = scale.square() * squares, (-log_kappa).exp()
        return scale * squares / ((inverse + norm).sqrt() + inverse.sqrt())

    def log_origin(
        self, squares: Float[Tensor, " rows"], log_scale: Tensor, inner_log_scale: Tensor, log_kappa: Tensor
    ) -> Float[Tensor, " rows"]:
        r"""The factor that turns :math:`o/b` into the tangent vector.

        It is :math:`b e^\theta asinh(r)/r` with :math:`r = \sqrt\kappa ||o||`.

        Args:
            squares: Squared norm of :math:`o/b`.
            log_scale: :math:`\theta` of the answer.
            inner_log_scale: Log scale of *b*.
            log_kappa: Log of the curvature.
        """
        scale = self.inner_scale(inner_log_scale)
        if self.flat:
            return (scale * log_scale.exp()).expand_as(squares)
        radius = (0.5 * log_kappa).exp() * (scale.square() * squares + SAFE).sqrt()
        return scale * log_scale.exp() * torch.asinh(radius) / radius
