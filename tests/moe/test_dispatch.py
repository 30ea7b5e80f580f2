"""Dispatch and combine are transposes of each other, and padding is in neither."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from moiety.moe.dispatch import combine, dispatch, dispatch_weighted, plan_slots
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
    plan = plan_slots(index, experts)
    ends = plan.offsets.tolist()
    assert plan.offsets.dtype == torch.int32
    assert ends == sorted(ends)
    assert ends[-1] == int((index < experts).sum())  # D17: dispatched rows = K times the real tokens
    for expert, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        slots = plan.slot_of_row[start:end]
        assert (index.flatten()[slots] == expert).all()
        assert slots.tolist() == sorted(slots.tolist())  # stable: repeated runs sum in the same order


@law
@given(choices())
def test_rows_and_slots_are_inverse_permutations(drawn: tuple[Tensor, int]) -> None:
    index, experts = drawn
    plan, slots = plan_slots(index, experts), index.numel()
    assert sorted(plan.slot_of_row[:-1].tolist()) == list(range(slots))
    real = index < experts
    own = torch.arange(slots).view(index.shape)
    assert (plan.slot_of_row[plan.row_of_slot[real]] == own[real]).all()
    assert (plan.row_of_slot[~real] == slots).all()


@law
@given(choices())
def test_combine_undoes_dispatch(drawn: tuple[Tensor, int]) -> None:
    index, experts = drawn
    if not len(index):
        return
    plan, x = plan_slots(index, experts), torch.randn(len(index), 3, dtype=torch.float64)
    weights = (index < experts).double()
    rows = dispatch(x, plan)
    rows[int(plan.offsets[-1]) :] = float("nan")  # nobody may read these
    rows[-1] = 0
    torch.testing.assert_close(combine(rows, weights, plan), x * weights.sum(-1, keepdim=True))


@law
@given(choices())
def test_weighted_dispatch_is_the_transpose_of_combine(drawn: tuple[Tensor, int]) -> None:
    index, experts = drawn
    if not len(index):
        return
    plan = plan_slots(index, experts)
    real, weights = index < experts, torch.rand(index.shape, dtype=torch.float64)
    weights = weights * real
    x, y = torch.randn(len(index), 3).double(), torch.randn(index.numel() + 1, 3).double()
    y[int(plan.offsets[-1]) :] = 0
    left = (dispatch_weighted(x, weights, plan)[:-1] * y[:-1]).sum()
    torch.testing.assert_close(left, (x * combine(y, weights, plan)).sum())


def test_both_are_differentiable() -> None:
    index = torch.tensor([[0, 2], [3, 1], [2, 3]])
    plan = plan_slots(index, 3)
    keep = (index < 3).double()

    def through(x: Tensor, weights: Tensor) -> Tensor:
        rows = dispatch(x, plan)
        rows = torch.cat([rows[:-1] ** 2, rows.new_zeros(1, 2)])
        return combine(rows, weights * keep, plan)

    x, weights = torch.randn(3, 2).double().requires_grad_(), torch.rand(3, 2).double().requires_grad_()
    assert gradcheck(through, (x, weights))


@pytest.mark.parametrize("hidden", [1, 7, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_combine_rounds_once(hidden: int, dtype: torch.dtype) -> None:
    """Three summands whose partial sums in the narrow type would lose the small ones."""
    plan = plan_slots(torch.tensor([[0, 1, 2]]), 3)
    large = 256.0 if dtype == torch.bfloat16 else 2048.0
    y = torch.tensor([large, 2.0, 2.0, 0.0], dtype=dtype)[:, None].repeat(1, hidden)
    weights = torch.tensor([[1.0, 0.5, 0.5]], dtype=dtype)
    assert (combine(y, weights, plan) == large + 2).all()
