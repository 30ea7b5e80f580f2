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

from moiety.moe.asymoe.experts.lorentz_maps import Maps
from moiety.moe.dispatch import Slots, gather
from moiety.moe.kernels.gated import BLOCK_ELEMENTS
from moiety.moe.kernels.products import Runs

Matrices = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Scalars = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Layout:
    """What a bank needs for its computation, except the tensors that get gradients.

    Args:
        slots: The slots, sorted by expert and side.
        by_side: Runs of the sorted rows, one for each expert and side.
        by_expert: Runs of the sorted rows, one for each expert.
        maps: The maps of the bank.
    """

    slots: Slots
    by_side: Runs
    by_expert: Runs
    maps: Maps


def lorentz_experts(
    x: Float[Tensor, "tokens hidden"],
    weights: Float[Tensor, "tokens top_k"],
    matrices: Matrices,
    scalars: Scalars,
    layout: Layout,
) -> Float[Tensor, "tokens hidden"]:
    """Weighted sum of the chosen experts.

    Args:
        x: Hidden states in the dtype of the products, ``(tokens, hidden)``.
        weights: Weight of each choice, ``(tokens, top_k)``.
        matrices: Projections ``(experts*sides, n, hidden)``; gates and ups ``(experts, 2*inner, n)`` with time columns
            ``(experts, 2*inner, factors)``; down ``(experts, hidden, inner)`` with a time column
            ``(experts, hidden, 1)``.
        scalars: Numbers for each sorted row, in float32 or wider: the log scale of its side ``(rows, 1)``, that of its
            gated state ``(rows,)``, that of its answer ``(rows,)``, and the log curvatures ``(rows, factors)``.
        layout: The sorted slots, and the maps.

    Returns:
        ``(tokens, hidden)``.
    """
    slots = layout.slots
    return _LorentzExperts.apply(x, weights, *matrices, *scalars, slots.slot_of_row, slots.row_of_slot, layout)


class _LorentzExperts(torch.autograd.Function):
    r"""Forward and backward of :math:`y_t = \sum_k w_{tk} E_{e(t,k)}(x_t)`.

    For each slot the function saves the projected row, the pre-activations and the output before the logarithm. The
    factors of the maps depend on squared norms and a few scalars, so autograd on ``(rows,)`` gives their derivatives.
    The gradient of each row is multiplied by the weight of its slot at the first step of the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, *given: Any) -> Tensor:
        projection, gate_up, gate_up_time, down, down_time = given[:5]
        side_scale, inner_scale, out_scale, log_kappa, _, row_of_slot, layout = given[5:]
        maps, runs = layout.maps, layout.by_expert
        u = layout.by_side.multiply(gather(x, layout.slots.token_of_row), projection)
        u_squares = _squares(u.view(*log_kappa.shape, -1), side_scale.dtype)
        points, times = _points(u, *maps.lift(u_squares, side_scale, log_kappa))
        pre = runs.multiply(points, gate_up)
        runs.add(pre, times, gate_up_time)
        p, p_squares = _state(pre, inner_scale.dtype)
        time = maps.inner_time(p_squares, inner_scale, log_kappa.mean(dim=1))
        o = runs.multiply(p, down)
        runs.add(o, time.to(p.dtype).unsqueeze(-1), down_time)
        o[-1].zero_()  # the spare row
        o_squares = _squares(o, out_scale.dtype)
        factor = maps.log_origin(o_squares, out_scale, inner_scale, log_kappa.mean(dim=1))
        ctx.layout = layout
        ctx.save_for_backward(x, weights, *given[:-1], u, pre, o, u_squares, p_squares, o_squares)
        weights = (weights * factor[row_of_slot]).to(o.dtype)
        return F.embedding_bag(row_of_slot, o, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: checkpointing hands them out only once
        x, weights, projection, gate_up, gate_up_time, down, down_time = saved[:7]
        side_scale, inner_scale, out_scale, log_kappa, slot_of_row, row_of_slot = saved[7:13]
        u, pre, o, u_squares, p_squares, o_squares = saved[13:]
        layout, needs = ctx.layout, ctx.needs_input_grad
        maps, runs, mean_kappa = layout.maps, layout.by_expert, log_kappa.mean(dim=1)
        row_weight = weights.flatten().index_select(0, slot_of_row).to(out_scale.dtype)
        row_weight[-1] = 0
        token = layout.slots.token_of_row
        leaves = (o_squares, out_scale, inner_scale, mean_kappa)
        do, dw, d_out_scale, d_inner_scale, d_kappa = _out_backward(
            gather(dout, token), o, row_weight, maps.log_origin, leaves
        )
        dp, d_time = runs.multiply_back(do, down), runs.multiply_back(do, down_time)
        d_squares, d_scale_of_time, d_kappa_inner = _pull(
            maps.inner_time, (p_squares, inner_scale, mean_kappa), d_time.squeeze(-1).to(inner_scale.dtype)
        )
        p, d_pre = _state_backward(dp, pre, None if maps.flat else d_squares)
        time = maps.inner_time(p_squares, inner_scale, mean_kappa).to(p.dtype).unsqueeze(-1)
        d_down = runs.outer(do, p) if needs[5] else None
        d_down_time = runs.outer(do, time) if needs[6] else None
        points, times = _points(u, *maps.lift(u_squares, side_scale, log_kappa))
        d_gate_up = runs.outer(d_pre, points) if needs[3] else None
        d_gate_up_time = runs.outer(d_pre, times) if needs[4] else None
        d_points, d_times = runs.multiply_back(d_pre, gate_up), runs.multiply_back(d_pre, gate_up_time)
        lifted = (u_squares, side_scale, log_kappa)
        du, d_side_scale, d_kappa_lift = _points_backward(d_points, d_times, u, maps.lift, lifted)
        d_projection = layout.by_side.outer(du, gather(x, token)) if needs[2] else None
        dx = _collected(layout.by_side.multiply_back(du, projection), row_of_slot) if needs[0] else None
        dw[-1] = 0
        d_kappa = d_kappa_lift + ((d_kappa + d_kappa_inner) / log_kappa.shape[1]).unsqueeze(-1)
        d_matrices = (d_projection, d_gate_up, d_gate_up_time, d_down, d_down_time)
        d_scalars = (d_side_scale, d_inner_scale + d_scale_of_time, d_out_scale, d_kappa)
        return dx, dw[row_of_slot].to(weights.dtype), *d_matrices, *d_scalars, None, None, None


def _squares(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Squared norm over the last axis, summed in `dtype`."""
    out = torch.empty(rows.shape[:-1], dtype=dtype, device=rows.device)
    for block in _blocks(rows.flatten(1)):
        torch.sum(rows[block].to(dtype).square(), dim=-1, out=out[block])
    return out


def _blocks(rows: Tensor) -> list[slice]:
    """Cut the rows into blocks: on CPU a block stays in the cache for several passes, and temporaries stay small."""
    step = len(rows) if rows.is_cuda else max(1, BLOCK_ELEMENTS // rows.shape[1])
    return [slice(start, start + step) for start in range(0, len(rows), step)]


def _pull(function: Callable[..., Any], leaves: Sequence[Tensor], *gradients: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the `leaves` of a function of ``(rows,)`` tensors, from the gradients of its outputs."""
    with torch.enable_grad():
        fresh = [leaf.detach().requires_grad_() for leaf in leaves]
        found = function(*fresh)
        outputs = found if isinstance(found, tuple) else (found,)
        pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
        if not pairs:  # a constant of the Euclidean twin
            return tuple(torch.zeros_like(leaf) for leaf in leaves)
        outputs, gradients = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, fresh, gradients, allow_unused=True, materialize_grads=True)


def _collected(rows: Tensor, row_of_slot: Tensor) -> Tensor:
    """Sum of the rows of each token."""
    rows[-1].zero_()
    return F.embedding_bag(row_of_slot, rows, mode="sum")


# -- from a projected row to a point ---------------------------------------------------------------------------------
def _points(u: Tensor, factor: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Space coordinates ``(rows, n)`` and times ``(rows, factors)`` of the points, both multiplied by sqrt(n)."""
    root = u.shape[1] ** 0.5
    blocks = u.view(*factor.shape, -1)  # (rows, n) -> (rows, factors, n / factors)
    return (blocks * (factor * root).to(u.dtype).unsqueeze(-1)).view(u.shape), (time * root).to(u.dtype)


def _points_backward(
    d_points: Tensor, d_times: Tensor, u: Tensor, lift: Callable[..., Any], leaves: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the projected rows, of their log scale and of the log curvature; `leaves` are those of `lift`."""
    root, dtype = u.shape[1] ** 0.5, leaves[0].dtype
    blocks, d_blocks = (rows.view(*leaves[0].shape, -1) for rows in (u, d_points))
    d_factor = torch.sum(d_blocks.to(dtype) * blocks, dim=-1) * root
    factor, _ = lift(*leaves)
    d_squares, d_log_scale, d_log_kappa = _pull(lift, leaves, d_factor, d_times.to(dtype) * root)
    du = d_blocks * (factor * root).to(u.dtype).unsqueeze(-1)
    du.addcmul_(blocks, (2 * d_squares).to(u.dtype).unsqueeze(-1))
    return du.view(u.shape), d_log_scale, d_log_kappa


# -- the gated state -------------------------------------------------------------------------------------------------
def _state(pre: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The gated state before scaling, ``(rows, inner)``, and its squared norm in `dtype`."""
    p = pre.new_empty(len(pre), pre.shape[1] // 2)
    squares = torch.empty(len(pre), dtype=dtype, device=pre.device)
    for block in _blocks(pre):
        gate, up = pre[block].chunk(2, dim=-1)
        torch.mul(F.silu(gate), up, out=p[block])
        torch.sum(p[block].to(dtype).square(), dim=-1, out=squares[block])
    return p, squares


def _state_backward(dp: Tensor, pre: Tensor, d_squares: Tensor | None) -> tuple[Tensor, Tensor]:
    """The recomputed gated state, and the gradient of the pre-activations; `dp` is overwritten."""
    p, d_pre = torch.empty_like(dp), torch.empty_like(pre)
    column = None if d_squares is None else (2 * d_squares).to(dp.dtype).unsqueeze(-1)
    for block in _blocks(pre):
        gate, up = pre[block].chunk(2, dim=-1)
        d_gate, d_up = d_pre[block].chunk(2, dim=-1)
        activated, d_state = F.silu(gate), dp[block]
        torch.mul(activated, up, out=p[block])
        if column is not None:
            d_state.addcmul_(p[block], column[block])
        torch.mul(d_state, activated, out=d_up)
        torch.ops.aten.silu_backward(d_state.mul_(up), gate, grad_input=d_gate)
    return p, d_pre


# -- back to the tangent space ---------------------------------------------------------------------------------------
def _out_backward(
    dy: Tensor, o: Tensor, row_weight: Tensor, log_origin: Callable[..., Any], leaves: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the rows before the logarithm, of the weights, of both log scales and of the log curvature.

    `dy` is overwritten; `leaves` are those of `log_origin`.
    """
    dtype, inner, blocks = leaves[0].dtype, torch.empty_like(row_weight), _blocks(o)
    for block in blocks:
        torch.sum(dy[block].to(dtype) * o[block], dim=-1, out=inner[block])
    factor = log_origin(*leaves)
    d_squares, *d_scalars = _pull(log_origin, leaves, row_weight * inner)
    along, across = (value.to(o.dtype).unsqueeze(-1) for value in (row_weight * factor, 2 * d_squares))
    for block in blocks:
        dy[block].mul_(along[block]).addcmul_(o[block], across[block])
    return dy, factor * inner, *d_scalars
