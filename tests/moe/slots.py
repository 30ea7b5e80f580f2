"""Sorted slots and contexts for banks that are called alone."""

from __future__ import annotations

from torch import Tensor, nn

from moiety.moe.asymoe.context import Context
from moiety.moe.dispatch import Slots, combine, dispatch
from moiety.moe.experts.bank import bank_in


def slots_of(bank: nn.Module, index: Tensor, modality_group: Tensor | None = None) -> Slots:
    """The slots of a bank, sorted by as many sides as it tells apart."""
    found = bank_in(bank)
    return dispatch(index, found.num_experts, modality_group, found.num_sides)


def answer(
    bank: nn.Module, x: Tensor, index: Tensor, weights: Tensor, context: Context | None, modality_group: Tensor
) -> Tensor:
    """What a bank of any kind, or several banks together, say to each token."""
    extra = (context,) if bank_in(bank).reads_context or hasattr(bank_in(bank), "banks") else ()
    return combine(bank(x, slots_of(bank, index, modality_group), weights, *extra))
