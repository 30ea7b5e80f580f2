"""Dispatch sorts the slots by expert; combine adds up the answers for each token.

A *slot* is one (token, choice) pair. All slots of all modalities are sorted once by expert, so that every expert sees
one contiguous run of rows and runs once. Slots without an expert (padding, or slots of another bank) are sorted to the
end and are not computed. One spare row stands after the last slot. It is kept at 0, and slots without an expert read
it when the answers are summed. So the content of uncomputed rows never reaches a token.

Some experts treat the tokens of different modality groups differently: a hyperbolic expert has a projection for each
group. The *side* of a token says which projection reads it: 0 for vision, 1 for text, and one more number for each
further modality group. Sorting by side within an expert costs nothing and gives such a bank contiguous rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Slots:
    """The slots of one bank, sorted by expert and side.

    Args:
        index: Expert of each slot within the bank, ``(tokens, top_k)``. An index equal to the number of experts means
            no expert.
        slot_of_row: Position in the flattened (token, choice) list that each sorted row is made from, ``(rows,)``; 0
            in the spare row, which is the last.
        row_of_slot: Sorted row of each slot, ``(tokens, top_k)``; the spare row for a slot without an expert.
        offsets: End row of each run, one run for each (expert, side), ``(experts * num_sides,)`` int32, ascending.
            Rows from ``offsets[-1]`` on are not computed.
        num_sides: Number of sides; the runs of one expert stand next to each other.
        modality_group: Position of each token's modality group, ``(tokens,)``; -1 on padding. None: not given.
        ends: The offsets as numbers on the host. None: they have not been read yet; reading them makes a GPU wait.
    """

    index: Int[Tensor, "tokens top_k"]
    slot_of_row: Int[Tensor, " rows"]
    row_of_slot: Int[Tensor, "tokens top_k"]
    offsets: Int[Tensor, " runs"]
    num_sides: int = 1
    modality_group: Int[Tensor, " tokens"] | None = None
    ends: tuple[int, ...] | None = None

    @property
    def token_of_row(self) -> Int[Tensor, " rows"]:
        """The token that each sorted row is made from."""
        return torch.div(self.slot_of_row, self.row_of_slot.shape[1], rounding_mode="floor")

    @property
    def expert_offsets(self) -> Int[Tensor, " experts"]:
        """End row of each expert over all its sides, ``(experts,)`` int32."""
        if self.num_sides == 1:
            return self.offsets
        # a copy: grouped products want stride 1, also where there is only one offset
        return self.offsets[self.num_sides - 1 :: self.num_sides].clone(memory_format=torch.contiguous_format)

    @property
    def expert_ends(self) -> tuple[int, ...] | None:
        """:attr:`expert_offsets` as numbers on the host. None: they have not been read yet."""
        return None if self.ends is None else self.ends[self.num_sides - 1 :: self.num_sides]


def dispatch(
    index: Int[Tensor, "tokens top_k"],
    num_experts: int,
    modality_group: Int[Tensor, " tokens"] | None = None,
    num_sides: int = 1,
) -> Slots:
    """Sort the slots by expert, and by side where there are several. Nothing is read back from the device.

    Args:
        index: Chosen expert of each slot, ``(tokens, top_k)``, 0..num_experts; `num_experts` means no expert.
        num_experts: Number of experts.
        modality_group: Position of each token's modality group, ``(tokens,)``; -1 on padding.
        num_sides: Number of modality groups that the experts treat differently; 1: they treat all alike.

    Example:
        >>> slots = dispatch(torch.tensor([[1, 0], [2, 2], [1, 1]]), num_experts=2)
        >>> slots.token_of_row.tolist(), slots.offsets.tolist()
        ([0, 0, 2, 2, 1, 1, 0], [1, 4])
        >>> slots.row_of_slot.tolist()
        [[1, 0], [6, 6], [2, 3]]
    """
    key, num_runs = index, num_experts * num_sides
    if num_sides > 1:
        key = index * num_sides
        if modality_group is not None:
            key = key + side_of(modality_group, num_sides).unsqueeze(-1)
        key = key.masked_fill(index >= num_experts, num_runs)
    run_of_row, slot_of_row = key.flatten().sort(stable=True)
    upper = torch.arange(1, num_runs + 1, device=index.device, dtype=index.dtype)
    offsets = torch.searchsorted(run_of_row, upper, out_int32=True)
    row = torch.arange(index.numel(), device=index.device)
    row_of_slot = torch.empty_like(row).scatter_(0, slot_of_row, row)
    row_of_slot = row_of_slot.view(index.shape).masked_fill(key >= num_runs, index.numel())
    return Slots(index, F.pad(slot_of_row, (0, 1)), row_of_slot, offsets, num_sides, modality_group)


def deal(slots: Slots, sizes: Sequence[int]) -> list[Slots]:
    """Give each of several banks its own slots. The host reads the offsets once for all banks.

    Args:
        slots: All slots; experts are numbered through all banks.
        sizes: Number of experts of each bank, in order.

    Returns:
        One :class:`Slots` for each bank: its experts are numbered from 0, and `ends` is set.
    """
    sides, ends = slots.num_sides, [0, *slots.offsets.tolist()]
    banks, first = [], 0
    for size in sizes:
        runs = slice(first * sides, (first + size) * sides)
        start, end = ends[runs.start], ends[runs.stop]
        own = (slots.row_of_slot >= start) & (slots.row_of_slot < end)
        banks.append(
            Slots(
                torch.where(own, slots.index - first, size),
                F.pad(slots.slot_of_row[start:end], (0, 1)),
                torch.where(own, slots.row_of_slot - start, end - start),
                slots.offsets[runs] - start,
                sides,
                slots.modality_group,
                tuple(e - start for e in ends[runs.start + 1 : runs.stop + 1]),
            )
        )
        first += size
    return banks


def side_of(modality_group: Int[Tensor, " tokens"], num_sides: int) -> Int[Tensor, " tokens"]:
    """Side of each token, from the position of its modality group. Text is the last group; padding gets side 0.

    Example:
        >>> side_of(torch.tensor([0, 1, 2, -1]), num_sides=3)  # vision, audio, text, padding
        tensor([0, 2, 1, 0])
    """
    if num_sides <= 2:
        return modality_group.clamp(min=0, max=num_sides - 1)
    shifted = modality_group + (modality_group >= 1).to(modality_group.dtype)
    return shifted.masked_fill(modality_group == num_sides - 1, 1).clamp(min=0)


# -- between tokens and sorted rows; the kernels of the experts call these ---------------------------------------------
def gather(
    x: Float[Tensor, "tokens hidden"],
    token_of_row: Int[Tensor, " rows"],
    row_weight: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows hidden"]:
    """The token of each sorted row: ``(tokens, hidden)`` -> ``(rows, hidden)``.

    Args:
        x: Hidden states of the tokens.
        token_of_row: See :class:`Slots`; a part of the rows may be given.
        row_weight: Factor of each row, ``(rows,)``; None: 1.
    """
    if row_weight is None:
        return x.index_select(0, token_of_row)
    # one pass over the rows; a product behind the gather would be a second one
    return F.embedding_bag(token_of_row.unsqueeze(1), x, per_sample_weights=row_weight.unsqueeze(1), mode="sum")


def weighted_sum(
    y: Float[Tensor, "rows hidden"], weights: Float[Tensor, "tokens top_k"], row_of_slot: Int[Tensor, "tokens top_k"]
) -> Float[Tensor, "tokens hidden"]:
    """Weighted sum over the choices of each token: the transpose of :func:`gather` with those weights.

    It is one operation that gathers and sums. It adds in float32 or wider, rounds once and uses no atomics, so repeated
    runs are bit-equal.

    Args:
        y: Outputs of the experts for the sorted rows, ``(rows, hidden)``; the spare row must be 0.
        weights: Weight of each choice, ``(tokens, top_k)``.
        row_of_slot: See :class:`Slots`.
    """
    return F.embedding_bag(row_of_slot, y, per_sample_weights=weights.to(y.dtype), mode="sum")


def combine(answers: Tensor | Sequence[Tensor]) -> Tensor:
    """Add up the answers of the banks, ``(tokens, hidden)`` each.

    Each bank has already weighted and summed the answers of its own experts (:func:`weighted_sum`). It does so inside
    its kernel, because then the sorted rows need not be kept for the backward pass.
    """
    if isinstance(answers, Tensor):
        return answers
    total, *others = answers
    for answer in others:
        total = total + answer
    return total
