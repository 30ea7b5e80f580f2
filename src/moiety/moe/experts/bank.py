"""What every kind of expert bank promises."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moiety.moe.asymoe.context import Context
from moiety.moe.dispatch import Slots


class ExpertBank(nn.Module, abc.ABC):
    """All experts of one layer, or of one expert group, in one module.

    A bank knows nothing of gates. It is told which expert each slot wants and how much the answer weighs.

    Adapters and packers put a module of their own in the place of a bank, and change its weights while they call it.
    So whatever reads weights goes through a call of the module; :func:`bank_in` finds the bank for questions of size.
    """

    num_experts: int
    num_sides = 1
    """How many modality groups its experts tell apart; 1: none. Its slots must be sorted by as many sides."""
    reads_context = False
    """Whether ``forward`` takes what the evidence says to each token as its fourth argument."""

    @abc.abstractmethod
    def forward(
        self, hidden_states: Tensor, slots: Slots, top_k_weights: Tensor, context: Context | None = None
    ) -> Tensor:
        """Weighted sum of the chosen experts; exactly 0 where no expert is chosen.

        Args:
            hidden_states: ``(tokens, hidden)``.
            slots: Where each choice goes. A bank that sorts for itself reads ``slots.index`` alone.
            top_k_weights: Weight of each choice, ``(tokens, top_k)``.
            context: What the evidence says to each token; given where the bank `reads_context`.

        Returns:
            ``(tokens, hidden)``.
        """

    def initialise(self, init: Any = torch.nn.init) -> None:
        """Draw new weights with the functions of `init`: ``torch.nn.init``, or those of transformers, which leave
        tensors alone that were loaded."""
        for parameter in self.parameters():
            init.normal_(parameter, std=0.02)

    @abc.abstractmethod
    def load_from_dense(self, gate_up: Tensor, down: Tensor) -> None:
        """Make every expert compute what the dense FFN with these weights computes."""

    @abc.abstractmethod
    def activated_parameters(self) -> int:
        """Parameters that one slot passes through: those of one expert."""

    def activated_of(self, expert: int, modality_group: int) -> int:
        """Parameters that a slot of expert number `expert` passes through.

        Args:
            expert: Number of the expert in this bank.
            modality_group: Position of the token's modality group; no plain expert looks at it.
        """
        return self.activated_parameters()

    def activated_by(self, experts: Sequence[int], modality_group: int) -> int:
        """Parameters of all experts that run for a token of this modality group that chose `experts`."""
        return sum(self.activated_of(expert, modality_group) for expert in experts)

    def nothing(self, hidden_states: Tensor) -> Tensor:
        """The answer to a batch without tokens: empty, and every parameter gets gradient 0."""
        return hidden_states * sum(parameter.sum() * 0 for parameter in self.parameters())


def bank_in(module: nn.Module) -> Any:
    """The bank that stands at this place, or inside the adapters that took it; never to be called, only to be asked."""
    while not isinstance(module, ExpertBank) and "base_layer" in module._modules:
        module = cast(nn.Module, module.base_layer)
    return module  # other wrappers (FSDP, torch.compile, a saved copy of peft) hand every question on


@torch.no_grad()
def largest_units(
    gate_up: Float[Tensor, "twice_dense hidden"], down: Float[Tensor, "hidden dense"], width: int
) -> tuple[Float[Tensor, "twice_kept hidden"], Float[Tensor, "hidden kept"]]:
    """The `width` inner units of a dense FFN that can say most: largest ||gate row|| * ||up row|| * ||down column||.

    Returns:
        Their gate and up rows and down columns, in the order of the dense FFN; all of them if it has no more.
    """
    dense = down.shape[1]
    if width >= dense:
        return gate_up, down
    gate, up = gate_up.float().norm(dim=1).chunk(2)
    kept = (gate * up * down.float().norm(dim=0)).topk(width).indices.sort().values
    return gate_up[torch.cat([kept, kept + dense])], down[:, kept]


def check_dense(gate_up: Tensor, down: Tensor, hidden: int) -> None:
    """Refuse weights that are not those of a gated FFN of width `hidden`.

    Raises:
        ValueError: the shapes do not fit.
    """
    dense = down.shape[1]
    if gate_up.shape != (2 * dense, hidden) or down.shape[0] != hidden:
        raise ValueError(
            f"a dense FFN for experts of hidden {hidden} has gate_up (2*ffn, {hidden}) and down "
            f"({hidden}, ffn), got {tuple(gate_up.shape)} and {tuple(down.shape)}"
        )
