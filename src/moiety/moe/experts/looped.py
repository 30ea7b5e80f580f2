"""The short way to a new kind of experts: write what one expert computes; this class does the rest."""

from __future__ import annotations

import abc

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from moiety.moe.asymoe.context import Context
from moiety.moe.dispatch import Slots, deal, weighted_sum
from moiety.moe.experts.bank import ExpertBank
from moiety.moe.experts.rows import own_rows


class LoopedExperts(ExpertBank):
    """Experts that are called one after the other, each once, on the rows of all tokens that chose it.

    A subclass stacks the weights of all experts, ``(experts, ...)``, sets :attr:`num_experts` and writes :meth:`expert`
    and ``load_from_dense``. Each expert runs its own matrix products. A kind that wants one grouped product for all
    experts inherits from :class:`ExpertBank` instead.
    """

    @abc.abstractmethod
    def expert(self, number: int, x: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        """The answer of expert `number` to each row, ``(rows, hidden)``; the number of rows may be 0."""

    def forward(
        self,
        hidden_states: Float[Tensor, "tokens hidden"],
        slots: Slots,
        top_k_weights: Float[Tensor, "tokens top_k"],
        context: Context | None = None,
    ) -> Float[Tensor, "tokens hidden"]:
        """See :meth:`ExpertBank.forward`; the context is not read."""
        if not hidden_states.numel():
            return self.nothing(hidden_states)
        if slots.ends is None:
            (slots,) = deal(slots, [self.num_experts])
        assert slots.expert_ends is not None
        rows = own_rows(hidden_states, slots)  # (tokens, hidden) -> (rows, hidden), sorted by expert
        answers, start = [], 0
        for number, end in enumerate(slots.expert_ends):
            answers.append(self.expert(number, rows[start:end]))
            start = end
        # the last row belongs to no expert; slots without an expert read it back
        padded = F.pad(torch.cat(answers), (0, 0, 0, len(rows) - start))
        return weighted_sum(padded, top_k_weights, slots.row_of_slot).to(hidden_states.dtype)
