"""What a sparse model adds to ``generate``: ids and evidence of every step."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from moiety.vlm.evidence import EvidenceRule, mask_of_step
from moiety.vlm.placeholders import ModalityRule


class GeneratesWithIds:
    """Mixin in front of an outermost Hugging Face class; of a dense model it changes nothing."""

    _is_sparse: bool
    base_model: Any

    def _prepare_model_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, and the evidence of the prompt, before rows are repeated for beams."""
        inputs, name, model_kwargs = super()._prepare_model_inputs(*args, **kwargs)  # type: ignore[misc]
        rule: EvidenceRule | None = self.base_model.evidence_rule if self._is_sparse else None
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
        **kwargs: Any,
    ) -> Any:
        """As in transformers, with the modality ids and the evidence of this step.

        The names matter: ``generate`` reads them to see what it may pass on.
        """
        inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)  # type: ignore[misc]
        if self._is_sparse:
            rule: ModalityRule = self.base_model.modality_rule
            first = bool(kwargs.get("is_first_iteration"))
            inputs["modality_ids"] = rule.ids_of_step(modality_ids, inputs, first, kwargs.get("attention_mask"))
            if self.base_model.evidence_rule is not None:
                inputs["evidence_mask"] = mask_of_step(evidence_mask, inputs, first)
        return inputs
