"""The order of the rows: what it depends on, and what grouping by length saves."""

import torch

from moiety.train.sampler import SeededSampler


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    sampler = SeededSampler(50, seed=3)
    first = list(sampler)
    torch.rand(7)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert sorted(sampler) == list(range(50))
    assert list(SeededSampler(50, seed=4)) != first


def test_grouping_by_length_saves_padding_and_loses_no_row() -> None:
    lengths = torch.randint(10, 200, (203,), generator=torch.Generator().manual_seed(1)).tolist()

    def padded(order: list[int]) -> int:
        batches = [order[start : start + 8] for start in range(0, len(order), 8)]
        return sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)

    sampler = SeededSampler(203, 0, lengths, batch=8)
    first = list(sampler)
    assert sorted(first) == list(range(203))
    assert first == list(SeededSampler(203, 0, lengths, batch=8))
    assert padded(first) < 1.1 * sum(lengths) < 0.8 * padded(list(SeededSampler(203, 0)))
    starts = [lengths[row] for row in first[::8]]
    assert starts != sorted(starts)  # long rows do not all come last
    sampler.set_epoch(1)
    assert list(sampler) != first
