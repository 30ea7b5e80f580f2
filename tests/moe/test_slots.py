"""Slots sorted by expert and side: what every bank is dealt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moiety.moe.dispatch import deal, dispatch
from moiety.moe.kernels.products import Runs


def choices(experts: int, tokens: int = 7) -> Tensor:
    """Two choices of each token, some of no expert."""
    index = torch.rand(tokens, experts + 1).topk(min(2, experts + 1)).indices
    return index.expand(tokens, 2) if index.shape[1] == 1 else index


@pytest.mark.parametrize("sides", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[1], [3], [1, 1], [1, 2, 1], [4, 1]])
def test_offsets_have_stride_one(sizes: list[int], sides: int) -> None:
    """Grouped products ask for it from torch 2.14 on, also of a single offset; ``contiguous()`` would keep stride 2."""
    index, group = choices(sum(sizes)), torch.randint(sides, (7,))
    assert dispatch(index, sum(sizes)).offsets.stride() == (1,)
    for own, size in zip(deal(dispatch(index, sum(sizes), group, sides), sizes), sizes, strict=True):
        assert own.ends is not None
        assert own.expert_ends == own.ends[sides - 1 :: sides]
        assert own.expert_offsets.tolist() == list(own.expert_ends)
        assert len(own.expert_ends) == size
        for ends, offsets in ((own.ends, own.offsets), (own.expert_ends, own.expert_offsets)):
            assert offsets.stride() == (1,)
            assert Runs.covering(ends, offsets, "grouped").offsets.stride() == (1,)


@pytest.mark.parametrize("sizes", [[3], [1, 2, 1], [4, 1]])
def test_every_bank_is_dealt_its_own_slots_in_order(sizes: list[int]) -> None:
    index, group = choices(sum(sizes)), torch.randint(-1, 3, (7,))
    first, rows = 0, 0
    for own, size in zip(deal(dispatch(index, sum(sizes), group, 3), sizes), sizes, strict=True):
        is_own = (index >= first) & (index < first + size)
        assert own.index.equal(torch.where(is_own, index - first, size))
        assert len(own.slot_of_row) == int(is_own.sum()) + 1  # the spare row
        chosen = own.slot_of_row[own.row_of_slot[is_own]]
        assert chosen.equal(torch.arange(index.numel()).view(index.shape)[is_own])
        first, rows = first + size, rows + int(is_own.sum())
    assert rows == int((index < sum(sizes)).sum())
