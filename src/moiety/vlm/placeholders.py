"""The modality of each token, from a Hugging Face config and the arguments of one call.

A processor writes one placeholder token for each image token, and the config names its id. Only this file reads
modalities from a config or a call. The rules that need nothing but tensors stand at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from moiety.groups import Modality
from moiety.recipe.recipe import MoESettings
from moiety.vlm.contracts import brings_pictures, cache_of, cached_length

PLACEHOLDERS: Mapping[str, Modality] = {
    "image_token_id": Modality.IMAGE,
    "video_token_id": Modality.VIDEO,
    "audio_token_id": Modality.AUDIO,
}
DELIMITERS = ("vision_start_token_id", "vision_end_token_id", "boi_token_id", "eoi_token_id")


def placeholder_ids(config: Any) -> dict[int, int]:
    """Token id -> modality id of every placeholder that `config` names."""
    found = {getattr(config, name, None): int(modality) for name, modality in PLACEHOLDERS.items()}
    return {int(token): modality for token, modality in found.items() if token is not None}


def delimiter_ids(config: Any) -> dict[int, int]:
    """Token id -> modality id of images, for the marks that a family puts around a picture."""
    found = (getattr(config, name, None) for name in DELIMITERS)
    return {int(token): int(Modality.IMAGE) for token in found if token is not None}


@dataclass(frozen=True)
class ModalityRule:
    """How a model turns the arguments of one call into ``modality_ids``.

    Args:
        token_ids: Token id -> modality id; every other token is text.
        mask_rule: ``exact`` or ``last_token_as_text`` (the last token of each run of one modality counts as text).
    """

    token_ids: Mapping[int, int]
    mask_rule: str

    @classmethod
    def of(cls, config: Any, settings: MoESettings) -> ModalityRule:
        """Read the placeholders of `config`, and its delimiters if `settings` ask for them.

        Raises:
            ValueError: the config names no placeholder, or no delimiter although they are asked for.
        """
        tokens = placeholder_ids(config)
        if not tokens:
            raise ValueError(
                f"{type(config).__name__} names none of {', '.join(PLACEHOLDERS)}: picture tokens cannot be found"
            )
        if settings.delimiters_as_vision:
            delimiters = delimiter_ids(config)
            if not delimiters:
                raise ValueError(
                    f"moe.delimiters_as_vision is true, but {type(config).__name__} names none of "
                    f"{', '.join(DELIMITERS)}; set it to false for this family"
                )
            tokens = {**delimiters, **tokens}
        return cls(tokens, settings.mask_rule)

    def derive(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Modality ids of tokens, ``(batch, seq)``. Padding is not marked yet."""
        return ids_from_placeholders(input_ids, self.token_ids)

    def ids_of_call(
        self, input_ids: torch.Tensor | None, given: torch.Tensor | None, kwargs: Mapping[str, Any]
    ) -> torch.Tensor:
        """The modality ids that one forward of the multimodal base model gives to its decoder layers.

        Args:
            input_ids: Tokens, ``(batch, seq)``, or None if embeddings are given.
            given: Modality ids that the caller passed, ``(batch, seq)``, or None.
            kwargs: The other keywords of the call (attention mask, cache, pictures).

        Returns:
            ``(batch, seq)``, -1 on padding.

        Raises:
            ValueError: ids are missing and cannot be derived, have another shape than the tokens, or the rule
                ``last_token_as_text`` meets a later chunk of a prompt that holds picture tokens.
        """
        ids = self._derived(input_ids, kwargs) if given is None else given
        tokens = input_ids if input_ids is not None else kwargs.get("inputs_embeds")
        if tokens is not None and ids.shape != tokens.shape[:2]:
            raise ValueError(
                f"modality_ids have shape {tuple(ids.shape)}, the tokens {tuple(tokens.shape[:2])}; give one id a token"
            )
        ids = self.padded(ids, kwargs.get("attention_mask"))
        if self.mask_rule == "exact":
            return ids
        if bool((ids > 0).any()) and cached_length(cache_of(kwargs)):
            raise ValueError(
                "mask_rule=last_token_as_text needs each prompt in one piece: if a chunk ended inside a picture, a "
                "wrong token would count as its last. Prefill without chunks, or use mask_rule=exact"
            )
        return last_token_as_text(ids)

    def _derived(self, input_ids: torch.Tensor | None, kwargs: Mapping[str, Any]) -> torch.Tensor:
        if input_ids is None:
            raise ValueError(
                "inputs_embeds came without modality_ids: which position is a picture cannot be seen from "
                "embeddings. Pass modality_ids (batch, seq) with 0 text, 1 image, 2 video, 3 audio, -1 padding"
            )
        mask = kwargs.get("attention_mask")
        if mask is not None and (isinstance(mask, dict) or mask.ndim != 2):
            raise ValueError(
                "attention_mask is not (batch, seq), so padding cannot be read from it; "
                "pass modality_ids with -1 on padding beside it"
            )
        # The model may generate a placeholder. No picture belongs to it, so it is text.
        if not brings_pictures(kwargs) and cached_length(cache_of(kwargs)):
            return torch.zeros_like(input_ids)
        return self.derive(input_ids)

    @staticmethod
    def padded(ids: torch.Tensor, attention_mask: Any) -> torch.Tensor:
        """The ids with -1 where a two-dimensional `attention_mask` marks padding. Other masks change nothing."""
        if attention_mask is None or isinstance(attention_mask, dict) or attention_mask.ndim != 2:
            return ids
        return without_padding(ids, attention_mask)

    def ids_of_step(
        self, given: torch.Tensor | None, inputs: Mapping[str, Any], first: bool, mask: Any
    ) -> torch.Tensor | None:
        """The modality ids of one step of ``generate``.

        Args:
            given: Modality ids of the prompt that the caller gave to ``generate``, or None.
            inputs: What Hugging Face is about to pass to the model in this step.
            first: Whether this is the prefill (or a chunk of it).
            mask: The two-dimensional attention mask, before Hugging Face turned it into another form.

        Returns:
            ``(batch, seq)`` for the tokens of this step; None if there are only embeddings and no given ids.
        """
        tokens = inputs.get("input_ids")
        tokens = tokens if tokens is not None else inputs["inputs_embeds"]
        batch, seq = tokens.shape[:2]
        cache = cache_of(inputs)
        if cache is not None and not first:
            return torch.zeros(batch, seq, dtype=torch.long, device=tokens.device)
        if given is None:
            return None if inputs.get("input_ids") is None else self.padded(self.derive(tokens), mask)
        # Decoding without a cache: what was generated after the prompt is text.
        ids = torch.nn.functional.pad(given, (0, max(0, seq - given.shape[1])))
        start = min(cached_length(cache), ids.shape[1] - seq)
        return self.padded(ids[:, start : start + seq], mask)


# -- pure rules on tensors ---------------------------------------------------------------------------------------------
def ids_from_placeholders(
    input_ids: Int[Tensor, "batch seq"], token_ids: Mapping[int, int]
) -> Int[Tensor, "batch seq"]:
    """Modality ids from placeholder tokens. Every other token is text.

    Args:
        input_ids: Token ids, with all placeholders of each picture, ``(batch, seq)``.
        token_ids: Token id of a placeholder -> modality id.

    Example:
        >>> ids_from_placeholders(torch.tensor([[5, 9, 9, 7]]), {9: 1}).tolist()
        [[0, 1, 1, 0]]
    """
    modality_ids = torch.full_like(input_ids, int(Modality.TEXT))
    for token_id, modality in token_ids.items():
        modality_ids = modality_ids.masked_fill(input_ids == token_id, int(modality))
    return modality_ids


def without_padding(modality_ids: Int[Tensor, "batch seq"], attention_mask: Tensor | None) -> Int[Tensor, "batch seq"]:
    """Modality ids with -1 where the mask marks padding.

    Args:
        modality_ids: ``(batch, seq)``.
        attention_mask: ``(batch, at least seq)``, nonzero = keep; its last ``seq`` columns count, so that a cached
            prefix may stand before them. None: nothing is padding.

    Raises:
        ValueError: the mask is not two-dimensional or too short; it cannot tell which tokens are padding.

    Example:
        >>> without_padding(torch.tensor([[1, 0, 0]]), torch.tensor([[1, 1, 0]])).tolist()
        [[1, 0, -1]]
    """
    if attention_mask is None:
        return modality_ids
    batch, seq = modality_ids.shape
    if attention_mask.dim() != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < seq:
        raise ValueError(
            f"modality ids of shape {(batch, seq)} need an attention mask of shape (batch, at least seq), got "
            f"{tuple(attention_mask.shape)}; with packed or 4-D masks set modality_ids to -1 on padding yourself"
        )
    return modality_ids.masked_fill(attention_mask[:, attention_mask.shape[1] - seq :] == 0, int(Modality.PADDING))


def last_token_as_text(modality_ids: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """The rule of the released MoIIE code: the last position of every run of one modality counts as text.

    A position keeps its modality only if the next one has the same. Padding ends a run and stays padding.

    Source:
        AlenjandroWang/MoIIE @ c614868, modeling_phi3.py (phi3_moe_mm_s); equal on the recorded vision masks.

    Example:
        >>> last_token_as_text(torch.tensor([[0, 1, 1, 1, 0, 0, 1, 1, 0]])).tolist()
        [[0, 1, 1, 0, 0, 0, 1, 0, 0]]
    """
    ends_run = torch.ones_like(modality_ids, dtype=torch.bool)
    ends_run[:, :-1] = modality_ids[:, 1:] != modality_ids[:, :-1]
    return modality_ids.masked_fill(ends_run & (modality_ids > int(Modality.TEXT)), int(Modality.TEXT))
