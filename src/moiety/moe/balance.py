"""Balancing without a loss: a bias of each expert that counts in the choice alone, and follows the load.

Every modality group has biases and loads of its own. So image tokens, which are many, do not decide how text is spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch import distributed as dist

from moiety.groups import ExpertGroups
from moiety.moe.precise import StaysPrecise
from moiety.moe.trace import RoutingTrace


class SelectionBias(StaysPrecise):
    r"""The bias :math:`b_{ge}` of every expert *e* for every modality group *g*, and the rule that moves it.

    A token of group *g* chooses the `top_k` experts with the largest :math:`z_e + b_{ge}`. Their weights are made of
    the scores *z* alone. After each optimizer step, with :math:`c_{ge}` the slots of group *g* that expert *e* got in
    that step, and :math:`\bar c_g` their mean over the experts that *g* sees,

    .. math:: b_{ge} \leftarrow b_{ge} + u \, \mathrm{sign}(\bar c_g - c_{ge}).

    The bias is a float32 buffer: it is saved, it gets no gradient and no weight decay, and it is no parameter. Closed
    experts keep 0, and a group without tokens keeps what it has.

    Args:
        groups: Expert table of the scheme.
        rate: u, the size of one move, in units of scores.

    Source:
        Wang et al. 2024, "Auxiliary-loss-free load balancing" (2408.15664), algorithm 1; DeepSeek-V3 (2412.19437),
        eq. 16. We differ in two ways: there the bias is added to sigmoid scores, here to the logits, whose order is
        that of their softmax; and there one bias serves all tokens, here each modality group has its own.

    Example:
        >>> from moiety.groups import ExpertGroup
        >>> bias = SelectionBias(ExpertGroups((ExpertGroup("inter", 3, ("text",)),), {0: "text"}), rate=0.5)
        >>> bias.move(torch.tensor([[4.0, 1, 1]]))
        >>> bias.bias.tolist()
        [[-0.5, 0.5, 0.5]]
    """

    precise: ClassVar[tuple[str, ...] | None] = ("bias",)
    bias: Float[Tensor, "groups experts"]

    def __init__(self, groups: ExpertGroups, rate: float) -> None:
        super().__init__()
        self.groups, self.rate = groups, rate
        self.register_buffer("bias", torch.zeros(len(groups.names), groups.num_experts, dtype=torch.float32))

    def forward(
        self, scores: Float[Tensor, "tokens experts"], group: Int[Tensor, " tokens"]
    ) -> Float[Tensor, "tokens experts"]:
        """Scores to choose by: those of each token plus the biases of its modality group; padding gets any."""
        return scores + self.bias.to(scores.dtype)[group.clamp(min=0)]

    @torch.no_grad()
    def move(self, load: Float[Tensor, "groups experts"]) -> None:
        """Move every bias by the rate, towards an even load.

        Args:
            load: Slots that each expert got from each modality group in one optimizer step, of all ranks.
        """
        allowed = torch.tensor(self.groups.allowed, device=load.device)
        own = load.to(torch.promote_types(load.dtype, torch.float32)).masked_fill(~allowed, 0)
        mean = own.sum(dim=-1, keepdim=True) / allowed.sum(dim=-1, keepdim=True)
        step = torch.sign(mean - own).masked_fill(~allowed, 0)
        self.bias += self.rate * step.to(self.bias)


def sum_of_ranks(value: Tensor) -> Tensor:
    """Sum over all ranks, without gradient; the value itself in a single process."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


class LoadBalance:
    """Counts the loads of one optimizer step over its micro-batches, and then moves the biases.

    A trainer calls :meth:`add` for each micro-batch and :meth:`step` after the optimizer. Layers whose router learns
    nothing keep their biases: a frozen router decides as before.

    Args:
        biases: Layer index and the bias of its router.
        reduce: Sums a tensor over ranks.
    """

    def __init__(
        self, biases: Iterable[tuple[int, SelectionBias]], reduce: Callable[[Tensor], Tensor] = sum_of_ranks
    ) -> None:
        self.biases, self._reduce = dict(biases), reduce
        self._loads = {index: torch.zeros_like(bias.bias) for index, bias in self.biases.items()}

    @torch.no_grad()
    def add(self, trace: RoutingTrace) -> None:
        """Count the slots of one micro-batch; padding does not count."""
        for index, routing in trace.entries:
            if index not in self.biases:
                continue
            load = self._loads[index]
            number = torch.arange(load.shape[0], device=routing.index.device)
            own = (routing.modality_group == number.unsqueeze(-1)).to(load.dtype)  # (groups, tokens)
            expert = torch.arange(load.shape[1], device=routing.index.device)
            hits = (routing.index.unsqueeze(-1) == expert).any(dim=1).to(load.dtype)  # (tokens, experts)
            self._loads[index] = load.to(own.device) + own @ hits

    def step(self) -> None:
        """Sum the loads over ranks by one call, move every bias, and begin to count again."""
        if not self.biases:
            return
        device = next(iter(self.biases.values())).bias.device
        loads = self._reduce(torch.stack([load.to(device) for load in self._loads.values()]))
        for load, bias in zip(loads, self.biases.values(), strict=True):
            bias.move(load.to(bias.bias.device))
        self._loads = {index: torch.zeros_like(load) for index, load in self._loads.items()}
