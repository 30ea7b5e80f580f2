"""Which kernel runs: what was asked for, what the shapes allow, what was measured to be faster."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from moiety.moe.kernels.activation import ACTIVATIONS

logger = logging.getLogger(__name__)

KERNELS = ("auto", "loop", "grouped", "reference")

# On CPU the loop form wins once the saved gate_up leaves the size that malloc recycles and each product is large.
LARGE_GATE_UP_BYTES = 16 * 2**20
LARGE_ROWS_PER_EXPERT = 256


def choose_kernel(
    kernel: str, act: str | Callable[[Tensor], Tensor], x: Tensor, index: Tensor, gate_up_proj: Tensor
) -> str:
    """Resolve ``auto``; a callable activation, an empty batch or quantised experts always run the reference.

    Args:
        kernel: One of :data:`KERNELS`.
        act: Activation of the bank.
        x: Input, ``(tokens, hidden)``.
        index: Chosen experts, ``(tokens, top_k)``.
        gate_up_proj: ``(experts, 2*ffn, hidden)``.

    Raises:
        ValueError: ``grouped`` was asked for by name where ``grouped_mm`` cannot run.
    """
    if kernel == "reference" or act not in ACTIVATIONS or not index.numel() or is_packed(gate_up_proj):
        return "reference"
    dtype = compute_dtype(x)
    if dtype == torch.float16 and x.device.type == "cpu":
        say_half_is_slow()
    if kernel == "loop":
        return "loop"
    refusal = grouped_refusal(dtype, gate_up_proj)
    if kernel == "grouped":
        if refusal:
            raise ValueError(f"kernel 'grouped' cannot run: {refusal}; use 'auto' or 'loop'")
        return "grouped"
    if refusal:
        return "loop"
    experts, twice_ffn, _ = gate_up_proj.shape
    gate_up_bytes = index.numel() * twice_ffn * dtype.itemsize
    large = gate_up_bytes >= LARGE_GATE_UP_BYTES and index.numel() >= LARGE_ROWS_PER_EXPERT * experts
    return "loop" if large and x.device.type == "cpu" else "grouped"


def is_packed(weights: Tensor) -> bool:
    """Whether weights are quantised by torchao, whose tensors know products of one matrix and none of a stack."""
    return type(weights).__module__.startswith("torchao")


@functools.cache
def say_half_is_slow() -> None:
    """Log once: no CPU multiplies float16 natively here."""
    logger.warning("float16 experts run about ten times slower on CPU than bfloat16; use bfloat16")


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the products: that of autocast where it is on and would cast `x`, else that of `x`."""
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def grouped_refusal(dtype: torch.dtype, gate_up_proj: Tensor) -> str | None:
    """Why ``grouped_mm`` cannot run on these widths, or None."""
    _, twice_ffn, hidden = gate_up_proj.shape
    if dtype == torch.float64:
        return "grouped_mm has no float64"
    if gate_up_proj.device.type == "cuda" and dtype != torch.bfloat16:
        return f"grouped_mm on CUDA is only known to work in bfloat16, not {dtype}"
    step = 16 // dtype.itemsize
    if hidden % step or (twice_ffn // 2) % step:
        return f"hidden={hidden} and ffn={twice_ffn // 2} must be multiples of {step} in {dtype} (strides of 16 bytes)"
    return None
