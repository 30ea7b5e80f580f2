"""The sparse layer: what a decoder layer calls in the place of its feed-forward network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moiety.config import MoESettings
from moiety.moe.experts import ExpertBank, FFNExperts
from moiety.moe.routers import resolve
from moiety.moe.trace import active_trace


class ModalityMoE(nn.Module):
    """Route every token by what it is, run the chosen experts, add up their answers.

    Args:
        hidden: Width of the decoder.
        ffn: Inner width of one expert.
        settings: Recipe section ``moe``.
        layer_index: 0-based decoder layer, under which decisions are traced.
        act: Activation of the experts, a name or a callable.
        bank: Class of the experts.

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
        router, self.groups, self.top_k = resolve(settings)
        self.layer_index, self.jitter = layer_index, settings.router_jitter
        self.router = router(self.groups, hidden, settings)
        self.experts = bank(self.groups.num_experts, hidden, ffn, act)
        self._modality_ids: Tensor | None = None

    @contextmanager
    def bound(self, modality_ids: Tensor | None) -> Iterator[None]:
        """Lend the layer the modality ids, ``(batch, seq)``, for callers that can pass hidden states only."""
        before, self._modality_ids = self._modality_ids, modality_ids
        try:
            yield
        finally:
            self._modality_ids = before

    def forward(self, hidden_states: Tensor, modality_ids: Tensor | None = None) -> Tensor:
        """The mixture; exactly 0 on padding.

        Args:
            hidden_states: ``(batch, seq, hidden)`` or ``(tokens, hidden)``.
            modality_ids: One id per position, -1 on padding; None: those of :meth:`bound`.

        Raises:
            RuntimeError: no modality ids were given or bound.
            ValueError: there are more or fewer ids than positions.
        """
        modality_ids = self._modality_ids if modality_ids is None else modality_ids
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
        x = hidden_states.reshape(-1, hidden_states.shape[-1])  # (batch, seq, hidden) -> (tokens, hidden)
        if self.training and self.jitter:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        routing = self.router(x, modality_ids.reshape(-1))
        trace = active_trace()
        if trace is not None:
            trace.append(self.layer_index, routing)
        return self.experts(x, routing.index, routing.weights).view(hidden_states.shape)
