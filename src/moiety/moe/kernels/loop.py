"""The loop form: one product per expert, written straight into preallocated rows and gradients.

Allocates nothing larger than the rows of one expert beside what it returns. Reading the offsets is one host sync on
CUDA and free on CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from moiety.moe.dispatch import Plan
from moiety.moe.kernels.swiglu import gated, gated_backward


def _runs(plan: Plan) -> Iterator[tuple[int, slice]]:
    """Each expert with its rows."""
    start = 0
    for expert, end in enumerate(plan.offsets.tolist()):
        yield expert, slice(start, end)
        start = end


def forward(x: Tensor, gate_up_proj: Tensor, down_proj: Tensor, plan: Plan, act: str) -> tuple[Tensor, Tensor]:
    """Pre-activations ``(rows, 2*ffn)`` and unweighted outputs ``(rows, hidden)``; uncomputed rows hold anything."""
    token_of_row = plan.token_of_row
    gate_up = x.new_empty(len(token_of_row), gate_up_proj.shape[1])
    y = x.new_empty(len(token_of_row), x.shape[1])
    for expert, rows in _runs(plan):
        torch.mm(x.index_select(0, token_of_row[rows]), gate_up_proj[expert].T, out=gate_up[rows])
        torch.mm(gated(gate_up[rows], act), down_proj[expert].T, out=y[rows])
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
    token_of_row = plan.token_of_row
    row_weight = weights.flatten().index_select(0, plan.slot_of_row).to(x.dtype).unsqueeze(-1)
    dx, dw = x.new_empty(len(token_of_row), x.shape[1]) if needs_x else None, x.new_empty(len(token_of_row))
    d_gate_up_proj = torch.empty_like(gate_up_proj) if needs_gate_up else None
    d_down_proj = torch.empty_like(down_proj) if needs_down else None
    for expert, rows in _runs(plan):
        token = token_of_row[rows]
        dy = dout.index_select(0, token)
        h, d_gate_up = gated_backward(torch.mm(dy, down_proj[expert]), gate_up[rows], act, dw[rows])
        # a product over no rows is 0: an idle expert gets a zero gradient, not none
        if d_down_proj is not None:
            torch.mm(dy.mul_(row_weight[rows]).T, h, out=d_down_proj[expert])
        if d_gate_up_proj is not None:
            weighted = x.index_select(0, token).mul_(row_weight[rows])
            torch.mm(d_gate_up.T, weighted, out=d_gate_up_proj[expert])
        if dx is not None:
            torch.mm(d_gate_up, gate_up_proj[expert], out=dx[rows])
    return dx, dw, d_gate_up_proj, d_down_proj
