"""The sparse layer inside vLLM: moiety's router scores, vLLM's fused experts answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe import FusedMoEFactory

from moiety.moe.routers import resolve
from moiety.recipe.recipe import MoESettings


class ServedMoE(nn.Module):
    """Stands where a decoder layer of vLLM has its feed-forward network.

    The router is that of moiety, with the same weights. A closed expert has the score -inf, so vLLM's softmax and
    top-k choose among the open ones, and its kernels run the experts. A scheme without gates gives its open experts
    equal scores and uses them all.

    Args:
        hidden: Width of the decoder.
        settings: Section ``moe`` of the config.
        modality_ids: Buffer with the modality id of each token of the running step, ``(most tokens,)``; all sparse
            layers of a model share it.
        prefix: Name of the layer in vLLM.
        options: For vLLM's experts: ``quant_config`` and ``params_dtype``.
    """

    modality_ids: Tensor

    def __init__(self, hidden: int, settings: MoESettings, modality_ids: Tensor, prefix: str, **options: Any) -> None:
        super().__init__()
        router, groups, top_k = resolve(settings)
        assert settings.expert_ffn is not None
        self.router = router(groups, hidden, settings)
        self.experts = FusedMoEFactory(
            num_experts=groups.num_experts,
            top_k=top_k,
            hidden_size=hidden,
            intermediate_size=settings.expert_ffn,
            renormalize=settings.norm_topk or not router.has_gate,
            prefix=f"{prefix}.experts",
            **options,
        )
        self.register_buffer("modality_ids", modality_ids, persistent=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``(tokens, hidden)`` -> the same shape."""
        scores = self.router.logits(hidden_states, self.modality_ids[: hidden_states.shape[0]])
        return self.experts(hidden_states, scores.to(torch.float32)).view(hidden_states.shape)
