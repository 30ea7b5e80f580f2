"""Gathering rows and summing them up are transposes of each other, and padding is in neither."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from moiety.moe.dispatch import combine, dispatch, gather, weighted_sum
from tests.moe.laws import law


@st.composite
def choices(draw: Any) -> tuple[Tensor, int]:
    """Any index table with distinct experts per token, sentinels anywhere, experts that nobody chose."""
    experts = draw(st.sampled_from([1, 2, 3, 7, 16]))
    top_k = draw(st.integers(1, min(experts, 4)))
    tokens = draw(st.sampled_from([0, 1, 2, 5, 13]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    used = draw(st.integers(top_k, experts))
    index = torch.rand(tokens, used, generator=generator).topk(top_k).indices
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    return index.masked_fill(torch.rand(tokens, top_k, generator=generator) < share, experts), experts


@law
@given(choices())
def test_every_slot_lies_in_the_run_of_its_expert(drawn: tuple[Tensor, int]) -> None:
    index, experts = drawn
    slots = dispatch(index, experts)
    ends = slots.offsets.tolist()
    assert slots.offsets.dtype == torch.int32
    assert ends == sorted(ends)
    assert ends[-1] == int((index < experts).sum())  # D17: dispatched rows = K times the real tokens
    for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        number = slots.slot_of_row[start:end]
        assert (index.flatten()[number] == expert).all()
        assert number.tolist() == sorted(number.tolist())  # stable: repeated runs sum in the same order


@law
@given(choices())
def test_rows_and_slots_are_inverse_permutations(drawn: tuple[Tensor, int]) -> None:
    index, experts = drawn
    slots, number = dispatch(index, experts), index.numel()
    assert sorted(slots.slot_of_row[:-1].tolist()) == list(range(number))
    real = index < experts
    own = torch.arange(number).view(index.shape)
    assert (slots.slot_of_row[slots.row_of_slot[real]] == own[real]).all()
    assert (slots.row_of_slot[~real] == number).all()


@law
@given(choices())
def test_a_weighted_sum_undoes_a_gather(drawn: tuple[Tensor, int]) -> None:
    index, experts = drawn
    if not len(index):
        return
    slots, x = dispatch(index, experts), torch.randn(len(index), 3, dtype=torch.float64)
    weights = (index < experts).double()
    rows = gather(x, slots.token_of_row)
    rows[int(slots.offsets[-1]) :] = float("nan")  # nobody may read these
    rows[-1] = 0
    torch.testing.assert_close(weighted_sum(rows, weights, slots.row_of_slot), x * weights.sum(-1, keepdim=True))


@law
@given(choices())
def test_a_weighted_gather_is_the_transpose_of_a_weighted_sum(drawn: tuple[Tensor, int]) -> None:
    index, experts = drawn
    if not len(index):
        return
    slots = dispatch(index, experts)
    real, weights = index < experts, torch.rand(index.shape, dtype=torch.float64)
    weights = weights * real
    x, y = torch.randn(len(index), 3).double(), torch.randn(index.numel() + 1, 3).double()
    y[int(slots.offsets[-1]) :] = 0
    left = (gather(x, slots.token_of_row, weights.flatten()[slots.slot_of_row])[:-1] * y[:-1]).sum()
    torch.testing.assert_close(left, (x * weighted_sum(y, weights, slots.row_of_slot)).sum())


def test_both_are_differentiable() -> None:
    index = torch.tensor([[0, 2], [3, 1], [2, 3]])
    slots = dispatch(index, 3)
    keep = (index < 3).double()

    def through(x: Tensor, weights: Tensor) -> Tensor:
        rows = gather(x, slots.token_of_row)
        rows = torch.cat([rows[:-1] ** 2, rows.new_zeros(1, 2)])
        return weighted_sum(rows, weights * keep, slots.row_of_slot)

    x, weights = torch.randn(3, 2).double().requires_grad_(), torch.rand(3, 2).double().requires_grad_()
    assert gradcheck(through, (x, weights))


@pytest.mark.parametrize("hidden", [1, 7, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_weighted_sum_rounds_once(hidden: int, dtype: torch.dtype) -> None:
    """Three summands whose partial sums in the narrow type would lose the small ones."""
    slots = dispatch(torch.tensor([[0, 1, 2]]), 3)
    large = 256.0 if dtype == torch.bfloat16 else 2048.0
    y = torch.tensor([large, 2.0, 2.0, 0.0], dtype=dtype)[:, None].repeat(1, hidden)
    weights = torch.tensor([[1.0, 0.5, 0.5]], dtype=dtype)
    assert (weighted_sum(y, weights, slots.row_of_slot) == large + 2).all()


def test_combine_adds_up_the_banks() -> None:
    parts = [torch.full((2, 3), float(2**number)) for number in range(3)]
    assert combine(parts).equal(torch.full((2, 3), 7.0))
    assert combine(parts[0]) is parts[0]
