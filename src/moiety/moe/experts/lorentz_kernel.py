"""One autograd function for a bank of Lorentz experts: three products, and one pass over the rows between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from moiety.moe.dispatch import Plan, dispatch
from moiety.moe.experts.lorentz_maps import Maps
from moiety.moe.experts.products import Runs
from moiety.moe.kernels.swiglu import BLOCK_ELEMENTS

TIME_COLUMNS = 8
"""Time coordinates stand behind the space coordinates of a product's input, filled up with 0 to a multiple of this."""


@dataclass(frozen=True, eq=False)
class Scalars:
    """The scalar parameters of a bank, and what they are on each row."""

    by_side: Runs
    by_expert: Runs

    def lift(self, log_scale: Tensor, log_kappa: Tensor) -> tuple[Tensor, Tensor]:
        """``(experts, sides)``, ``(experts, factors)`` -> ``(rows, 1)``, ``(rows, factors)``."""
        return self._spread(log_scale.flatten(), self.by_side).unsqueeze(1), self._spread(log_kappa, self.by_expert)

    def row(self, log_scale: Tensor, log_kappa: Tensor) -> tuple[Tensor, Tensor]:
        """``(experts,)``, ``(experts, factors)`` -> ``(rows,)`` each; one curvature for all factors, their mean."""
        return self._spread(log_scale, self.by_expert), self._spread(log_kappa.mean(dim=1), self.by_expert)

    @staticmethod
    def _spread(values: Tensor, runs: Runs) -> Tensor:
        pairs = zip(values.unbind(0), runs.counts, strict=True)
        return torch.cat([value.expand(count, *value.shape) for value, count in pairs])


def _blocks(rows: Tensor) -> list[slice]:
    """On CPU several passes over a block find it in the cache."""
    step = len(rows) if rows.is_cuda else max(1, BLOCK_ELEMENTS // rows.shape[1])
    return [slice(start, start + step) for start in range(0, len(rows), step)]


def lorentz_experts(
    x: Float[Tensor, "tokens hidden"],
    weights: Float[Tensor, "tokens top_k"],
    matrices: Sequence[Tensor],
    scales: Sequence[Tensor],
    plan: Plan,
    scalars: Scalars,
    maps: Maps,
) -> Float[Tensor, "tokens hidden"]:
    """Weighted sum of the chosen experts.

    Args:
        x: Hidden states in the dtype of the products.
        weights: Weight of each choice.
        matrices: Projections ``(experts*sides, n, hidden)``; gates and ups ``(experts, 2*inner, n+8)`` and down
            ``(experts, hidden, inner+8)``, which carries the scale of the gated state already; time columns behind
            those of space, filled up with 0.
        scales: Log scales of sides ``(experts, sides)``, of the gated state and of the answer ``(experts,)``, and log
            curvatures ``(experts, factors)``; float32 at least.
        plan: Where the slots go.
        scalars: The runs of the sorted rows.
        maps: The maps of the bank.
    """
    return _LorentzExperts.apply(x, weights, *matrices, *scales, plan.slot_of_row, plan.row_of_slot, scalars, maps)


class _LorentzExperts(torch.autograd.Function):
    r"""Forward and backward of :math:`y_t = \sum_k w_{tk} E_{e(t,k)}(x_t)`.

    Saved for backward of each slot: the projected row, the pre-activations and the output before the logarithm.
    Factors of the maps depend on squared norms and a few scalars; their derivatives come from autograd on ``(rows,)``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        projection: Tensor,
        gate_up: Tensor,
        down: Tensor,
        log_scale: Tensor,
        inner_log_scale: Tensor,
        out_log_scale: Tensor,
        log_kappa: Tensor,
        slot_of_row: Tensor,
        row_of_slot: Tensor,
        scalars: Scalars,
        maps: Maps,
    ) -> Tensor:
        plan = Plan(slot_of_row, row_of_slot, scalars.by_expert.offsets)
        u = scalars.by_side.forward(dispatch(x, plan), projection)
        points = _points(u, maps, scalars, log_scale, log_kappa, gate_up.shape[2])
        pre = scalars.by_expert.forward(points, gate_up)
        p = _inner(pre, maps, scalars, inner_log_scale, log_kappa, down.shape[2])
        o = scalars.by_expert.forward(p, down)
        o[-1].zero_()  # nobody's row
        factor = maps.log_origin(_squares(o, log_scale.dtype), *scalars.row(out_log_scale, log_kappa))
        ctx.save_for_backward(
            *(x, weights, projection, gate_up, down, log_scale, inner_log_scale, out_log_scale, log_kappa),
            *(slot_of_row, row_of_slot, u, pre, o),
        )
        ctx.scalars, ctx.maps = scalars, maps
        return F.embedding_bag(
            row_of_slot, o, per_sample_weights=(weights * factor[row_of_slot]).to(o.dtype), mode="sum"
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: checkpointing gives them out once
        x, weights, projection, gate_up, down, log_scale, inner_log_scale, out_log_scale, log_kappa = saved[:9]
        slot_of_row, row_of_slot, u, pre, o = saved[9:]
        scalars, maps = ctx.scalars, ctx.maps
        plan = Plan(slot_of_row, row_of_slot, scalars.by_expert.offsets)
        row_weight = weights.flatten().index_select(0, slot_of_row).to(log_scale.dtype)
        row_weight[-1] = 0
        do, d_weight, d_out_scale, d_kappa = _out_backward(
            dispatch(dout, plan), o, row_weight, maps, scalars, out_log_scale, log_kappa
        )
        p = _inner(pre, maps, scalars, inner_log_scale, log_kappa, down.shape[2])
        d_down = scalars.by_expert.outer(do, p)
        d_pre, d_inner_scale, d_kappa_inner = _inner_backward(
            scalars.by_expert.backward(do, down), pre, p, maps, scalars, inner_log_scale, log_kappa
        )
        points = _points(u, maps, scalars, log_scale, log_kappa, gate_up.shape[2])
        d_gate_up = scalars.by_expert.outer(d_pre, points)
        d_points = scalars.by_expert.backward(d_pre, gate_up)
        du, d_log_scale, d_kappa_lift = _points_backward(d_points, u, maps, scalars, log_scale, log_kappa)
        d_projection = scalars.by_side.outer(du, dispatch(x, plan))
        dx = scalars.by_side.backward(du, projection)
        dx[-1].zero_()
        dx = F.embedding_bag(row_of_slot, dx, mode="sum")
        d_weight[-1] = 0
        dw = d_weight[row_of_slot].to(weights.dtype)
        d_kappa = d_kappa + d_kappa_inner + d_kappa_lift
        return (
            *(dx, dw, d_projection, d_gate_up, d_down, d_log_scale, d_inner_scale, d_out_scale, d_kappa),
            *(None, None, None, None),
        )


def _squares(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Squared norm of each row, summed in `dtype`."""
    return torch.linalg.vector_norm(rows, dim=-1, dtype=dtype).square()


def _pull(function: Callable[..., Any], leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of the `leaves` of a function of ``(rows,)`` tensors, given those of its outputs."""
    with torch.enable_grad():
        fresh = [leaf.detach().requires_grad_() for leaf in leaves]
        found = function(*fresh)
        outputs = found if isinstance(found, tuple) else (found,)
        pairs = [(out, grad) for out, grad in zip(outputs, gradients, strict=True) if out.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(leaf) for leaf in leaves)
        return torch.autograd.grad(
            [out for out, _ in pairs], fresh, [grad for _, grad in pairs], allow_unused=True, materialize_grads=True
        )


# -- from a projected row to a point ----------------------------------------------------------------------------------
def _points(u: Tensor, maps: Maps, scalars: Scalars, log_scale: Tensor, log_kappa: Tensor, width: int) -> Tensor:
    """Space coordinates, then time, of each row's point, both times sqrt(n) and filled up to `width` with 0."""
    (rows, space), factors = u.shape, log_kappa.shape[1]
    blocks = u.view(rows, factors, -1)  # (rows, n) -> (rows, factors, n / factors)
    factor, time = maps.lift(_squares(blocks, log_scale.dtype), *scalars.lift(log_scale, log_kappa))
    out = u.new_empty(rows, width)
    torch.mul(blocks, (factor * space**0.5).unsqueeze(-1), out=out[:, :space].view(blocks.shape))
    torch.mul(time, space**0.5, out=out[:, space : space + factors])
    out[:, space + factors :].zero_()
    return out


def _points_backward(
    d_points: Tensor, u: Tensor, maps: Maps, scalars: Scalars, log_scale: Tensor, log_kappa: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the projected rows, of their log scale and of the log curvature."""
    (rows, space), factors = u.shape, log_kappa.shape[1]
    blocks = u.view(rows, factors, -1)
    d_blocks = d_points[:, :space].reshape(blocks.shape).to(log_scale.dtype).mul_(space**0.5)
    d_time = d_points[:, space : space + factors].to(log_scale.dtype) * space**0.5
    d_factor = (d_blocks * blocks).sum(dim=-1)

    def lift(squares: Tensor, log_scale: Tensor, log_kappa: Tensor) -> tuple[Tensor, Tensor]:
        return maps.lift(squares, *scalars.lift(log_scale, log_kappa))

    leaves = (_squares(blocks, log_scale.dtype), log_scale, log_kappa)
    factor, _ = lift(*leaves)
    d_squares, d_log_scale, d_log_kappa = _pull(lift, leaves, (d_factor, d_time))
    du = d_blocks.mul_(factor.unsqueeze(-1)).add_(blocks * (2 * d_squares).unsqueeze(-1))
    return du.view(rows, space).to(u.dtype), d_log_scale, d_log_kappa


# -- the gated state -------------------------------------------------------------------------------------------------
def _inner(pre: Tensor, maps: Maps, scalars: Scalars, log_scale: Tensor, log_kappa: Tensor, width: int) -> Tensor:
    """Unscaled gated state and the time of its point, filled up to `width` with 0."""
    out = pre.new_empty(len(pre), width)
    for block in _blocks(pre):
        gate, up = pre[block].chunk(2, dim=-1)
        torch.mul(F.silu(gate), up, out=out[block, : maps.inner])
    squares = _squares(out[:, : maps.inner], log_scale.dtype)
    out[:, maps.inner] = maps.inner_time(squares, *scalars.row(log_scale, log_kappa))
    out[:, maps.inner + 1 :].zero_()
    return out


def _inner_backward(
    dp: Tensor, pre: Tensor, p: Tensor, maps: Maps, scalars: Scalars, log_scale: Tensor, log_kappa: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the pre-activations, of the log scale and of the log curvature; `dp` is overwritten."""

    def time(squares: Tensor, log_scale: Tensor, log_kappa: Tensor) -> Tensor:
        return maps.inner_time(squares, *scalars.row(log_scale, log_kappa))

    inner, dtype = maps.inner, log_scale.dtype
    leaves = (_squares(p[:, :inner], dtype), log_scale, log_kappa)
    d_squares, d_log_scale, d_log_kappa = _pull(time, leaves, (dp[:, inner].to(dtype),))
    column, d_pre = (2 * d_squares).to(p.dtype).unsqueeze(-1), torch.empty_like(pre)
    for block in _blocks(pre):
        gate, up = pre[block].chunk(2, dim=-1)
        d_gate, d_up = d_pre[block].chunk(2, dim=-1)
        d_state = dp[block, :inner]
        if not maps.flat:
            d_state.addcmul_(p[block, :inner], column[block])
        torch.mul(d_state, F.silu(gate), out=d_up)
        torch.ops.aten.silu_backward(d_state.mul_(up), gate, grad_input=d_gate)
    return d_pre, d_log_scale, d_log_kappa


# -- back to the tangent space ---------------------------------------------------------------------------------------
def _out_backward(
    dy: Tensor, o: Tensor, row_weight: Tensor, maps: Maps, scalars: Scalars, log_scale: Tensor, log_kappa: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the rows before the logarithm, of the weights, of the log scale and of the log curvature."""
    dtype, inner, blocks = log_scale.dtype, torch.empty_like(row_weight), _blocks(o)
    for block in blocks:
        torch.sum(dy[block] * o[block], dim=-1, dtype=dtype, out=inner[block])

    def log_origin(squares: Tensor, log_scale: Tensor, log_kappa: Tensor) -> Tensor:
        return maps.log_origin(squares, *scalars.row(log_scale, log_kappa))

    leaves = (_squares(o, dtype), log_scale, log_kappa)
    factor = log_origin(*leaves)
    d_squares, d_log_scale, d_log_kappa = _pull(log_origin, leaves, (row_weight * inner,))
    along, across = ((value.to(o.dtype)).unsqueeze(-1) for value in (row_weight * factor, 2 * d_squares))
    for block in blocks:
        dy[block].mul_(along[block])
        if not maps.flat:
            dy[block].addcmul_(o[block], across[block])
    return dy, factor * inner, d_log_scale, d_log_kappa
