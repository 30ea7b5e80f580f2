"""What a sparse model adds to ``generate``: ids and evidence of every step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moiety.vlm.asymoe.evidence import EvidenceRule, mask_of_step
from moiety.vlm.contracts import cache_of, cached_length
from moiety.vlm.placeholders import ModalityRule
from moiety.vlm.positions import name_modalities, recall_offsets

_PROMPT_LENGTH = "moiety_prompt_length"


class GeneratesWithIds:
    """Mixin in front of an outermost Hugging Face class; a dense model only gets the positions of its conversation."""

    _is_sparse: bool
    base_model: Any

    def _prepare_position_ids_for_generation(self, inputs_tensor: Any, model_kwargs: Any) -> Any:
        """As in transformers, with the offsets of this conversation and never with those of another."""
        tokens = inputs_tensor if inputs_tensor.ndim == 2 else None  # embeddings have three axes
        name_modalities(self.base_model, tokens, model_kwargs)
        recall_offsets(self.base_model, cache_of(model_kwargs))
        return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)  # type: ignore[misc]

    def _prepare_model_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, and the length and evidence of the prompt, before rows are repeated for beams."""
        inputs, name, model_kwargs = super()._prepare_model_inputs(*args, **kwargs)  # type: ignore[misc]
        if not self._is_sparse:
            return inputs, name, model_kwargs
        model_kwargs[_PROMPT_LENGTH] = prompt_length(inputs, model_kwargs)
        rule: EvidenceRule | None = self.base_model.evidence_rule
        if rule is not None and name == "input_ids":
            ids = model_kwargs.get("modality_ids")
            if ids is None or ids.shape != inputs.shape:
                ids = self.base_model.modality_rule.derive(inputs)
            given = model_kwargs.get("evidence_mask")
            model_kwargs["evidence_mask"] = rule.mask_of_prompt(given, inputs, ids, model_kwargs)
        return inputs, name, model_kwargs

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        modality_ids: Any = None,
        evidence_mask: Any = None,
        inputs_embeds: Any = None,
        moiety_prompt_length: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, with the modality ids and the evidence of this step.

        The names of the parameters matter: ``generate`` reads them to see what it may pass on. A step still reads the
        prompt as long as the cache holds fewer tokens than the prompt has. The flag ``is_first_iteration`` of
        transformers is not enough: some releases do not set it for every chunk of a prompt.
        """
        inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)  # type: ignore[misc]
        if self._is_sparse:
            rule: ModalityRule = self.base_model.modality_rule
            first = bool(kwargs.get("is_first_iteration"))
            if not first and moiety_prompt_length is not None:
                first = cached_length(cache_of(inputs)) < moiety_prompt_length
            inputs["modality_ids"] = rule.ids_of_step(modality_ids, inputs, first, kwargs.get("attention_mask"))
            if self.base_model.evidence_rule is not None:
                inputs["evidence_mask"] = mask_of_step(evidence_mask, inputs, first)
        return inputs


def prompt_length(inputs: Tensor, model_kwargs: Any) -> int:
    """Number of tokens in the prompt of one ``generate``, including those that the cache already holds.

    Args:
        inputs: Tokens ``(batch, seq)`` or embeddings ``(batch, seq, hidden)``; with a cache, all or the new ones.
        model_kwargs: The other keywords of ``generate``.
    """
    mask = model_kwargs.get("attention_mask")
    if mask is not None and getattr(mask, "ndim", 0) == 2:
        return int(mask.shape[1])
    return max(int(inputs.shape[1]), cached_length(cache_of(model_kwargs)))
