"""The grouped form: one ``grouped_mm`` over all experts for each product. No host sync, static shapes."""

from __future__ import annotations

from torch import Tensor

from moiety.moe.dispatch import Plan, dispatch, dispatch_weighted
from moiety.moe.grouped_product import grouped_product
from moiety.moe.kernels.swiglu import gated, gated_backward


def forward(x: Tensor, gate_up_proj: Tensor, down_proj: Tensor, plan: Plan, act: str) -> tuple[Tensor, Tensor]:
    """Pre-activations ``(rows, 2*ffn)`` and unweighted outputs ``(rows, hidden)``; uncomputed rows hold anything."""
    gate_up = grouped_product(dispatch(x, plan), gate_up_proj.transpose(-2, -1), plan.offsets)
    y = grouped_product(gated(gate_up, act), down_proj.transpose(-2, -1), plan.offsets)
    return gate_up, y


def backward(
    dout: Tensor,
    x: Tensor,
    gate_up: Tensor,
    weights: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
    plan: Plan,
    act: str,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Unweighted gradients of the sorted input rows, gradients of the row weights, and those of both banks.

    `needs` says which of input, gate_up_proj and down_proj want a gradient.
    """
    needs_x, needs_gate_up, needs_down = needs
    dh = grouped_product(dispatch(dout, plan), down_proj, plan.offsets)
    dw = dh.new_empty(len(dh))
    h, d_gate_up = gated_backward(dh, gate_up, act, dw)
    del dh
    d_down = _outer(dispatch_weighted(dout, weights, plan), h, plan) if needs_down else None
    del h
    d_gate_up_proj = _outer(d_gate_up, dispatch_weighted(x, weights, plan), plan) if needs_gate_up else None
    dx = grouped_product(d_gate_up, gate_up_proj, plan.offsets) if needs_x else None
    return dx, dw, d_gate_up_proj, d_down


def _outer(left: Tensor, right: Tensor, plan: Plan) -> Tensor:
    """``left.T @ right`` over the rows of each expert: ``(rows, m)``, ``(rows, n)`` -> ``(experts, m, n)``."""
    return grouped_product(left.transpose(0, 1), right, plan.offsets)
