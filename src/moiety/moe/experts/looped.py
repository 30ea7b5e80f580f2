"""The short way to a new kind of experts: say what one expert computes, and the rest is done here."""

from __future__ import annotations

import abc

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from moiety.moe.dispatch import combine
from moiety.moe.experts.bank import Beside, ExpertBank
from moiety.moe.experts.rows import gather
from moiety.moe.experts.slots import Share, share_slots


class LoopedExperts(ExpertBank):
    """Experts that are called one after the other, each once, on the rows of all tokens that chose it.

    A subclass stacks the weights of all experts, ``(experts, ...)``, sets :attr:`num_experts` and writes :meth:`expert`
    and ``load_from_dense``. It is as fast as one matrix product for each expert can be; a kind that wants one grouped
    product for all of them inherits from :class:`ExpertBank` instead.
    """

    @abc.abstractmethod
    def expert(self, number: int, x: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        """What expert `number` answers to each row; there may be no row at all."""

    def forward(
        self,
        hidden_states: Float[Tensor, "tokens hidden"],
        top_k_index: Int[Tensor, "tokens top_k"] | Share,
        top_k_weights: Float[Tensor, "tokens top_k"],
        beside: Beside | None = None,
    ) -> Float[Tensor, "tokens hidden"]:
        """Weighted sum of the chosen experts; exactly 0 where no expert is chosen."""
        share = top_k_index
        if not isinstance(share, Share):
            (share,) = share_slots(share, None, [self.num_experts])
        if not hidden_states.numel():
            return self.nothing(hidden_states)
        rows = gather(hidden_states, share)  # (tokens, hidden) -> (rows, hidden), sorted by expert
        ends = share.ends[share.num_sides - 1 :: share.num_sides]
        answers, start = [], 0
        for number, end in enumerate(ends):
            answers.append(self.expert(number, rows[start:end]))
            start = end
        # the last row belongs to no expert and is what tokens without one read back
        padded = F.pad(torch.cat(answers), (0, 0, 0, share.rows - start))
        return combine(padded, top_k_weights, share.plan).to(hidden_states.dtype)
