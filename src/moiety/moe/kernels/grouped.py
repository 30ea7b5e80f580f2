"""The grouped form: one ``grouped_mm`` over all experts for each product. No host sync, static shapes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from moiety.moe.dispatch import Plan
from moiety.moe.kernels.swiglu import gated, gated_backward


def forward(x: Tensor, gate_up_proj: Tensor, down_proj: Tensor, plan: Plan, act: str) -> tuple[Tensor, Tensor]:
    """Pre-activations ``(slots, 2*ffn)`` and unweighted outputs ``(slots, hidden)``; rows past the plan are garbage."""
    rows = x.index_select(0, plan.token_of_row)
    gate_up = F.grouped_mm(rows, gate_up_proj.transpose(-2, -1), offs=plan.offsets)
    y = F.grouped_mm(gated(gate_up, act), down_proj.transpose(-2, -1), offs=plan.offsets)
    return gate_up, y


def backward(
    dout: Tensor,
    x: Tensor,
    gate_up: Tensor,
    row_weight: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    plan: Plan,
    act: str,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Gradients of the input rows, the row weights and both banks; `needs` names input, gate_up and down."""
    needs_x, needs_gate_up, needs_down = needs
    dy = dout.index_select(0, plan.token_of_row)
    dh = F.grouped_mm(dy, down_proj, offs=plan.offsets)
    h, dw, d_gate_up = gated_backward(dh, gate_up, row_weight, act)
    d_down = d_gate_up_proj = dx = None
    if needs_down:
        d_down = _outer(dy.mul_(row_weight), h, plan)
    if needs_gate_up:
        d_gate_up_proj = _outer(d_gate_up, x.index_select(0, plan.token_of_row), plan)
    if needs_x:
        dx = F.grouped_mm(d_gate_up, gate_up_proj, offs=plan.offsets)
    return dx, dw, d_gate_up_proj, d_down


def _outer(left: Tensor, right: Tensor, plan: Plan) -> Tensor:
    """``left.T @ right`` over the rows of each expert: ``(slots, m)``, ``(slots, n)`` -> ``(experts, m, n)``."""
    return F.grouped_mm(left.transpose(0, 1), right, offs=plan.offsets)
