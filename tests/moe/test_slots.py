"""Slots sorted by expert and side: what every bank is dealt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moiety.moe.dispatch import plan_slots
from moiety.moe.experts.products import runs_of
from moiety.moe.experts.slots import share_slots


def slots(experts: int, tokens: int = 7) -> Tensor:
    """Two choices of each token, some of nobody."""
    index = torch.rand(tokens, experts + 1).topk(min(2, experts + 1)).indices
    return index.expand(tokens, 2) if index.shape[1] == 1 else index


@pytest.mark.parametrize("sides", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[1], [3], [1, 1], [1, 2, 1], [4, 1]])
def test_offsets_have_stride_one(sizes: list[int], sides: int) -> None:
    """Grouped products ask for it from torch 2.14 on, also of a single offset; ``contiguous()`` would keep stride 2."""
    index, side = slots(sum(sizes)), torch.randint(sides, (7,))
    assert plan_slots(index, sum(sizes)).offsets.stride() == (1,)
    for share, size in zip(share_slots(index, side, sizes, sides), sizes, strict=True):
        by_expert = share.by_expert().offsets
        last = torch.tensor(share.ends[sides - 1 :: sides], dtype=torch.int32)
        assert by_expert.equal(last)
        assert len(last) == size
        for offsets in (share.plan.offsets, by_expert):
            assert offsets.stride() == (1,)
            assert runs_of(share.ends, offsets, grouped=True).offsets.stride() == (1,)
