"""What every kind of expert bank promises."""

from __future__ import annotations

import abc

from torch import Tensor, nn


class ExpertBank(nn.Module, abc.ABC):
    """All experts of one layer in one module.

    A bank knows nothing of modalities or gates: it is told which expert each slot wants and how much its answer
    weighs. Index ``num_experts`` means no expert.
    """

    num_experts: int

    @abc.abstractmethod
    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """``(tokens, hidden)`` -> ``(tokens, hidden)``; index and weights are ``(tokens, top_k)``."""

    @abc.abstractmethod
    def load_from_dense(self, gate_up: Tensor, down: Tensor) -> None:
        """Make every expert compute what the dense FFN with these weights computes."""

    @abc.abstractmethod
    def activated_parameters(self) -> int:
        """Parameters that one slot passes through: those of one expert."""
