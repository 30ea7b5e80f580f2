"""Slots sorted by expert, and back.

A *slot* is one (token, choice) pair. All slots of all modalities are sorted once by expert, so that every expert sees
one contiguous run of rows and runs once. Slots that chose no expert (padding, experts of another rank) sort to the end,
where nobody computes them. One more row stands after the last slot: it belongs to nobody, is kept at 0, and is what
those slots read on the way back, so that whatever their own rows hold never reaches a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Plan:
    """Where each slot goes; ``rows`` is the number of slots plus one.

    Args:
        slot_of_row: Position in the flattened (token, choice) list that each sorted row was made from, ``(rows,)``; 0
            in the last row.
        row_of_slot: Sorted row of each slot, ``(tokens, top_k)``; the last row for a slot without expert.
        offsets: End row of each expert, ``(experts,)`` int32, ascending; rows from ``offsets[-1]`` on are not computed.
    """

    slot_of_row: Int[Tensor, " rows"]
    row_of_slot: Int[Tensor, "tokens top_k"]
    offsets: Int[Tensor, " experts"]

    @property
    def token_of_row(self) -> Int[Tensor, " rows"]:
        """Which token a sorted row was made from, ``(rows,)``."""
        return torch.div(self.slot_of_row, self.row_of_slot.shape[1], rounding_mode="floor")


def plan_slots(index: Int[Tensor, "tokens top_k"], num_experts: int) -> Plan:
    """Sort the slots by expert. No host sync: every size is known from the shapes.

    Args:
        index: Chosen expert of each slot, ``(tokens, top_k)``, 0..num_experts; `num_experts` means no expert.
        num_experts: Experts in the bank.

    Example:
        >>> plan = plan_slots(torch.tensor([[1, 0], [2, 2], [1, 1]]), num_experts=2)
        >>> plan.token_of_row.tolist(), plan.offsets.tolist()
        ([0, 0, 2, 2, 1, 1, 0], [1, 4])
        >>> plan.row_of_slot.tolist()
        [[1, 0], [6, 6], [2, 3]]
    """
    expert_of_row, slot_of_row = index.flatten().sort(stable=True)
    upper = torch.arange(1, num_experts + 1, device=index.device, dtype=index.dtype)
    offsets = torch.searchsorted(expert_of_row, upper, out_int32=True)
    row = torch.arange(index.numel(), device=index.device)
    row_of_slot = torch.empty_like(row).scatter_(0, slot_of_row, row)
    row_of_slot = row_of_slot.view(index.shape).masked_fill(index >= num_experts, index.numel())
    return Plan(F.pad(slot_of_row, (0, 1)), row_of_slot, offsets)


def dispatch(x: Float[Tensor, "tokens hidden"], plan: Plan) -> Float[Tensor, "rows hidden"]:
    """One row per slot, sorted by expert, and nobody's row."""
    return x.index_select(0, plan.token_of_row)  # (tokens, hidden) -> (rows, hidden)


def dispatch_weighted(
    x: Float[Tensor, "tokens hidden"], weights: Float[Tensor, "tokens top_k"], plan: Plan
) -> Float[Tensor, "rows hidden"]:
    """:func:`dispatch`, each row multiplied by the weight of its slot on the way."""
    weight = weights.flatten().index_select(0, plan.slot_of_row).to(x.dtype)
    return F.embedding_bag(plan.token_of_row.unsqueeze(1), x, per_sample_weights=weight.unsqueeze(1), mode="sum")


def combine(
    y: Float[Tensor, "rows hidden"], weights: Float[Tensor, "tokens top_k"], plan: Plan
) -> Float[Tensor, "tokens hidden"]:
    """Weighted sum over the choices of each token: the transpose of :func:`dispatch_weighted`.

    One gather-and-sum: adds in float32 at least, rounds once, uses no atomics, so repeated runs are bit-equal.

    Args:
        y: What the experts made of the sorted rows, ``(rows, hidden)``; its last row must be 0.
        weights: Weight of each choice, ``(tokens, top_k)``.
        plan: Where the slots went.
    """
    return F.embedding_bag(plan.row_of_slot, y, per_sample_weights=weights.to(y.dtype), mode="sum")
