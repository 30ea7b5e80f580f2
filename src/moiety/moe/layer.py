"""The sparse layer, which a decoder layer calls instead of its feed-forward network."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn

from moiety.groups import TEXT_GROUP
from moiety.moe.asymoe.budget import design
from moiety.moe.asymoe.context import Context, ContextAttention, Evidence
from moiety.moe.asymoe.router import AsymmetricRouter, at_layer
from moiety.moe.dispatch import Slots, combine, dispatch
from moiety.moe.experts.bank import ExpertBank, bank_in
from moiety.moe.experts.ffn import FFNExperts
from moiety.moe.experts.mixed import MixedExperts
from moiety.moe.routers import resolve
from moiety.moe.trace import Routing, active_trace
from moiety.recipe.recipe import MoESettings

_lent: ContextVar[tuple[Tensor | None, Evidence | None]] = ContextVar("moiety_lent", default=(None, None))
"""Modality ids and evidence for sparse layers that are called with hidden states alone; see :meth:`ModalityMoE.bound`.

This is a context variable and not an attribute, so that forwards in several threads, or one inside another, do not see
each other's ids.
"""


class ModalityMoE(nn.Module):
    """Look up the evidence where the scheme needs it, route every token, run the chosen experts and add their answers.

    Args:
        hidden: Width of the decoder.
        ffn: Inner width of one expert.
        settings: Recipe section ``moe``.
        layer_index: 0-based decoder layer, under which decisions are traced.
        act: Activation of the experts, a name or a callable.
        bank: Class of plain experts.

    Raises:
        ValueError: the settings cannot be used, see :func:`moiety.moe.routers.resolve`.

    Example:
        >>> layer = ModalityMoE(8, 16, MoESettings(scheme="moiie"))
        >>> layer(torch.zeros(1, 3, 8), torch.tensor([[0, 1, -1]])).shape
        torch.Size([1, 3, 8])

    Source:
        MoIIE (2508.09779), released code AlenjandroWang/MoIIE @ c614868: equal within 1e-5 on recorded blocks, except
        that padding reaches no expert here.
    """

    def __init__(
        self,
        hidden: int,
        ffn: int,
        settings: MoESettings,
        *,
        layer_index: int = 0,
        act: str | Callable[[Tensor], Tensor] = "silu",
        bank: Callable[..., ExpertBank] = FFNExperts,
    ) -> None:
        super().__init__()
        settings = at_layer(settings, layer_index)
        router, self.groups, self.top_k = resolve(settings)
        self.layer_index, self.jitter = layer_index, settings.router_jitter
        if settings.asymoe is not None and not settings.asymoe.sized:
            settings = design(settings, hidden, ffn, None)
        self.settings = settings
        self.router = router(self.groups, hidden, settings)
        self.context: ContextAttention | None = None
        self.experts: ExpertBank
        if settings.asymoe is None and self.groups.kinds == ("ffn",):
            self.experts = bank(self.groups.num_experts, hidden, ffn, act)
        else:
            self.experts = MixedExperts(self.groups, hidden, ffn, settings, act, bank)
        if settings.asymoe is not None and settings.asymoe.needs_context:
            self.context = ContextAttention(hidden, settings.asymoe)
        # read now: adapters and packers may later wrap experts and router, and a wrapper has none of these attributes
        self.num_experts, self.num_sides = self.groups.num_experts, getattr(self.experts, "num_sides", 1)
        self.dispatches_itself = isinstance(bank_in(self.experts), FFNExperts)
        self.reads_context = isinstance(self.experts, MixedExperts)
        self.weighs_evidence = isinstance(self.experts, MixedExperts) and bool(self.experts.weighing)
        self.num_parameters = sum(parameter.numel() for parameter in self.parameters())
        self._shared = {name: self._shared_parameters(name) for name in self.groups.names}

    @contextmanager
    def bound(self, modality_ids: Tensor | None, evidence: Evidence | None = None) -> Iterator[None]:
        """Lend modality ids, ``(batch, seq)``, and evidence to callers that pass hidden states alone.

        Nothing is kept on the module. The calling thread alone sees what is lent, until the context is left.
        """
        token = _lent.set((modality_ids, evidence))
        try:
            yield
        finally:
            _lent.reset(token)

    def forward(
        self, hidden_states: Tensor, modality_ids: Tensor | None = None, evidence: Evidence | None = None
    ) -> Tensor:
        """The weighted sum of the chosen experts, in the shape of `hidden_states`; exactly 0 on padding.

        The layer has four stages. The *router* decides which experts answer and how much each answer counts. *Dispatch*
        puts the rows of each expert side by side. The *experts* answer. *Combine* adds up the answers of the banks. The
        kernels of the experts gather the rows and sum over the choices of a token, because then neither the sorted rows
        nor the answers have to be kept for the backward pass.

        A bank of plain experts gets the choices as they are and dispatches itself. Hugging Face calls its experts so,
        and its expert parallelism, which stands around the bank, may send tokens to another process first.

        Args:
            hidden_states: ``(batch, seq, hidden)``, or ``(tokens, hidden)`` for one sequence.
            modality_ids: One id for each position, -1 on padding. None: those of :meth:`bound`.
            evidence: Positions of the prompt that may be looked up. None: those of :meth:`bound`; without any, no
                position is evidence.

        Raises:
            RuntimeError: no modality ids were given or bound.
            ValueError: there are more or fewer ids, or entries of the evidence, than positions.
        """
        lent_ids, lent_evidence = _lent.get()
        modality_ids = self._checked(lent_ids if modality_ids is None else modality_ids, hidden_states)
        if self.training and self.jitter:
            hidden_states = hidden_states * torch.empty_like(hidden_states).uniform_(1 - self.jitter, 1 + self.jitter)
        context = self._look_up(hidden_states, modality_ids, lent_evidence if evidence is None else evidence)
        x = hidden_states.reshape(-1, hidden_states.shape[-1])  # (batch, seq, hidden) -> (tokens, hidden)
        reads: tuple[Any, ...] = (context,) if self.reads_context else ()

        routing = self.router(x, modality_ids.reshape(-1), context)
        self._record(routing, x, context)
        slots: Slots | Tensor = routing.index
        if not self.dispatches_itself:
            slots = dispatch(routing.index, self.num_experts, routing.modality_group, self.num_sides)
        answers = self.experts(x, slots, routing.weights, *reads)
        return combine(answers).view(hidden_states.shape)

    def probe(self, x: Tensor, context: Tensor, mass: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the gates of an earlier forward again, from the inputs that a trace kept.

        Args:
            x: Input of the layer, ``(tokens, hidden)``.
            context: Output *a* of the context attention, ``(tokens, hidden)``.
            mass: Evidence mass *e* of each token, ``(tokens,)``, 0..1.

        Returns:
            alpha of each evidence expert, ``(tokens, evidence experts)``, and the score *s* of the router,
            ``(tokens,)``, or None where the router has no score.

        Raises:
            TypeError: the layer has no evidence experts.
        """
        if not self.weighs_evidence:
            raise TypeError(f"sparse layer {self.layer_index} has no evidence experts, so it has no gates to probe")
        alpha = self.experts(x, context=Context(context, mass))
        score = cast(AsymmetricRouter, self.router).score
        return alpha, None if score is None else score(Context(context, mass))

    def activated_parameters(self, modality_group: str) -> int:
        """Parameters that one token of `modality_group` passes through, for the largest set of experts it may choose.

        Of router and context attention only the part that the token uses is counted: text tokens use the whole context
        attention, the others only give it keys and values. Adapters do not count.
        """
        number = self.groups.names.index(modality_group)
        sets = itertools.combinations(self.groups.visible(modality_group), self.top_k)
        bank = bank_in(self.experts)
        return self._shared[modality_group] + max(bank.activated_by(chosen, number) for chosen in sets)

    def _shared_parameters(self, modality_group: str) -> int:
        """Parameters of router and context attention that a token passes through."""
        total = self.router.activated_parameters(modality_group)
        if self.context is None:
            return total
        if modality_group != TEXT_GROUP:
            return total + self.context.k_proj.weight.numel() + self.context.v_proj.weight.numel()
        return total + sum(parameter.numel() for parameter in self.context.parameters())

    def _checked(self, modality_ids: Tensor | None, hidden_states: Tensor) -> Tensor:
        if modality_ids is None:
            raise RuntimeError(
                f"sparse layer {self.layer_index} was called without modality ids; pass modality_ids or call it inside "
                "`with layer.bound(modality_ids)`. A missing id never means text"
            )
        if modality_ids.shape != hidden_states.shape[:-1]:
            raise ValueError(
                f"modality_ids of shape {tuple(modality_ids.shape)} do not fit hidden states of shape "
                f"{tuple(hidden_states.shape)}; give one id per position"
            )
        return modality_ids

    def _look_up(self, hidden_states: Tensor, modality_ids: Tensor, evidence: Evidence | None) -> Context | None:
        """The context of every token; None where the scheme does not need it."""
        if self.context is None:
            return None
        if evidence is None:  # a mask of zeros keeps every projection in the graph of every rank
            evidence = Evidence(torch.zeros_like(modality_ids, dtype=torch.bool))
        if hidden_states.dim() == 2:  # (tokens, hidden) -> (1, tokens, hidden)
            hidden_states, modality_ids = hidden_states.unsqueeze(0), modality_ids.unsqueeze(0)
            evidence = dataclasses.replace(
                evidence,
                mask=None if evidence.mask is None else evidence.mask.view(modality_ids.shape),
                document_ids=None if evidence.document_ids is None else evidence.document_ids.view(modality_ids.shape),
            )
        found = self.context(hidden_states, modality_ids, evidence)
        if not self.weighs_evidence:
            return found
        # computed once, for the trace and for the experts; the module is called because adapters may wrap it
        return found._replace(alpha=self.experts(hidden_states.flatten(0, 1), context=found))

    def _record(self, routing: Routing, x: Tensor, context: Context | None) -> None:
        """Write the decision into the open trace, with the extras that losses and lens read."""
        trace = active_trace()
        if trace is None:
            return
        extras = dict(routing.extras)
        if context is not None and context.alpha is not None:
            extras["alpha"] = context.alpha
        if trace.keeps_inputs:
            extras["x"] = x
            if context is not None:
                extras["context"] = context.output
        trace.append(self.layer_index, dataclasses.replace(routing, extras=extras) if extras else routing)
