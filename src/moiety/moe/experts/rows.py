"""The rows of a bank's own slots under autograd, without atomics: what was gathered is summed up again by a gather."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from moiety.moe.dispatch import Slots


def own_rows(x: Float[Tensor, "tokens hidden"], slots: Slots) -> Float[Tensor, "rows hidden"]:
    """One sorted row for each slot of the bank, and the spare row, which gives no gradient back."""
    return _OwnRows.apply(x, slots.token_of_row, slots.row_of_slot)


class _OwnRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token_of_row: Tensor, row_of_slot: Tensor) -> Tensor:
        ctx.save_for_backward(row_of_slot)
        return x.index_select(0, token_of_row)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_rows: Tensor) -> tuple[Tensor, None, None]:
        (row_of_slot,) = ctx.saved_tensors
        d_rows = d_rows.clone()
        d_rows[-1].zero_()
        return F.embedding_bag(row_of_slot, d_rows, mode="sum"), None, None
