"""The grouped product of torch, for eager code and for compiled code in every dtype.

A compiler asks an operator for the shape of its answer. The shape rule of ``grouped_mm`` refuses float32 and float16 in
some releases of torch, though the operator itself runs them. Compiled code therefore calls the same operator through
one of our own, whose shape rule knows every dtype. The numbers are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def grouped_product(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    """One product for each run of rows, all in one call.

    Args:
        left: Sorted rows ``(rows, inner)``; or ``(m, rows)`` for the outer products of each run.
        right: One matrix for each run, ``(runs, inner, out)``; or rows ``(rows, n)``.
        offsets: End row of each run, ``(runs,)`` int32 of stride 1, which torch asks for from 2.14 on.

    Returns:
        ``(rows, out)``, where rows behind the last run hold anything; or ``(runs, m, n)``.
    """
    if not torch.compiler.is_compiling():
        return F.grouped_mm(_aligned(left), _aligned(right), offs=offsets)
    return F.grouped_mm(left, right, offs=offsets) if left.dtype == torch.bfloat16 else _opaque(left, right, offsets)


def _aligned(matrix: Tensor) -> Tensor:
    """`matrix`, copied where it begins between two blocks of 16 bytes, which torch 2.10 refuses.

    Weights that are read in place from a safetensors file may begin anywhere.
    """
    plain = type(matrix) in (Tensor, torch.nn.Parameter)
    return matrix.clone() if plain and matrix.data_ptr() % 16 else matrix


@torch.library.custom_op(
    "moiety::grouped_product", mutates_args=(), schema="(Tensor left, Tensor right, Tensor offsets) -> Tensor"
)
def _opaque(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    return F.grouped_mm(_aligned(left), _aligned(right), offs=offsets).contiguous()


@_opaque.register_fake
def _(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    runs = (len(offsets),) if right.dim() == 2 else ()
    return left.new_empty(*runs, left.shape[0], right.shape[-1])
