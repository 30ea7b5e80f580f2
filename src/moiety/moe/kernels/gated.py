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
        plan.order,
        plan.inverse,
        plan.offsets,
        act,
        form,
    )
    return out.to(x.dtype)


class _GatedExperts(torch.autograd.Function):
    r"""Forward and backward of :math:`y_t = \sum_k w_{tk} E_{e(t,k)}(x_t)`.

    Saved for backward: input, pre-activations, weights and the plan. The gradient of a weight is the inner product of
    ``dh'`` (gradient of the unweighted inner state) with the inner state recomputed from the pre-activations, so the
    outputs of the experts are never kept and no division by a weight occurs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weights: Tensor,
        gate_up_proj: Tensor,
        down_proj: Tensor,
        order: Tensor,
        inverse: Tensor,
        offsets: Tensor,
        act: str,
        form: str,
    ) -> Tensor:
        plan = Plan(order, inverse, offsets, weights.shape[-1])
        gate_up, y = _FORMS[form].forward(x, gate_up_proj, down_proj, plan, act)
        ctx.save_for_backward(x, gate_up, weights, gate_up_proj, down_proj, order, inverse, offsets)
        ctx.act, ctx.form = act, form
        return combine(y, weights, plan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, weights, gate_up_proj, down_proj, order, inverse, offsets = ctx.saved_tensors
        plan = Plan(order, inverse, offsets, weights.shape[-1])
        needs_x, needs_weights, needs_gate_up, needs_down = ctx.needs_input_grad[:4]
        row_weight = weights.flatten().index_select(0, order).to(x.dtype).unsqueeze(-1)  # (tokens, top_k) -> (slots, 1)
        grads = _FORMS[ctx.form].backward(
            dout.contiguous(), x, gate_up, row_weight, gate_up_proj, down_proj, plan, ctx.act,
            (needs_x, needs_gate_up, needs_down),
        )  # fmt: skip
        dx_rows, dw_rows, d_gate_up_proj, d_down_proj = grads
        dx = combine(dx_rows, None, plan) if needs_x else None
        dw = combine_weights(dw_rows, plan).to(weights.dtype) if needs_weights else None
        return dx, dw, d_gate_up_proj, d_down_proj, None, None, None, None, None


def combine_weights(dw_rows: Tensor, plan: Plan) -> Tensor:
    """Gradients of the weights from sorted rows back to ``(tokens, top_k)``; 0 where no expert was chosen."""
    nobody = plan.inverse >= plan.offsets[-1]
    return dw_rows.index_select(0, plan.inverse).masked_fill(nobody, 0).view(-1, plan.top_k)
