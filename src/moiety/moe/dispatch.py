"""Slots sorted by expert, and back.

A *slot* is one (token, choice) pair. All slots of all modalities are sorted once by expert, so that every expert sees
one contiguous run of rows and runs once. Slots with the index ``num_experts`` (padding, experts of another rank) sort
to the end: nobody computes them and nobody may read their rows, which can hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Plan:
    """Where each slot goes.

    Args:
        order: Row of the sorted slots -> position in the flattened (token, choice) list, ``(slots,)``.
        inverse: Position in the flattened list -> row, ``(slots,)``.
        offsets: End row of each expert, ``(experts,)`` int32, ascending; rows from ``offsets[-1]`` on belong to nobody.
        top_k: Choices per token.
    """

    order: Int[Tensor, " slots"]
    inverse: Int[Tensor, " slots"]
    offsets: Int[Tensor, " experts"]
    top_k: int

    @property
    def token_of_row(self) -> Int[Tensor, " slots"]:
        """Which token a sorted row was made from, ``(slots,)``."""
        return torch.div(self.order, self.top_k, rounding_mode="floor")


def plan_slots(index: Int[Tensor, "tokens top_k"], num_experts: int) -> Plan:
    """Sort the slots by expert. No host sync: every size is known from the shapes.

    Args:
        index: Chosen expert of each slot, ``(tokens, top_k)``, 0..num_experts; `num_experts` means no expert.
        num_experts: Experts in the bank.

    Example:
        >>> plan = plan_slots(torch.tensor([[1, 0], [2, 2], [1, 1]]), num_experts=2)
        >>> plan.order.tolist(), plan.offsets.tolist(), plan.token_of_row.tolist()
        ([1, 0, 4, 5, 2, 3], [1, 4], [0, 0, 2, 2, 1, 1])
    """
    key, order = index.flatten().sort(stable=True)
    upper = torch.arange(1, num_experts + 1, device=key.device, dtype=key.dtype)
    offsets = torch.searchsorted(key, upper, out_int32=True)
    rows = torch.arange(order.numel(), device=key.device)
    inverse = torch.empty_like(order).scatter_(0, order, rows)
    return Plan(order, inverse, offsets, index.shape[-1])


def dispatch(x: Float[Tensor, "tokens hidden"], plan: Plan) -> Float[Tensor, "slots hidden"]:
    """One row per slot, sorted by expert."""
    return x.index_select(0, plan.token_of_row)  # (tokens, hidden) -> (slots, hidden)


def combine(
    y: Float[Tensor, "slots hidden"], weights: Float[Tensor, "tokens top_k"] | None, plan: Plan
) -> Float[Tensor, "tokens hidden"]:
    """Weighted sum over the choices of each token; the transpose of :func:`dispatch` where `weights` is None.

    Sums in float32 at least, rounds once, and uses no atomics, so that repeated runs are bit-equal. Rows that belong
    to no expert are masked where they are read.

    Args:
        y: Outputs of the experts in sorted order, ``(slots, hidden)``.
        weights: Weight of each choice, ``(tokens, top_k)``; None: 1.
        plan: Where the slots went.
    """
    rows = y.index_select(0, plan.inverse).view(
        -1, plan.top_k, y.shape[-1]
    )  # (slots, hidden) -> (tokens, top_k, hidden)
    nobody = (plan.inverse >= plan.offsets[-1]).view(-1, plan.top_k, 1)
    rows = rows.masked_fill(nobody, 0)
    if weights is not None:
        wide = torch.promote_types(rows.dtype, torch.float32)
        rows = rows.to(wide) * weights.to(wide).unsqueeze(-1)
    return rows.sum(dim=1).to(y.dtype)
