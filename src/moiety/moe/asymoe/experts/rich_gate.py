"""What the rich gate of an evidence expert sees, scored in float32 without keeping anything in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from moiety.moe.kernels.swiglu import BLOCK_ELEMENTS


def rich_scores(
    x: Float[Tensor, "tokens hidden"],
    context: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "experts thrice_hidden"],
) -> Float[Tensor, "tokens experts"]:
    r""":math:`w \cdot [x; a; |x-a|]` in the dtype of `weight`.

    Args:
        x: Hidden states *x*.
        context: What the evidence says, *a*.
        weight: Of each expert, for the three parts in this order.
    """
    return _RichScores.apply(x, context, weight)


class _RichScores(torch.autograd.Function):
    """The scores, block by block; saves its inputs alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, context: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, context, weight)
        of_x, of_a, of_difference = weight.T.chunk(3)  # (hidden, experts) each
        out = weight.new_empty(len(x), len(weight))
        for block, wide_x, wide_a in _wide(x, context, weight.dtype):
            difference = (wide_x - wide_a).abs_()
            torch.mm(wide_x, of_x, out=out[block]).addmm_(wide_a, of_a).addmm_(difference, of_difference)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, context, weight = ctx.saved_tensors
        dx, da, d_weight = torch.empty_like(x), torch.empty_like(context), torch.zeros_like(weight)
        of_x, of_a, of_difference = weight.chunk(3, dim=1)
        d_of_x, d_of_a, d_of_difference = d_weight.chunk(3, dim=1)
        for block, wide_x, wide_a in _wide(x, context, weight.dtype):
            grad = d_scores[block]
            d_of_x.addmm_(grad.T, wide_x)
            d_of_a.addmm_(grad.T, wide_a)
            difference = wide_x - wide_a
            through = (grad @ of_difference).mul_(difference.sign())
            d_of_difference.addmm_(grad.T, difference.abs_())
            dx[block] = (grad @ of_x).add_(through)
            da[block] = (grad @ of_a).sub_(through)
        return dx, da, d_weight


def _wide(x: Tensor, context: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of both in `dtype`; on CPU several passes over a block find it in the cache."""
    step = len(x) if x.is_cuda else max(1, BLOCK_ELEMENTS // (4 * x.shape[1]))
    for start in range(0, len(x), max(step, 1)):
        block = slice(start, start + step)
        yield block, x[block].to(dtype), context[block].to(dtype)
