"""The elementwise part of a gated expert, forward and backward, on the rows of one or of all experts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from moiety.moe.kernels.activation import ACTIVATIONS, Activation

BLOCK_ELEMENTS = 2**18
"""On CPU eight passes over a block of this many elements find it in the cache."""


def gated(gate_up: Float[Tensor, "rows twice_ffn"], act: str) -> Float[Tensor, "rows ffn"]:
    """``h = act(gate) * up``, in memory of its own.

    Args:
        gate_up: Pre-activations, the gate's half first; read only.
        act: Name of the activation.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[act].forward(gate).mul_(up)


def gated_backward(
    dh: Float[Tensor, "rows ffn"], gate_up: Float[Tensor, "rows twice_ffn"], act: str, dw: Float[Tensor, " rows"]
) -> tuple[Float[Tensor, "rows ffn"], Float[Tensor, "rows twice_ffn"]]:
    """Inner state, and gradients of the row weights and of the pre-activations, all of the *unweighted* expert.

    Args:
        dh: Gradient of the inner state ``h``; overwritten.
        gate_up: Pre-activations.
        act: Name of the activation.
        dw: Receives ``rowsum(dh * h)``.

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
    """The same on rows that fit the cache, written into the last three arguments."""
    (gate, up), (d_gate, d_up) = gate_up.chunk(2, dim=-1), d_gate_up.chunk(2, dim=-1)
    activated = activation.forward(gate)
    torch.mul(activated, up, out=h)
    torch.mul(dh, activated, out=d_up)
    torch.sum(torch.mul(dh, h, out=activated), dim=-1, out=dw)
    activation.backward(dh.mul_(up), gate, grad_input=d_gate)


def _plain(dh: Tensor, gate_up: Tensor, activation: Activation, dw: Tensor) -> tuple[Tensor, Tensor]:
    """The same without views as outputs, which a compiler refuses; it fuses and plans memory by itself."""
    gate, up = gate_up.chunk(2, dim=-1)
    activated = activation.forward(gate)
    h = activated * up
    dw.copy_((dh * h).sum(dim=-1))
    return h, torch.cat([activation.backward(dh * up, gate), dh * activated], dim=-1)
