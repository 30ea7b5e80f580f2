"""The elementwise part of a gated expert, forward and backward, on the rows of one or of all experts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from moiety.moe.kernels.activation import ACTIVATIONS


def gated(gate_up: Float[Tensor, "rows twice_ffn"], act: str) -> Float[Tensor, "rows ffn"]:
    """``h = act(gate) * up``."""
    gate, up = gate_up.chunk(2, dim=-1)
    return ACTIVATIONS[act].forward(gate).mul_(up)


def gated_backward(
    dh: Float[Tensor, "rows ffn"],
    gate_up: Float[Tensor, "rows twice_ffn"],
    row_weight: Float[Tensor, "rows 1"],
    act: str,
) -> tuple[Float[Tensor, "rows ffn"], Float[Tensor, " rows"], Float[Tensor, "rows twice_ffn"]]:
    """Inner state, gradient of the row weights, gradient of the pre-activations.

    Args:
        dh: Gradient of the inner state of the *unweighted* expert; overwritten.
        gate_up: Pre-activations.
        row_weight: Routing weight of each row.
        act: Name of the activation.

    Returns:
        ``h`` ``(rows, ffn)``, ``dw`` ``(rows,)`` in float32 at least, ``d_gate_up`` ``(rows, 2*ffn)``.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    activated = ACTIVATIONS[act].forward(gate)
    h = activated * up
    wide = torch.promote_types(dh.dtype, torch.float32)
    dw = (dh * h).sum(dim=-1, dtype=wide)
    dh.mul_(row_weight)
    d_gate_up = torch.empty_like(gate_up)
    d_gate, d_up = d_gate_up.chunk(2, dim=-1)
    torch.mul(dh, activated, out=d_up)
    d_gate.copy_(ACTIVATIONS[act].backward(dh.mul_(up), gate))
    return h, dw, d_gate_up
