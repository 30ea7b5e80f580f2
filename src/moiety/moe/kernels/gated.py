"""One autograd function for a bank of gated experts, which saves few tensors, and its elementwise part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from moiety.moe.dispatch import Slots, gather, weighted_sum
from moiety.moe.kernels.activation import ACTIVATIONS, Activation
from moiety.moe.kernels.products import Runs, choose_form, compute_dtype, is_packed

BLOCK_ELEMENTS = 2**18
"""Number of elements in a block. On CPU a block of this size stays in the cache for several passes."""


def choose_kernel(
    kernel: str, act: str | Callable[[Tensor], Tensor], x: Tensor, slots: Slots, gate_up_proj: Tensor
) -> str:
    """The kernel that runs: ``loop``, ``grouped`` or ``reference``.

    A callable activation, an empty batch and quantised experts always run the reference.

    Args:
        kernel: One of ``moiety.moe.kernels.KERNELS``.
        act: Activation of the bank.
        x: Input, ``(tokens, hidden)``.
        slots: The sorted slots.
        gate_up_proj: Gate and up projections, ``(experts, 2*ffn, hidden)``.

    Raises:
        ValueError: ``grouped`` was asked for by name where ``grouped_mm`` cannot run.
    """
    if kernel == "reference" or act not in ACTIVATIONS or not slots.index.numel() or is_packed(gate_up_proj):
        return "reference"
    dtype, (experts, twice_ffn, hidden) = compute_dtype(x), gate_up_proj.shape
    rows = len(slots.slot_of_row) - 1  # the spare row is not computed
    return choose_form(
        kernel,
        dtype,
        gate_up_proj.device,
        (hidden, twice_ffn // 2),
        num_rows=rows,
        num_runs=experts,
        row_bytes=twice_ffn * dtype.itemsize,
    )


def gated_experts(
    x: Float[Tensor, "tokens hidden"],
    weights: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts twice_ffn hidden"],
    down_proj: Float[Tensor, "experts hidden ffn"],
    slots: Slots,
    act: str,
    form: str,
) -> Float[Tensor, "tokens hidden"]:
    """Weighted sum of the chosen experts, ``(tokens, hidden)``.

    Under autocast the products run in its dtype.

    Args:
        x: Hidden states, ``(tokens, hidden)``.
        weights: Weight of each choice, ``(tokens, top_k)``.
        gate_up_proj: Gate and up projections, ``(experts, 2*ffn, hidden)``; the gate's rows stand first.
        down_proj: Down projections, ``(experts, hidden, ffn)``.
        slots: The sorted slots.
        act: Name of the activation.
        form: ``loop`` or ``grouped``, as :func:`choose_kernel` answered.
    """
    dtype = compute_dtype(x)
    out = _GatedExperts.apply(
        x.to(dtype),
        weights,
        gate_up_proj.to(dtype),
        down_proj.to(dtype),
        slots.slot_of_row,
        slots.row_of_slot,
        slots.expert_offsets,
        slots.expert_ends,
        act,
        form,
    )
    return out.to(x.dtype)


class _GatedExperts(torch.autograd.Function):
    r"""Forward and backward of :math:`y_t = \sum_k w_{tk} E_{e(t,k)}(x_t)`.

    Input, pre-activations, weights and slots are saved for the backward pass. All gradients inside are those of the
    unweighted experts. The weights enter where rows are gathered or summed. The gradient of a weight is the inner
    product of the inner state, recomputed from the pre-activations, and its gradient. So the outputs of the experts are
    never kept, and nothing is divided by a weight.

    In form ``loop`` the rows of one expert go through all products before the next expert begins. So temporary tensors
    are never larger than these rows. In form ``grouped`` there is one pass for all rows.
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
        ends: Sequence[int] | None,
        act: str,
        form: str,
    ) -> Tensor:
        runs = Runs(len(slot_of_row), offsets, form, ends)
        token = torch.div(slot_of_row, row_of_slot.shape[1], rounding_mode="floor")
        gate_up = y = None
        for run in runs:
            gate_up = runs.apply(run, gather(x, token[run.rows]), gate_up_proj, gate_up)
            y = runs.apply(run, gated(gate_up[run.rows], act), down_proj, y)
        assert gate_up is not None
        assert y is not None
        ctx.save_for_backward(x, gate_up, weights, gate_up_proj, down_proj, slot_of_row, row_of_slot, offsets)
        ctx.ends, ctx.act, ctx.form = ends, act, form
        y[-1].zero_()  # the spare row
        return weighted_sum(y, weights, row_of_slot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        x, gate_up, weights, gate_up_proj, down_proj, slot_of_row, row_of_slot, offsets = ctx.saved_tensors
        needs_x, needs_weights, needs_gate_up, needs_down = ctx.needs_input_grad[:4]
        runs = Runs(len(slot_of_row), offsets, ctx.form, ctx.ends)
        dout = dout.contiguous()  # grouped_mm refuses the stride-0 gradient of a sum
        token = torch.div(slot_of_row, row_of_slot.shape[1], rounding_mode="floor")
        row_weight = weights.flatten().index_select(0, slot_of_row).to(x.dtype)
        dw_rows = x.new_empty(len(token))
        d_gate_up_proj = d_down_proj = dx_rows = None
        for run in runs:
            here, weight = token[run.rows], row_weight[run.rows]
            dy = gather(dout, here)
            dh = runs.back(run, dy, down_proj)
            h, d_gate_up = gated_backward(dh, gate_up[run.rows], ctx.act, dw_rows[run.rows])
            del dh
            if needs_down:
                weighted = gather(dout, here, weight) if run.number is None else dy.mul_(weight.unsqueeze(-1))
                d_down_proj = runs.apply_outer(run, weighted, h, d_down_proj)
            del h, dy
            if needs_gate_up:
                weighted = gather(x, here, weight) if run.number is None else gather(x, here).mul_(weight.unsqueeze(-1))
                d_gate_up_proj = runs.apply_outer(run, d_gate_up, weighted, d_gate_up_proj)
            if needs_x:
                dx_rows = runs.apply_back(run, d_gate_up, gate_up_proj, dx_rows)
        dx = dw = None
        if dx_rows is not None:
            dx_rows[-1].zero_()
            dx = weighted_sum(dx_rows, weights, row_of_slot)
        if needs_weights:
            dw_rows[-1].zero_()
            dw = dw_rows[row_of_slot].to(weights.dtype)
        return dx, dw, d_gate_up_proj, d_down_proj, *(None,) * 6


# -- the elementwise part, on the rows of one or of all experts --------------------------------------------------------
def gated(gate_up: Float[Tensor, "rows twice_ffn"], act: str) -> Float[Tensor, "rows ffn"]:
    """The inner state ``h = act(gate) * up``, ``(rows, ffn)``, in a new tensor.

    Args:
        gate_up: Pre-activations, ``(rows, 2*ffn)``; the gate's half stands first. They are not changed.
        act: Name of the activation.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[act].forward(gate).mul_(up)


def gated_backward(
    dh: Float[Tensor, "rows ffn"], gate_up: Float[Tensor, "rows twice_ffn"], act: str, dw: Float[Tensor, " rows"]
) -> tuple[Float[Tensor, "rows ffn"], Float[Tensor, "rows twice_ffn"]]:
    """Inner state of the *unweighted* expert, with the gradients of the row weights and of the pre-activations.

    Args:
        dh: Gradient of the inner state ``h``, ``(rows, ffn)``; it is overwritten.
        gate_up: Pre-activations, ``(rows, 2*ffn)``.
        act: Name of the activation.
        dw: The gradient of the row weights, ``rowsum(dh * h)``, is written here, ``(rows,)``.

    Returns:
        ``h`` ``(rows, ffn)`` and ``d_gate_up`` ``(rows, 2*ffn)``.
    """
    if torch.compiler.is_compiling():
        return _plain(dh, gate_up, ACTIVATIONS[act], dw)
    h, d_gate_up = torch.empty_like(dh), torch.empty_like(gate_up)
    step = len(dh) if dh.is_cuda else max(1, BLOCK_ELEMENTS // dh.shape[1])
    for start in range(0, len(dh), max(step, 1)):
        rows = slice(start, start + step)
        _block(dh[rows], gate_up[rows], ACTIVATIONS[act], h[rows], dw[rows], d_gate_up[rows])
    return h, d_gate_up


def _block(dh: Tensor, gate_up: Tensor, activation: Activation, h: Tensor, dw: Tensor, d_gate_up: Tensor) -> None:
    """:func:`gated_backward` on rows that fit the cache; it writes into the last three arguments."""
    (gate, up), (d_gate, d_up) = gate_up.chunk(2, dim=-1), d_gate_up.chunk(2, dim=-1)
    activated = activation.forward(gate)
    torch.mul(activated, up, out=h)
    torch.mul(dh, activated, out=d_up)
    torch.sum(torch.mul(dh, h, out=activated), dim=-1, out=dw)
    activation.backward(dh.mul_(up), gate, grad_input=d_gate)


def _plain(dh: Tensor, gate_up: Tensor, activation: Activation, dw: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`gated_backward` for compiled code, which refuses views as outputs and plans memory by itself."""
    gate, up = gate_up.chunk(2, dim=-1)
    activated = activation.forward(gate)
    h = activated * up
    dw.copy_((dh * h).sum(dim=-1))
    return h, torch.cat([activation.backward(dh * up, gate), dh * activated], dim=-1)
