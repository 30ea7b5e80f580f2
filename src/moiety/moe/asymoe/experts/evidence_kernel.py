"""The two autograd functions of a bank of evidence experts: both branches together, and the scores of its rich gate.

For each slot, the first function saves the pre-activations alone. The second computes in float32 and saves its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from moiety.moe.dispatch import Slots, gather, weighted_sum
from moiety.moe.kernels.activation import ACTIVATIONS
from moiety.moe.kernels.gated import BLOCK_ELEMENTS
from moiety.moe.kernels.products import Runs, choose_form, compute_dtype


def two_branches(
    x: Float[Tensor, "tokens hidden"],
    context: Float[Tensor, "tokens hidden"],
    alpha: Float[Tensor, "tokens experts"],
    weights: Float[Tensor, "tokens top_k"],
    input_proj: Float[Tensor, "experts inner hidden"],
    context_proj: Float[Tensor, "experts half_inner hidden"],
    down_proj: Float[Tensor, "experts hidden twice_width"],
    slots: Slots,
    act: str = "silu",
) -> Float[Tensor, "tokens hidden"]:
    """Weighted sum of the chosen experts, ``(tokens, hidden)``.

    The branches are gated where `input_proj` has twice as many rows as `down_proj` has columns.

    Args:
        x: Hidden states, ``(tokens, hidden)``.
        context: Output of the context attention, ``(tokens, hidden)``.
        alpha: Share of the memory branch in each expert, for each token, ``(tokens, experts)``.
        weights: Weight of each choice, ``(tokens, top_k)``.
        input_proj: Projection of `x` for both branches: memory before evidence, and gates before ups.
        context_proj: Projection of `context` for the evidence branch: gates before ups.
        down_proj: Columns of the memory branch, then those of the evidence branch.
        slots: The sorted slots, with the ends of the runs on the host.
        act: Activation of the gates; without gates it is exact GELU.
    """
    dtype, gated = compute_dtype(x), input_proj.shape[1] == 2 * down_proj.shape[2]
    widths = (x.shape[1], context_proj.shape[1], down_proj.shape[2] // 2)
    assert slots.expert_ends is not None
    form = choose_form("auto", dtype, x.device, widths)
    out = _TwoBranches.apply(
        x.to(dtype),
        context.to(dtype),
        alpha_of_row(alpha, slots),
        weights,
        input_proj.to(dtype),
        context_proj.to(dtype),
        down_proj.to(dtype),
        slots.slot_of_row,
        slots.row_of_slot,
        Runs.covering(slots.expert_ends, slots.expert_offsets, form),
        act if gated else None,
    )
    return out.to(x.dtype)


def alpha_of_row(alpha: Float[Tensor, "tokens experts"], slots: Slots) -> Float[Tensor, " rows"]:
    """The alpha of each sorted row, by its token and its expert; the spare row is counted with the last expert."""
    expert = slots.index.flatten().index_select(0, slots.slot_of_row)
    expert[-1] = alpha.shape[1] - 1
    return alpha.flatten().index_select(0, slots.token_of_row * alpha.shape[1] + expert)


def _evidence(columns: Tensor, gated: bool) -> list[Tensor]:
    """The columns of the evidence branch: the second half of the gates and the second half of the ups."""
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
    """Multiply both branches by their shares in place, ``(rows, 2*width)``."""
    memory, evidence = inner.chunk(2, dim=-1)
    memory.mul_(alpha.unsqueeze(-1))
    evidence.mul_((1 - alpha).unsqueeze(-1))
    return inner


def _row_weights(weights: Tensor, slot_of_row: Tensor) -> Tensor:
    found = weights.flatten().index_select(0, slot_of_row)
    found[-1] = 0  # the spare row
    return found


class _TwoBranches(torch.autograd.Function):
    r"""Forward and backward of :math:`y_t = \sum_k w_{tk} (\alpha F_{mem}(x_t) + (1-\alpha) F_{evd}(x_t, a_t))`.

    Both branches are computed as one expert of twice the width. One product reads `x`, a second reads the context and
    is added to the evidence half, and a third goes back to `hidden`. alpha and 1-alpha scale the halves of the inner
    state. All gradients inside are those of the weighted experts, except those of alpha and of the weights.
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
        token = torch.div(slot_of_row, row_of_slot.shape[1], rounding_mode="floor")
        pre = runs.multiply(gather(x, token), input_proj)
        a = gather(context, token)
        parts = zip(_evidence(pre, gated), context_proj.chunk(2 if gated else 1, dim=1), strict=True)
        for columns, proj in parts:
            runs.add(columns, a, proj)
        inner, _ = _inner(pre, act)
        y = runs.multiply(_mixed(inner, alpha), down_proj)
        y[-1].zero_()  # the spare row
        saved = (x, context, alpha, weights, input_proj, context_proj, down_proj, slot_of_row, row_of_slot, pre)
        ctx.save_for_backward(*saved)
        ctx.runs, ctx.act = runs, act
        return weighted_sum(y, weights, row_of_slot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, context, alpha, weights, input_proj, context_proj, down_proj, slot_of_row, row_of_slot, pre = (
            ctx.saved_tensors
        )
        runs, gated, needs = ctx.runs, ctx.act is not None, ctx.needs_input_grad
        token = torch.div(slot_of_row, row_of_slot.shape[1], rounding_mode="floor")
        row_weight = _row_weights(weights, slot_of_row)
        dy = gather(dout, token)
        d_mixed = runs.multiply_back(dy, down_proj)
        dy.mul_(row_weight.to(dy.dtype).unsqueeze(-1))
        inner, activated = _inner(pre, ctx.act)
        products = zip(d_mixed.chunk(2, dim=-1), inner.chunk(2, dim=-1), strict=True)
        memory, evidence = (torch.linalg.vecdot(left, right).to(alpha.dtype) for left, right in products)
        d_weight = alpha * memory + (1 - alpha) * evidence
        d_alpha = row_weight * (memory - evidence)
        d_alpha[-1] = 0
        d_mixed.mul_(row_weight.to(dy.dtype).unsqueeze(-1))
        d_pre = _pre_gradient(_mixed(d_mixed, alpha), pre, activated, ctx.act)
        d_down = runs.outer(dy, _mixed(inner, alpha)) if needs[6] else None
        d_evidence = torch.cat(_evidence(d_pre, gated), dim=-1)
        d_input = runs.outer(d_pre, gather(x, token)) if needs[4] else None
        d_context_proj = runs.outer(d_evidence, gather(context, token)) if needs[5] else None
        dx = _collect(runs.multiply_back(d_pre, input_proj), row_of_slot) if needs[0] else None
        da = _collect(runs.multiply_back(d_evidence, context_proj), row_of_slot) if needs[1] else None
        d_weight[-1] = 0
        dw = d_weight[row_of_slot].to(weights.dtype) if needs[3] else None
        return dx, da, d_alpha, dw, d_input, d_context_proj, d_down, None, None, None, None


def _collect(rows: Tensor, row_of_slot: Tensor) -> Tensor:
    """Sum of the rows of each token; the rows are weighted already."""
    rows[-1].zero_()
    return F.embedding_bag(row_of_slot, rows, mode="sum")


# -- the rich gate -----------------------------------------------------------------------------------------------------
def rich_scores(
    x: Float[Tensor, "tokens hidden"],
    context: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "experts thrice_hidden"],
) -> Float[Tensor, "tokens experts"]:
    r"""Scores of the rich gate, :math:`w \cdot [x; a; |x-a|]`, ``(tokens, experts)`` in the dtype of `weight`.

    Args:
        x: Hidden states *x*, ``(tokens, hidden)``.
        context: Output *a* of the context attention, ``(tokens, hidden)``.
        weight: Weights *w* of each expert for the three parts in this order, ``(experts, 3*hidden)``.
    """
    return _RichScores.apply(x, context, weight)


class _RichScores(torch.autograd.Function):
    """The scores of the rich gate, computed block by block; only the inputs are saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, context, weight)
        of_x, of_a, of_difference = weight.T.chunk(3)  # (hidden, experts) each
        out = weight.new_empty(len(x), len(weight))
        for block, wide_x, wide_a in _wide(x, context, weight.dtype):
            difference = (wide_x - wide_a).abs_()
            torch.mm(wide_x, of_x, out=out[block]).addmm_(wide_a, of_a).addmm_(difference, of_difference)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, context, weight = ctx.saved_tensors
        dx, da, d_weight = torch.empty_like(x), torch.empty_like(context), torch.zeros_like(weight)
        of_x, of_a, of_difference = weight.chunk(3, dim=1)
        d_of_x, d_of_a, d_of_difference = d_weight.chunk(3, dim=1)
        for block, wide_x, wide_a in _wide(x, context, weight.dtype):
            grad = d_scores[block]
            d_of_x.addmm_(grad.T, wide_x)
            d_of_a.addmm_(grad.T, wide_a)
            difference = wide_x - wide_a
            through = (grad @ of_difference).mul_(difference.sign())
            d_of_difference.addmm_(grad.T, difference.abs_())
            dx[block] = (grad @ of_x).add_(through)
            da[block] = (grad @ of_a).sub_(through)
        return dx, da, d_weight


def _wide(x: Tensor, context: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of both inputs in `dtype`; on CPU a block stays in the cache for several passes."""
    step = len(x) if x.is_cuda else max(1, BLOCK_ELEMENTS // (4 * x.shape[1]))
    for start in range(0, len(x), max(step, 1)):
        block = slice(start, start + step)
        yield block, x[block].to(dtype), context[block].to(dtype)
