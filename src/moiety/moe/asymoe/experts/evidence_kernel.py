"""One autograd function for a bank of two-branch experts that saves pre-activations and nothing else of the slots."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from moiety.moe.dispatch import Plan, combine, dispatch
from moiety.moe.experts.products import Runs, can_group, runs_of
from moiety.moe.experts.slots import Share
from moiety.moe.kernels.activation import ACTIVATIONS
from moiety.moe.kernels.choice import compute_dtype


def two_branches(
    x: Float[Tensor, "tokens hidden"],
    context: Float[Tensor, "tokens hidden"],
    alpha: Float[Tensor, " rows"],
    weights: Float[Tensor, "tokens top_k"],
    input_proj: Float[Tensor, "experts inner hidden"],
    context_proj: Float[Tensor, "experts half_inner hidden"],
    down_proj: Float[Tensor, "experts hidden twice_width"],
    share: Share,
    act: str = "silu",
) -> Float[Tensor, "tokens hidden"]:
    """Weighted sum of the chosen experts; gated where `input_proj` has twice the rows that `down_proj` has columns.

    Args:
        x: Hidden states.
        context: What the evidence says.
        alpha: Share of the memory branch in each sorted row.
        weights: Weight of each choice.
        input_proj: What both branches read of `x`; memory before evidence, and gates before ups.
        context_proj: What the evidence branch reads of `context`, in the same order.
        down_proj: Columns of the memory branch, then those of the evidence branch.
        share: Where the slots go.
        act: Activation of the gates; without gates it is exact GELU.
    """
    dtype, gated = compute_dtype(x), input_proj.shape[1] == 2 * down_proj.shape[2]
    widths = (x.shape[1], context_proj.shape[1], down_proj.shape[2] // 2)
    plan = share.by_expert()
    ends = share.ends[share.num_sides - 1 :: share.num_sides]
    out = _TwoBranches.apply(
        x.to(dtype),
        context.to(dtype),
        alpha,
        weights,
        input_proj.to(dtype),
        context_proj.to(dtype),
        down_proj.to(dtype),
        plan.slot_of_row,
        plan.row_of_slot,
        runs_of(ends, plan.offsets, can_group(dtype, x.device, widths)),
        act if gated else None,
    )
    return out.to(x.dtype)


def _evidence(columns: Tensor, gated: bool) -> list[Tensor]:
    """The columns of the evidence branch: the second half, of gates and of ups each."""
    quarters = columns.chunk(4 if gated else 2, dim=-1)
    return list(quarters[1::2])


def _inner(pre: Tensor, act: str | None) -> tuple[Tensor, Tensor | None]:
    """Inner state ``(rows, 2*width)``, and the activated gate where there is one."""
    if act is None:
        return F.gelu(pre), None
    gate, up = pre.chunk(2, dim=-1)
    activated = ACTIVATIONS[act].forward(gate)
    return activated * up, activated


def _pre_gradient(d_inner: Tensor, pre: Tensor, activated: Tensor | None, act: str | None) -> Tensor:
    if activated is None or act is None:
        return torch.ops.aten.gelu_backward(d_inner, pre)
    gate, up = pre.chunk(2, dim=-1)
    return torch.cat([ACTIVATIONS[act].backward(d_inner * up, gate), d_inner * activated], dim=-1)


def _mixed(inner: Tensor, alpha: Tensor) -> Tensor:
    """Both branches times their shares, ``(rows, 2*width)``; in place."""
    memory, evidence = inner.chunk(2, dim=-1)
    memory.mul_(alpha.unsqueeze(-1))
    evidence.mul_((1 - alpha).unsqueeze(-1))
    return inner


def _row_weights(weights: Tensor, slot_of_row: Tensor) -> Tensor:
    found = weights.flatten().index_select(0, slot_of_row)
    found[-1] = 0  # nobody's row
    return found


class _TwoBranches(torch.autograd.Function):
    r"""Forward and backward of :math:`y_t = \sum_k w_{tk} (\alpha F_{mem}(x_t) + (1-\alpha) F_{evd}(x_t, a_t))`.

    Both branches are one expert of twice the width: one product from `x`, one from the context added to the second
    half, one back; alpha and 1-alpha scale the halves of the inner state. All gradients inside are those of the
    weighted experts, except that of alpha and of the weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        context: Tensor,
        alpha: Tensor,
        weights: Tensor,
        input_proj: Tensor,
        context_proj: Tensor,
        down_proj: Tensor,
        slot_of_row: Tensor,
        row_of_slot: Tensor,
        runs: Runs,
        act: str | None,
    ) -> Tensor:
        gated = act is not None
        plan = Plan(slot_of_row, row_of_slot, runs.offsets)
        pre = runs.multiply(dispatch(x, plan), input_proj)
        a = dispatch(context, plan)
        parts = zip(_evidence(pre, gated), context_proj.chunk(2 if gated else 1, dim=1), strict=True)
        for columns, proj in parts:
            runs.add(columns, a, proj)
        inner, _ = _inner(pre, act)
        y = runs.multiply(_mixed(inner, alpha), down_proj)
        y[-1].zero_()  # nobody's row
        saved = (x, context, alpha, weights, input_proj, context_proj, down_proj, slot_of_row, row_of_slot, pre)
        ctx.save_for_backward(*saved)
        ctx.runs, ctx.act = runs, act
        return combine(y, weights, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, context, alpha, weights, input_proj, context_proj, down_proj, slot_of_row, row_of_slot, pre = (
            ctx.saved_tensors
        )
        runs, gated, needs = ctx.runs, ctx.act is not None, ctx.needs_input_grad
        plan = Plan(slot_of_row, row_of_slot, runs.offsets)
        row_weight = _row_weights(weights, slot_of_row)
        dy = dispatch(dout, plan)
        d_mixed = runs.multiply_back(dy, down_proj)
        dy.mul_(row_weight.to(dy.dtype).unsqueeze(-1))
        inner, activated = _inner(pre, ctx.act)
        products = zip(d_mixed.chunk(2, dim=-1), inner.chunk(2, dim=-1), strict=True)
        memory, evidence = (torch.linalg.vecdot(left, right).to(alpha.dtype) for left, right in products)
        d_weight = alpha * memory + (1 - alpha) * evidence
        d_alpha = row_weight * (memory - evidence)
        d_mixed.mul_(row_weight.to(dy.dtype).unsqueeze(-1))
        d_pre = _pre_gradient(_mixed(d_mixed, alpha), pre, activated, ctx.act)
        d_down = runs.outer(dy, _mixed(inner, alpha)) if needs[6] else None
        d_evidence = torch.cat(_evidence(d_pre, gated), dim=-1)
        d_input = runs.outer(d_pre, dispatch(x, plan)) if needs[4] else None
        d_context_proj = runs.outer(d_evidence, dispatch(context, plan)) if needs[5] else None
        dx = _collect(runs.multiply_back(d_pre, input_proj), plan) if needs[0] else None
        da = _collect(runs.multiply_back(d_evidence, context_proj), plan) if needs[1] else None
        d_weight[-1] = 0
        dw = d_weight[row_of_slot].to(weights.dtype) if needs[3] else None
        return dx, da, d_alpha, dw, d_input, d_context_proj, d_down, None, None, None, None


def _collect(rows: Tensor, plan: Plan) -> Tensor:
    """Sum of the rows of each token, which carry their weight already."""
    rows[-1].zero_()
    return F.embedding_bag(plan.row_of_slot, rows, mode="sum")
