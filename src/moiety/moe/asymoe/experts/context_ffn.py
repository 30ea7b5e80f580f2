"""The control of the evidence experts: plain experts with the same context attention, and without branches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moiety.moe.asymoe.context import Context
from moiety.moe.dispatch import Slots
from moiety.moe.experts.bank import ExpertBank, Place, bank_in
from moiety.moe.experts.ffn import FFNExperts
from moiety.recipe.asymoe import AsyMoESettings


class ContextFFNExperts(ExpertBank):
    r"""Plain experts that add the output *a* of the context attention: :math:`E(x, a) = F(x) + g\,a`.

    Each expert learns one gain *g*. A comparison with this bank shows whether evidence experts bring more than the
    additional attention alone.

    Args:
        num_experts: Experts in the bank.
        hidden: Width of the decoder.
        settings: Section ``moe.asymoe`` with ``evidence_dim``, here the inner width of the FFN.
        act: Activation of the FFN.

    Raises:
        ValueError: ``evidence_dim`` is missing.
    """

    reads_context = True

    def __init__(self, num_experts: int, hidden: int, settings: AsyMoESettings, *, act: Any = "silu") -> None:
        super().__init__()
        if settings.evidence_dim is None:
            raise ValueError("context experts need a width; give moe.asymoe.evidence_dim, or let a size plan design it")
        self.num_experts, self.hidden = num_experts, hidden
        self.ffn = FFNExperts(num_experts, hidden, settings.evidence_dim, act)
        self.gain = nn.Parameter(torch.empty(num_experts))
        if not self.gain.is_meta:
            self.initialise()

    @classmethod
    def at(cls, place: Place) -> ExpertBank:
        """The bank of one expert group of scheme asymoe."""
        return cls(place.group.count, place.hidden, place.asymoe, act=place.act)

    def initialise(self, init: Any = torch.nn.init) -> None:
        """Initialise the FFN as that of plain experts, and the gain at 1."""
        self.ffn.initialise(init)
        init.constant_(self.gain, 1.0)

    def forward(
        self, hidden_states: Tensor, slots: Slots, top_k_weights: Tensor, context: Context | None = None
    ) -> Tensor:
        """See :meth:`ExpertBank.forward`; the context is required.

        Raises:
            RuntimeError: there is no context.
        """
        if context is None:
            raise RuntimeError(
                "context experts add what the evidence says to each token; pass the Context of the layer"
            )
        plain = self.ffn(hidden_states, slots, top_k_weights)
        gain = torch.cat([self.gain, self.gain.new_zeros(1)])[slots.index]  # 0 for no expert
        added = (gain * top_k_weights).sum(dim=-1, keepdim=True)
        return plain + (added * context.output).to(plain.dtype)

    @torch.no_grad()
    def load_from_dense(self, gate_up: Tensor, down: Tensor) -> None:
        """Copy the dense FFN, or its largest units, and set the gain to 0; the gain learns from the first step."""
        self.ffn.load_from_dense(gate_up, down)
        self.gain.zero_()

    def starts_as_dense(self, ffn: int) -> bool:
        """Whether the experts equal a dense FFN of inner width `ffn` at the start: they must not be narrower."""
        return bool(bank_in(self.ffn).starts_as_dense(ffn))

    def activated_parameters(self) -> int:
        """Parameters that one slot passes through."""
        return bank_in(self.ffn).activated_parameters() + 1
