"""Evidence-priority experts: a memory branch, an evidence branch, and a gate that weighs the two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moiety.moe.asymoe.context import Context
from moiety.moe.asymoe.experts.evidence_kernel import rich_scores, two_branches
from moiety.moe.dispatch import Slots, deal
from moiety.moe.experts.bank import ExpertBank, Place, check_dense, largest_units
from moiety.moe.kernels.activation import ACTIVATIONS
from moiety.moe.precise import StaysPrecise
from moiety.recipe.asymoe import AsyMoESettings

_clamped: ContextVar[float | None] = ContextVar("moiety_clamped_alpha", default=None)


@contextmanager
def clamped_alpha(value: float | None) -> Iterator[None]:
    """Force alpha of every evidence expert to `value` while this context is open, to test its effect.

    Args:
        value: 0..1; None: leave alpha alone.

    Raises:
        ValueError: `value` lies outside 0..1.
    """
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"alpha is clamped to a value from 0 (evidence alone) to 1 (memory alone), got {value}")
    token = _clamped.set(value)
    try:
        yield
    finally:
        _clamped.reset(token)


class EvidenceExperts(StaysPrecise, ExpertBank):
    r"""Experts that weigh what they have learned against what the evidence in the prompt says.

    The answer is :math:`E(x, a) = \alpha F_{mem}(x) + (1-\alpha) F_{evd}(x, a)` with
    :math:`\alpha = lo + (hi-lo)\,\sigma(w_\alpha \cdot g + b_\alpha)`. In form ``gelu`` the branches are
    :math:`F_{mem} = W_2\,gelu(W_1 x)` and :math:`F_{evd} = W_4\,gelu(W_3 [x; a])`. In form ``swiglu`` both branches are
    gated, so that they can copy a dense FFN. The gate reads ``x``. A ``rich`` gate reads :math:`[x; a; |x-a|; e]` with
    the evidence mass *e*. A gate that reads *x* alone does not see the evidence that it weighs.

    Args:
        num_experts: Experts in the bank.
        hidden: Width of the decoder.
        settings: Section ``moe.asymoe`` with ``evidence_dim``, the inner width of each branch.
        act: Name of the activation of the decoder's FFN. Gated branches use it; gelu branches do not read it.

    Raises:
        ValueError: ``evidence_dim`` is missing, ``alpha_start`` lies outside ``alpha_range``, or the branches are gated
            and the name of the activation is unknown.

    Source:
        AsyMoE (2606.00275), eq. 7-9. The gated form, the rich gate, the range of alpha and its start at 0.3 are ours.
    """

    precise = ("w_alpha", "b_alpha")
    reads_context = True

    def __init__(self, num_experts: int, hidden: int, settings: AsyMoESettings, *, act: Any = "silu") -> None:
        super().__init__()
        if settings.evidence_dim is None:
            raise ValueError(
                "evidence experts need a width; give moe.asymoe.evidence_dim, or let a size plan design it"
            )
        (lo, hi), width = settings.alpha_range, settings.evidence_dim
        if lo < hi and not lo < settings.alpha_start < hi:
            raise ValueError(f"alpha_start={settings.alpha_start} must lie inside alpha_range=({lo}, {hi})")
        self.num_experts, self.hidden, self.width, self.settings = num_experts, hidden, width, settings
        self.gated = settings.form == "swiglu"
        self.rich = settings.gate_input == "rich"
        if self.gated and not (isinstance(act, str) and act in ACTIVATIONS):
            raise ValueError(
                f"gated evidence branches know {', '.join(sorted(ACTIVATIONS))}, the decoder's activation is {act!r}; "
                "set moe.asymoe.evidence_form: gelu"
            )
        self.act = act if self.gated else "silu"
        matrices = 2 if self.gated else 1
        self.input_proj = nn.Parameter(torch.empty(num_experts, 2 * matrices * width, hidden))
        self.context_proj = nn.Parameter(torch.empty(num_experts, matrices * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden, 2 * width))
        inputs = 3 * hidden + 1 if self.rich else hidden
        self.w_alpha = nn.Parameter(torch.empty(num_experts, inputs, dtype=torch.float32))
        self.b_alpha = nn.Parameter(torch.empty(num_experts, dtype=torch.float32))
        if not self.b_alpha.is_meta:
            self.initialise()

    @classmethod
    def at(cls, place: Place) -> ExpertBank:
        """The bank of one expert group of scheme asymoe."""
        return cls(place.group.count, place.hidden, place.asymoe, act=place.act)

    def initialise(self, init: Any = torch.nn.init) -> None:
        """Draw matrices from normal(0, 0.02); the gate gives every token the alpha ``alpha_start``."""
        for matrix in (self.input_proj, self.context_proj, self.down_proj):
            init.normal_(matrix, std=0.02)
        init.zeros_(self.w_alpha)
        lo, hi = self.settings.alpha_range
        share = (self.settings.alpha_start - lo) / (hi - lo) if lo < hi else 0.5
        init.constant_(self.b_alpha, math.log(share / (1 - share)))

    def forward(
        self,
        hidden_states: Float[Tensor, "tokens hidden"],
        slots: Slots | None = None,
        top_k_weights: Float[Tensor, "tokens top_k"] | None = None,
        context: Context | None = None,
    ) -> Float[Tensor, "tokens hidden_or_experts"]:
        """Weighted sum of the chosen experts, ``(tokens, hidden)``.

        Without slots and weights the result is :meth:`alpha` of every expert instead, ``(tokens, experts)``. If
        ``context.alpha`` is set, it is used and not computed again.

        Raises:
            RuntimeError: there is no context.
        """
        if slots is None or top_k_weights is None:
            output, mass, _ = context or (None, None, None)
            return self.alpha(hidden_states, output, mass)
        if context is None:
            raise RuntimeError(
                "evidence experts read what the evidence says to each token; pass the Context of the layer"
            )
        if not hidden_states.numel():
            return self.nothing(hidden_states)
        if slots.ends is None:
            (slots,) = deal(slots, [self.num_experts])
        alpha = self.alpha(hidden_states, context.output, context.mass) if context.alpha is None else context.alpha
        return two_branches(
            hidden_states,
            context.output,
            alpha,
            top_k_weights,
            self.input_proj,
            self.context_proj,
            self.down_proj,
            slots,
            self.act,
        )

    def alpha(
        self,
        x: Float[Tensor, "tokens hidden"],
        context: Float[Tensor, "tokens hidden"] | None,
        mass: Float[Tensor, " tokens"] | None,
    ) -> Float[Tensor, "tokens experts"]:
        """Share of the memory branch in each expert for each token, ``(tokens, experts)``, float32, 0..1.

        Inside :func:`clamped_alpha` it is the clamped value.

        Raises:
            RuntimeError: a rich gate got no context.
        """
        wide = torch.promote_types(x.dtype, torch.float32)
        forced = _clamped.get()
        if forced is not None:
            return x.new_full((len(x), self.num_experts), forced, dtype=wide)
        with torch.autocast(x.device.type, enabled=False):
            scores = self._scores(x, context, mass, wide)
            lo, hi = self.settings.alpha_range
            found = lo + (hi - lo) * torch.sigmoid(scores + self.b_alpha.to(wide))
        return found.detach() if self.settings.alpha_mode == "fixed" else found

    def _scores(self, x: Tensor, context: Tensor | None, mass: Tensor | None, wide: torch.dtype) -> Tensor:
        weight = self.w_alpha.to(wide)
        if not self.rich:
            return x.to(wide) @ weight.T
        if context is None or mass is None:
            raise RuntimeError("a rich gate reads context and mass of each token; pass both")
        of_mass = mass.to(wide).unsqueeze(-1) * weight[:, -1]  # (tokens, experts)
        return rich_scores(x, context, weight[:, :-1]) + of_mass

    @torch.no_grad()
    def load_from_dense(
        self, gate_up: Float[Tensor, "twice_dense hidden"], down: Float[Tensor, "hidden dense"]
    ) -> None:
        """Start both branches from a dense FFN, or from its largest units where it is wider than a branch.

        Form ``swiglu`` with the same width or more equals the dense FFN at step 0, for every alpha and every context
        (and every activation that has a name). Form ``gelu`` has no gate: it copies the up rows and down columns and
        leaves out the gate rows. A narrower bank of either form leaves out units. Neither of these two equals the dense
        FFN. The part that reads the context starts at 0. It gets a gradient in the first step, because the context
        itself does not start at 0.

        Raises:
            ValueError: the widths do not fit.
        """
        check_dense(gate_up, down, self.hidden)
        gate_up, down = largest_units(gate_up, down, self.width)
        kept = down.shape[1]
        row = torch.arange(self.width, device=gate_up.device) % kept
        gate, up = gate_up[row], gate_up[row + kept]
        parts = [gate, gate, up, up] if self.gated else [up, up]
        self.input_proj.copy_(torch.cat(parts))
        self.context_proj.zero_()
        self.down_proj.zero_()
        for start in (0, self.width):
            self.down_proj[:, :, start : start + kept] = down.to(self.down_proj)

    def starts_as_dense(self, ffn: int) -> bool:
        """Whether both branches equal a dense FFN of inner width `ffn`: they must be gated and wide enough."""
        return self.gated and self.width >= ffn

    def activated_parameters(self) -> int:
        """Parameters that one slot passes through: both branches and the gate."""
        matrices = 8 if self.gated else 5
        return matrices * self.hidden * self.width + self.w_alpha.shape[1] + 1

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        form = "swiglu" if self.gated else "gelu"
        return f"num_experts={self.num_experts}, hidden={self.hidden}, width={self.width}, form={form}"
