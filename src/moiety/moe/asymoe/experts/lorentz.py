"""Inter-modality experts that compute on a hyperbolic manifold, and their Euclidean twin."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moiety.moe.asymoe.context import Context
from moiety.moe.asymoe.experts.lorentz_kernel import Layout, lorentz_experts
from moiety.moe.asymoe.experts.lorentz_maps import Maps
from moiety.moe.dispatch import Slots, deal
from moiety.moe.experts.bank import ExpertBank, Place, bank_in, check_dense
from moiety.moe.experts.ffn import FFNExperts
from moiety.moe.kernels.products import Runs, choose_form, compute_dtype
from moiety.moe.precise import StaysPrecise
from moiety.recipe.asymoe import AsyMoESettings

CURVATURES = (0.1, 10.0)
"""A learned curvature is kept in this range."""
OUTPUT_SCALE = 0.05
"""Approximate root mean square of an output at the start."""


class LorentzExperts(StaysPrecise, ExpertBank):
    r"""Gated experts on points of the Lorentz model, with a projection for each side (vision, text, …).

    A token is projected, :math:`u = e^\theta W_{side}x`. The point of *u*, with capped radius, has centred time
    :math:`\tau` and space coordinates :math:`s`. The gated state is
    :math:`p = silu(\sqrt n (W_1 s + \tau t_1)) \odot \sqrt n (W_3 s + \tau t_3)`. It is scaled and put on the manifold
    again, and :math:`o = W_2 p + \tau_2 t_2`. The answer is the logarithm of *o* at the origin, a tangent vector, so
    that it can be added to the answers of other experts.

    There are three values of ``inter_kind``. ``lorentz`` is this expert. ``euclidean`` is the control: it has the same
    parameters, and a constant replaces the time. ``product`` cuts the coordinates into blocks, each with a curvature of
    its own.

    Args:
        num_experts: Experts in the bank.
        hidden: Width of the decoder.
        settings: Section ``moe.asymoe`` with ``hyp_dim`` and ``inter_ffn`` given.
        num_sides: Number of modality groups of the model; text is the last of them.
        residual_ffn: Inner width of an FFN whose answer is added; it starts as a copy of the dense FFN. None: the
            hyperbolic branch stands alone.
        act: Activation of that FFN. The branch uses SiLU.

    Raises:
        ValueError: a width is missing, or ``hyp_dim`` is not a multiple of the number of factors.

    Source:
        AsyMoE (2606.00275), eq. 10-13. The paper does not say what happens between the maps. "Exponential map, MLP,
        logarithm" with the MLP in the tangent space would equal the MLP alone, so ours works on coordinates of the
        manifold.
    """

    precise = ("log_scale", "cone_log_scale", "inner_log_scale", "out_log_scale", "log_curvature")

    def __init__(
        self,
        num_experts: int,
        hidden: int,
        settings: AsyMoESettings,
        num_sides: int,
        *,
        residual_ffn: int | None = None,
        act: Any = "silu",
    ) -> None:
        super().__init__()
        if settings.hyp_dim is None or settings.inter_ffn is None:
            raise ValueError(
                "hyperbolic experts need widths; give moe.asymoe.hyp_dim and moe.asymoe.inter_ffn, or let a size plan "
                "design them"
            )
        self.num_experts, self.hidden, self.settings, self.num_sides = num_experts, hidden, settings, num_sides
        self.space, self.inner = settings.hyp_dim, settings.inter_ffn
        product = settings.inter_kind == "product"
        self.num_factors = (settings.product_factors or max(1, self.space // 32)) if product else 1
        if self.space % self.num_factors:
            raise ValueError(f"hyp_dim={self.space} must be a multiple of product_factors={self.num_factors}")
        self.maps = Maps(settings.inter_kind == "euclidean", settings.radius_cap, self.inner)
        new = lambda *size: nn.Parameter(torch.empty(num_experts, *size))  # noqa: E731
        scale = lambda *size: nn.Parameter(torch.empty(num_experts, *size, dtype=torch.float32))  # noqa: E731
        self.projection = new(num_sides, self.space, hidden)
        self.log_scale, self.cone_log_scale = scale(num_sides), scale(num_sides)
        self.gate_up_proj, self.gate_up_time = new(2 * self.inner, self.space), new(2 * self.inner, self.num_factors)
        self.down_proj, self.down_time = new(hidden, self.inner), new(hidden)
        self.inner_log_scale, self.out_log_scale = scale(), scale()
        learns = settings.learn_curvature and not self.maps.flat
        self.log_curvature = scale(self.num_factors) if learns else None
        self.residual = None if residual_ffn is None else FFNExperts(num_experts, hidden, residual_ffn, act)
        if not self.log_scale.is_meta:
            self.initialise()

    @classmethod
    def at(cls, place: Place) -> ExpertBank:
        """The bank of one expert group of scheme asymoe; its kind names the space."""
        own = place.asymoe
        residual = (own.residual_ffn or place.ffn) if own.has_residual else None
        own = own.model_copy(update={"inter_kind": place.group.kind})
        return cls(place.group.count, place.hidden, own, place.num_sides, residual_ffn=residual, act=place.act)

    def initialise(self, init: Any = torch.nn.init) -> None:
        """Draw orthonormal projections. Rows of unit norm give points of radius 1, and outputs are about 0.05.

        With a residual FFN the outputs of the branch are 0 at the start.
        """
        initialise_rows(self.projection, init)
        for scale in (self.log_scale, self.cone_log_scale):
            init.constant_(scale, -0.5 * math.log(self.space))
        for matrix in (self.gate_up_proj, self.gate_up_time):
            init.normal_(matrix, std=self.space**-0.5)
        for matrix in (self.down_proj, self.down_time):
            if self.residual is None:
                init.normal_(matrix, std=self.hidden**-0.5)
            else:
                init.zeros_(matrix)
        init.zeros_(self.inner_log_scale)
        init.constant_(self.out_log_scale, math.log(OUTPUT_SCALE * self.hidden**0.5))
        if self.log_curvature is not None:
            init.constant_(self.log_curvature, math.log(self.settings.curvature))
        if self.residual is not None:
            self.residual.initialise(init)

    def log_kappa(self) -> Float[Tensor, "experts factors"]:
        """Log of kappa for each expert and factor; the curvature is -kappa. A learned one is kept in its range."""
        if self.log_curvature is None:
            size = (self.num_experts, self.num_factors)
            return self.log_scale.new_full(size, math.log(self.settings.curvature))
        low, high = (math.log(bound) for bound in CURVATURES)
        return self.log_curvature.clamp(low, high)

    def forward(
        self, hidden_states: Tensor, slots: Slots, top_k_weights: Tensor, context: Context | None = None
    ) -> Tensor:
        """See :meth:`ExpertBank.forward`; the context is not read.

        Raises:
            RuntimeError: the slots are sorted by another number of sides.
        """
        if not hidden_states.numel():
            return self.nothing(hidden_states)
        if slots.num_sides != self.num_sides:
            raise RuntimeError(f"slots sorted by {slots.num_sides} sides reached experts of {self.num_sides} sides")
        if slots.ends is None:
            (slots,) = deal(slots, [self.num_experts])
        out = self._branch(hidden_states, top_k_weights, slots)
        return out if self.residual is None else out + self.residual(hidden_states, slots, top_k_weights)

    def _branch(self, x: Tensor, weights: Tensor, slots: Slots) -> Tensor:
        dtype, wide = compute_dtype(x), torch.promote_types(x.dtype, torch.float32)
        form = choose_form("auto", dtype, x.device, (self.hidden, self.space, self.inner))
        assert slots.ends is not None
        assert slots.expert_ends is not None
        by_side = Runs.covering(slots.ends, slots.offsets, form)
        by_expert = Runs.covering(slots.expert_ends, slots.expert_offsets, form)
        # only the cone loss reads the cone scales; adding 0 times them keeps them in the graph of every step
        side_scale = (self.log_scale + 0 * self.cone_log_scale).to(wide).view(-1, 1)
        matrices = (
            self.projection.flatten(0, 1).to(dtype),
            self.gate_up_proj.to(dtype),
            self.gate_up_time.to(dtype),
            self.down_proj.to(dtype),
            self.down_time.unsqueeze(-1).to(dtype),
        )
        scalars = (
            by_side.spread(side_scale),
            by_expert.spread(self.inner_log_scale.to(wide)),
            by_expert.spread(self.out_log_scale.to(wide)),
            by_expert.spread(self.log_kappa().to(wide)),
        )
        layout = Layout(slots, by_side, by_expert, self.maps)
        return lorentz_experts(x.to(dtype), weights, matrices, scalars, layout).to(x.dtype)

    @torch.no_grad()
    def load_from_dense(
        self, gate_up: Float[Tensor, "twice_dense hidden"], down: Float[Tensor, "hidden dense"]
    ) -> None:
        """Copy a dense FFN into the residual FFN, as far as its width allows; the branch answers 0.

        At full width every expert then equals the dense FFN at step 0. The last matrix of the branch gets a gradient in
        the first step, and the rest of the branch from the second step on. Without a residual FFN nothing is copied,
        because a Lorentz expert cannot equal a dense FFN.

        Raises:
            ValueError: the widths do not fit.
        """
        check_dense(gate_up, down, self.hidden)
        if self.residual is not None:
            self.residual.load_from_dense(gate_up, down)
            self.down_proj.zero_()
            self.down_time.zero_()

    def starts_as_dense(self, ffn: int) -> bool:
        """Whether there is a residual FFN of full width: the branch answers 0 at the start."""
        return self.residual is not None and bool(bank_in(self.residual).starts_as_dense(ffn))

    def activated_parameters(self) -> int:
        """Parameters that one slot passes through: the projection of its own side and everything after it."""
        gate_up = 2 * self.inner * (self.space + self.num_factors)
        branch = self.hidden * self.space + gate_up + self.hidden * (self.inner + 1) + 3
        curvature = 0 if self.log_curvature is None else self.num_factors
        return branch + curvature + (0 if self.residual is None else bank_in(self.residual).activated_parameters())

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        kind = self.settings.inter_kind
        return (
            f"num_experts={self.num_experts}, hidden={self.hidden}, space={self.space}, inner={self.inner}, "
            f"kind={kind}, sides={self.num_sides}"
        )


def initialise_rows(stack: Tensor, init: Any) -> None:
    """Write orthonormal rows into every matrix of `stack`, ``(…, rows, columns)``, through ``init.copy_``.

    A matrix with more rows than columns gets orthonormal columns.
    """
    if stack.is_meta or getattr(stack, "_is_hf_initialized", False):
        return
    fresh = torch.empty(stack.shape, dtype=torch.float32, device=stack.device)
    for matrix in fresh.flatten(0, -3).unbind(0):
        torch.nn.init.orthogonal_(matrix)
    with torch.no_grad():
        init.copy_(stack, fresh) if hasattr(init, "copy_") else stack.copy_(fresh)
