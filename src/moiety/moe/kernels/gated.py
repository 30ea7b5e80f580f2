"""One autograd function for a bank of gated experts that saves as little as possible."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from moiety.moe.dispatch import Plan, combine
from moiety.moe.kernels import grouped, loop
from moiety.moe.kernels.choice import compute_dtype

_FORMS = {"loop": loop, "grouped": grouped}


def gated_experts(
    x: Float[Tensor, "tokens hidden"],
    weights: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts twice_ffn hidden"],
    down_proj: Float[Tensor, "experts hidden ffn"],
    plan: Plan,
    act: str,
    form: str,
) -> Float[Tensor, "tokens hidden"]:
    """Weighted sum of the chosen experts, ``form`` being ``loop`` or ``grouped``; autocast is honoured."""
    dtype = compute_dtype(x)
    out = _GatedExperts.apply(
        x.to(dtype),
        weights,
        gate_up_proj.to(dtype),
        down_proj.to(dtype),
        plan.slot_of_row,
        plan.row_of_slot,
        plan.offsets,
        act,
        form,
    )
    return out.to(x.dtype)


class _GatedExperts(torch.autograd.Function):
    r"""Forward and backward of :math:`y_t = \sum_k w_{tk} E_{e(t,k)}(x_t)`.

    Saved for backward: input, pre-activations, weights and the plan. All gradients inside are those of the unweighted
    experts; the weights enter where rows are gathered or summed. The gradient of a weight is the inner product of the
    gradient of the inner state with the inner state, recomputed from the pre-activations, so the outputs of the
    experts are never kept and nothing is divided by a weight.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        gate_up_proj: Tensor,
        down_proj: Tensor,
        slot_of_row: Tensor,
        row_of_slot: Tensor,
        offsets: Tensor,
        act: str,
        form: str,
    ) -> Tensor:
        plan = Plan(slot_of_row, row_of_slot, offsets)
        gate_up, y = _FORMS[form].forward(x, gate_up_proj, down_proj, plan, act)
        ctx.save_for_backward(x, gate_up, weights, gate_up_proj, down_proj, slot_of_row, row_of_slot, offsets)
        ctx.act, ctx.form = act, form
        y[-1].zero_()  # nobody's row
        return combine(y, weights, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, weights, gate_up_proj, down_proj, slot_of_row, row_of_slot, offsets = ctx.saved_tensors
        plan = Plan(slot_of_row, row_of_slot, offsets)
        needs_x, needs_weights, needs_gate_up, needs_down = ctx.needs_input_grad[:4]
        dx_rows, dw_rows, d_gate_up_proj, d_down_proj = _FORMS[ctx.form].backward(
            dout.contiguous(),  # grouped_mm refuses the stride-0 gradient of a sum
            x,
            gate_up,
            weights,
            gate_up_proj,
            down_proj,
            plan,
            ctx.act,
            (needs_x, needs_gate_up, needs_down),
        )
        dx = dw = None
        if needs_x:
            dx_rows[-1].zero_()
            dx = combine(dx_rows, weights, plan)
        if needs_weights:
            dw_rows[-1].zero_()
            dw = dw_rows[row_of_slot].to(weights.dtype)
        return dx, dw, d_gate_up_proj, d_down_proj, None, None, None, None, None
