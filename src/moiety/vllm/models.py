"""vLLM's own models of each family with sparse layers in their decoder. vLLM loads the classes by name.

vLLM's models and processors do all the work: pictures, attention, cache, batches. Here the feed-forward networks of
the sparse layers are replaced, and the modality ids of each step are found from its token ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.gemma3_mm import Gemma3ForConditionalGeneration
from vllm.model_executor.models.idefics3 import Idefics3ForConditionalGeneration
from vllm.model_executor.models.interns1 import InternS1ForConditionalGeneration
from vllm.model_executor.models.llava import LlavaForConditionalGeneration
from vllm.model_executor.models.llava_onevision import LlavaOnevisionForConditionalGeneration
from vllm.model_executor.models.paligemma import PaliGemmaForConditionalGeneration
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
from vllm.model_executor.models.smolvlm import SmolVLMForConditionalGeneration

from moiety.recipe.recipe import MoESettings
from moiety.vllm.layer import ServedMoE
from moiety.vllm.refusals import refuse_what_is_not_served
from moiety.vlm.placeholders import ModalityRule, ids_from_placeholders

_TOWER = "model.vision_tower."


class ServesModalities:
    """Mixin in front of a family's model class of vLLM.

    Raises:
        ValueError: the scheme, the rule for picture tokens, or the way of parallelism cannot be served right.
    """

    requires_raw_input_tokens = True
    """vLLM passes token ids beside embeddings."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config: Any = vllm_config.model_config.hf_config
        settings = MoESettings.model_validate(config.moe)
        refuse_what_is_not_served(settings, vllm_config.parallel_config.pipeline_parallel_size)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        rule = ModalityRule.of(config, settings)
        self.token_ids = dict(rule.token_ids)
        most = vllm_config.scheduler_config.max_num_batched_tokens
        self.modality_ids = torch.zeros(most, dtype=torch.long)
        if settings.scheme == "dense":
            return
        language: Any = self.get_language_model()  # type: ignore[attr-defined]
        decoder = getattr(language, "model", language)
        place = next(name for name, module in self.named_modules() if module is decoder)  # type: ignore[attr-defined]
        for index in settings.resolved_layers(config.get_text_config().num_hidden_layers):
            decoder.layers[index].mlp = ServedMoE(
                config.get_text_config().hidden_size,
                settings,
                self.modality_ids,
                f"{place}.layers.{index}.mlp",
                quant_config=vllm_config.quant_config,
                params_dtype=vllm_config.model_config.dtype,
            )

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        *args: Any,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As vLLM's model; the modality of each token is read from its id first."""
        if input_ids is None:
            raise RuntimeError("vLLM passed embeddings without token ids, so it is unknown which token is a picture")
        ids = ids_from_placeholders(input_ids, self.token_ids)
        self.modality_ids[: ids.shape[0]].copy_(ids)
        return super().forward(input_ids, positions, *args, inputs_embeds=inputs_embeds, **kwargs)  # type: ignore[misc]

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """As vLLM's model; a placeholder is never said."""
        logits: Tensor | None = super().compute_logits(hidden_states)  # type: ignore[misc]
        if logits is not None:
            logits[..., list(self.token_ids)] = float("-inf")
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """As vLLM's model, from the names that transformers writes today."""
        return super().load_weights(self._named(weights))  # type: ignore[misc]

    def _named(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        tower = getattr(self, "vision_tower", None)
        nested = hasattr(tower, "vision_model")
        for name, weight in weights:
            if nested and name.startswith(_TOWER) and not name.startswith(f"{_TOWER}vision_model."):
                name = f"{_TOWER}vision_model.{name.removeprefix(_TOWER)}"
            yield name, weight


class MoietyLlavaForConditionalGeneration(ServesModalities, LlavaForConditionalGeneration):
    """LLaVA."""


class MoietyLlavaOnevisionForConditionalGeneration(ServesModalities, LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision."""


class MoietyQwen2_5_VLForConditionalGeneration(ServesModalities, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL."""


class MoietyQwen3VLForConditionalGeneration(ServesModalities, Qwen3VLForConditionalGeneration):
    """Qwen3-VL."""


class MoietyInternVLForConditionalGeneration(ServesModalities, InternS1ForConditionalGeneration):
    """InternVL in its Hugging Face form."""


class MoietyGemma3ForConditionalGeneration(ServesModalities, Gemma3ForConditionalGeneration):
    """Gemma 3."""


class MoietyPaliGemmaForConditionalGeneration(ServesModalities, PaliGemmaForConditionalGeneration):
    """PaliGemma."""


class MoietyIdefics3ForConditionalGeneration(ServesModalities, Idefics3ForConditionalGeneration):
    """Idefics3."""


class MoietySmolVLMForConditionalGeneration(ServesModalities, SmolVLMForConditionalGeneration):
    """SmolVLM."""
