"""The slots of one layer, sorted once by expert and side, and dealt out to the banks of its expert groups.

The *side* of a token says which of an inter-modality expert's projections reads it: 0 for vision, 1 for text, one more
for each further modality group. Sorting by side within an expert costs nothing and gives those banks contiguous rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from moiety.moe.dispatch import Plan, plan_slots


@dataclass(frozen=True, eq=False)
class Share:
    """The slots of one bank.

    Args:
        index: Expert of each slot within the bank, ``(tokens, top_k)``; the number of its experts where it is another
            bank's or nobody's.
        plan: Where its slots go; one offset for each (expert, side). It has a row for every slot of this bank alone,
            and nobody's row.
        ends: The same offsets, read by the host.
        num_sides: Sides of a token; entry ``expert * num_sides + side`` of the offsets ends that run.
    """

    index: Int[Tensor, "tokens top_k"]
    plan: Plan
    ends: tuple[int, ...]
    num_sides: int

    @property
    def rows(self) -> int:
        """Slots of this bank, and nobody's row."""
        return self.plan.slot_of_row.numel()

    def by_expert(self) -> Plan:
        """The plan with one offset for each expert."""
        last = self.num_sides - 1
        # a copy: grouped products want stride 1, also where there is one offset only
        offsets = self.plan.offsets[last :: self.num_sides].clone(memory_format=torch.contiguous_format)
        return Plan(self.plan.slot_of_row, self.plan.row_of_slot, offsets)

    def expert_of_row(self, num_experts: int) -> Int[Tensor, " rows"]:
        """Expert of each sorted row; nobody's row counts with the last."""
        found = self.index.flatten().index_select(0, self.plan.slot_of_row)
        found[-1] = num_experts - 1
        return found


def side_of(modality_group: Int[Tensor, " tokens"], num_sides: int) -> Int[Tensor, " tokens"]:
    """Side of each token from the position of its modality group, where text stands last; padding gets 0.

    Example:
        >>> side_of(torch.tensor([0, 1, 2, -1]), num_sides=3)  # vision, audio, text, padding
        tensor([0, 2, 1, 0])
    """
    if num_sides <= 2:
        return modality_group.clamp(min=0, max=num_sides - 1)
    shifted = modality_group + (modality_group >= 1).to(modality_group.dtype)
    return shifted.masked_fill(modality_group == num_sides - 1, 1).clamp(min=0)


def share_slots(
    index: Int[Tensor, "tokens top_k"], side: Int[Tensor, " tokens"] | None, sizes: Sequence[int], num_sides: int = 1
) -> list[Share]:
    """Sort all slots once; one host read for all banks together.

    Args:
        index: Chosen expert of each slot, counted through all banks; their sum means no expert.
        side: Side of each token; None: all 0.
        sizes: Experts in each bank, in order.
        num_sides: Sides there are.
    """
    total = sum(sizes)
    key = index if num_sides == 1 or side is None else index * num_sides + side.unsqueeze(-1)
    if num_sides > 1:
        key = (key if side is not None else index * num_sides).masked_fill(index >= total, total * num_sides)
    whole = plan_slots(key, total * num_sides)
    ends = [0, *whole.offsets.tolist()]
    shares, first = [], 0
    for size in sizes:
        runs = slice(first * num_sides, (first + size) * num_sides)
        start, end = ends[runs.start], ends[runs.stop]
        own = (whole.row_of_slot >= start) & (whole.row_of_slot < end)
        plan = Plan(
            F.pad(whole.slot_of_row[start:end], (0, 1)),
            torch.where(own, whole.row_of_slot - start, end - start),
            whole.offsets[runs] - start,
        )
        local = torch.where(own, index - first, size)
        shares.append(Share(local, plan, tuple(e - start for e in ends[runs.start + 1 : runs.stop + 1]), num_sides))
        first += size
    return shares
