"""Gated feed-forward experts: the bank of every scheme of the MoIIE family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moiety.moe.asymoe.context import Context
from moiety.moe.dispatch import Slots, dispatch
from moiety.moe.experts.bank import ExpertBank, check_dense, largest_units
from moiety.moe.kernels import KERNELS, choose_kernel, gated_experts, reference_experts
from moiety.moe.kernels.activation import activation_of


class FFNExperts(ExpertBank):
    r"""A stacked bank of gated feed-forward networks without biases.

    :math:`E_i(x) = W^{down}_i (act(W^{gate}_i x) \odot W^{up}_i x)`, in the layout of Hugging Face experts, so that
    their back-ends, PEFT and expert parallelism fit. The first ``ffn`` rows of ``gate_up_proj`` are the gate.

    Args:
        num_experts: Experts in the bank.
        hidden: Width of the decoder.
        ffn: Inner width of one expert.
        act: Name of the activation (``silu``, ``gelu_pytorch_tanh``, …) or a callable; callables run the plain loop.
        kernel: ``auto``, ``loop``, ``grouped`` or ``reference``; see :mod:`moiety.moe.kernels`.

    Raises:
        ValueError: the activation or kernel is unknown.

    Source:
        Shazeer 2020, "GLU variants improve transformer", eq. 6 (SwiGLU), once per expert.
    """

    config: Any = None
    """Name of another route, see ``moiety.vlm.backends``. None: always the kernels of :mod:`moiety.moe.kernels`."""

    def __init__(
        self,
        num_experts: int,
        hidden: int,
        ffn: int,
        act: str | Callable[[Tensor], Tensor] = "silu",
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise ValueError(f"kernel {kernel!r} is unknown; known: {', '.join(KERNELS)}")
        self.num_experts, self.hidden, self.ffn, self.act, self.kernel = num_experts, hidden, ffn, act, kernel
        self.act_fn = activation_of(act)
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * ffn, hidden))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden, ffn))
        if not self.down_proj.is_meta:
            self.reset_parameters()

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw all weights from normal(0, `std`)."""
        nn.init.normal_(self.gate_up_proj, std=std)
        nn.init.normal_(self.down_proj, std=std)

    def forward(
        self,
        hidden_states: Float[Tensor, "tokens hidden"],
        top_k_index: Int[Tensor, "tokens top_k"] | Slots,
        top_k_weights: Float[Tensor, "tokens top_k"],
        context: Context | None = None,
    ) -> Float[Tensor, "tokens hidden"]:
        """Weighted sum of the chosen experts, ``(tokens, hidden)``; choices that are not sorted are accepted as well.

        Hugging Face calls its experts with unsorted choices.

        Args:
            hidden_states: ``(tokens, hidden)``.
            top_k_index: The sorted slots; or the expert of each choice, ``(tokens, top_k)``, where `num_experts` means
                no expert.
            top_k_weights: Weight of each choice, ``(tokens, top_k)``.
            context: Not read.
        """
        other = None if self.config is None else self.config.other
        if other is not None:
            index = top_k_index.index if isinstance(top_k_index, Slots) else top_k_index
            found: Tensor = other(self, hidden_states, index, top_k_weights)
            return found
        slots = top_k_index if isinstance(top_k_index, Slots) else dispatch(top_k_index, self.num_experts)
        kernel = choose_kernel(self.kernel, self.act, hidden_states, slots, self.gate_up_proj)
        if kernel == "reference":
            return reference_experts(
                hidden_states, slots.index, top_k_weights, self.gate_up_proj, self.down_proj, self.act_fn
            )
        return gated_experts(
            hidden_states, top_k_weights, self.gate_up_proj, self.down_proj, slots, str(self.act), kernel
        )

    @torch.no_grad()
    def load_from_dense(
        self, gate_up: Float[Tensor, "twice_dense hidden"], down: Float[Tensor, "hidden dense"]
    ) -> None:
        """Copy a dense FFN into every expert.

        Experts that are narrower copy its largest units. In wider experts the additional gate and up rows repeat those
        of the dense FFN from the start, and their down columns are 0. So the function stays the same, and the copies
        become different with the first gradient.

        Args:
            gate_up: Gate rows, then up rows, ``(2*ffn, hidden)``.
            down: Down projection, ``(hidden, ffn)``.

        Raises:
            ValueError: the widths do not fit.
        """
        check_dense(gate_up, down, self.hidden)
        gate_up, down = largest_units(gate_up, down, self.ffn)
        dense = down.shape[1]
        row = torch.arange(self.ffn, device=gate_up.device) % dense
        self.gate_up_proj.copy_(torch.cat([gate_up[row], gate_up[row + dense]]))
        self.down_proj.zero_()
        self.down_proj[:, :, :dense] = down.to(self.down_proj)

    def starts_as_dense(self, ffn: int) -> bool:
        """Whether the experts equal a dense FFN of inner width `ffn` after the copy: they must not be narrower."""
        return self.ffn >= ffn

    def activated_parameters(self) -> int:
        """Parameters that one slot passes through, ``3 * hidden * ffn``; adapters and packed weights do not count."""
        return 3 * self.hidden * self.ffn

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"num_experts={self.num_experts}, hidden={self.hidden}, ffn={self.ffn}, kernel={self.kernel}"
