"""What every kind of expert bank promises."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Beside:
    """What some kinds of experts read of a token beside its hidden state.

    Args:
        modality_group: Position of each token's modality group in ``ExpertGroups.names``, ``(tokens,)``; -1 on padding.
        context: What the evidence says to each token, ``(tokens, hidden)``; None where no layer asks.
        mass: Share of its attention that found evidence, ``(tokens,)``, 0..1, float32; None likewise.
    """

    modality_group: Int[Tensor, " tokens"]
    context: Float[Tensor, "tokens hidden"] | None = None
    mass: Float[Tensor, " tokens"] | None = None


class ExpertBank(nn.Module, abc.ABC):
    """All experts of one layer in one module.

    A bank knows nothing of modalities or gates: it is told which expert each slot wants and how much its answer
    weighs. Index ``num_experts`` means no expert.
    """

    num_experts: int
    reads_beside = False
    """Whether ``forward`` takes a :class:`Beside` as its fourth argument."""

    @abc.abstractmethod
    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """``(tokens, hidden)`` -> ``(tokens, hidden)``; index and weights are ``(tokens, top_k)``."""

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
