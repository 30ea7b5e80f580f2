"""Which positions of a call are evidence: if the caller does not say it, and in every step of ``generate``.

Evidence is what the model was given: image tokens and the text of the user. Control tokens, earlier answers and all
generated tokens are memory. The code that encodes a conversation knows its turns and marks evidence exactly
(``vlm/asymoe/spans.py``). Tokens alone do not show whether earlier text was a question or an answer.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moiety.groups import Modality
from moiety.recipe.recipe import MoESettings
from moiety.vlm.asymoe.context_cache import has_begun
from moiety.vlm.contracts import cache_of, cached_length
from moiety.vlm.placeholders import delimiter_ids

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvidenceRule:
    """How a model turns the arguments of one call into its ``evidence_mask``.

    Args:
        special_ids: Control tokens, which are never evidence.

    Source:
        AsyMoE (2606.00275), section 3.2, names both sides; the rule per token is ours.
    """

    special_ids: tuple[int, ...]

    @classmethod
    def of(cls, config: Any, settings: MoESettings) -> EvidenceRule | None:
        """The rule of a model; None if none of its layers uses evidence.

        The control tokens are those of ``moe.asymoe.special_ids``. If that is not set, they are the begin, end and
        padding tokens of `config` and the marks that its family puts around a picture.
        """
        own = settings.asymoe
        if own is None or not own.needs_context:
            return None
        if own.special_ids is not None:
            return cls(tuple(own.special_ids))
        found = list(delimiter_ids(config))
        for part in (config, config.get_text_config()):
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                given = getattr(part, name, None)
                found += given if isinstance(given, list | tuple) else [] if given is None else [given]
        return cls(tuple(sorted(set(found))))

    def derive(self, input_ids: Tensor | None, modality_ids: Tensor) -> Tensor:
        """Evidence derived from the tokens alone, ``(batch, seq)``: everything except padding and control tokens.

        Args:
            input_ids: Tokens, ``(batch, seq)``. None: embeddings were given, which do not show control tokens.
            modality_ids: The modality of each position, -1 on padding.
        """
        _say_derived()
        if input_ids is None:
            return modality_ids >= int(Modality.TEXT)
        special = torch.isin(input_ids, torch.tensor(self.special_ids, dtype=input_ids.dtype, device=input_ids.device))
        return (modality_ids > int(Modality.TEXT)) | ((modality_ids == int(Modality.TEXT)) & ~special)

    def mask_of_call(
        self, given: Tensor | None, input_ids: Tensor | None, modality_ids: Tensor, cache: Any
    ) -> Tensor | None:
        """The evidence mask that one forward gives to its sparse layers.

        Args:
            given: Mask of the caller, ``(batch, seq)``, or None.
            input_ids: Tokens, ``(batch, seq)``, or None if embeddings are given.
            modality_ids: The modality of each position, -1 on padding.
            cache: Key-value cache, or None.

        Returns:
            ``(batch, seq)``, false on padding. None: all tokens of this call were generated, so none of them is
            evidence. This is assumed if no mask is given and the cache holds tokens.

        Raises:
            ValueError: the given mask has another shape than the positions.
        """
        if given is None:
            return None if has_begun(cache) else self.derive(input_ids, modality_ids)
        if given.shape != modality_ids.shape:
            raise ValueError(
                f"evidence_mask has shape {tuple(given.shape)}, the tokens {tuple(modality_ids.shape)}; "
                "give one entry for each token, or leave the mask out"
            )
        return given.bool() & (modality_ids >= int(Modality.TEXT))

    def mask_of_prompt(
        self, given: Tensor | None, input_ids: Tensor, modality_ids: Tensor, kwargs: Mapping[str, Any]
    ) -> Tensor:
        """The evidence mask of the whole prompt, made once for all steps of ``generate``.

        Args:
            given: Mask of the caller over the whole prompt, or over the tokens that the cache does not hold yet.
            input_ids: The prompt, ``(batch, seq)``. With a cache, it is the whole prompt or only its new tokens.
            modality_ids: The modality of each token in `input_ids`.
            kwargs: The other keywords of ``generate`` (attention mask, cache).

        Returns:
            ``(batch, total)``. If the mask is for new tokens alone, the tokens in the cache get false.

        Raises:
            ValueError: the length of the given mask is neither that of the prompt nor that of the new tokens.
        """
        seq, attention = input_ids.shape[1], kwargs.get("attention_mask")
        total = attention.shape[1] if attention is not None and attention.ndim == 2 else seq
        new = total - cached_length(cache_of(kwargs))
        mask = self.derive(input_ids, modality_ids) if given is None else given.bool()
        if mask.shape[0] != input_ids.shape[0] or mask.shape[1] not in (total, seq, new):
            raise ValueError(
                f"evidence_mask has shape {tuple(mask.shape)}, but {input_ids.shape[0]} prompts have {total} tokens, "
                f"{new} of them not yet in the cache; give one entry for each, or for each new one"
            )
        return torch.nn.functional.pad(mask, (total - mask.shape[1], 0))


def mask_of_step(prompt: Tensor | None, inputs: Mapping[str, Any], first: bool) -> Tensor | None:
    """The part of :meth:`EvidenceRule.mask_of_prompt` that one step of ``generate`` passes on.

    Args:
        prompt: The mask of the prompt, or None.
        inputs: What Hugging Face is about to pass to the model in this step.
        first: Whether this is the prefill (or a chunk of it).

    Returns:
        ``(batch, seq)``, false on what was generated; None in a decode step with a cache.
    """
    cache = cache_of(inputs)
    if prompt is None or (cache is not None and not first):
        return None
    tokens = inputs.get("input_ids")
    seq = (tokens if tokens is not None else inputs["inputs_embeds"]).shape[1]
    start = cached_length(cache)
    mask = prompt[:, start : start + seq]
    return torch.nn.functional.pad(mask, (0, seq - mask.shape[1]))


@functools.cache
def _say_derived() -> None:
    logger.warning(
        "no evidence_mask was given; it is derived from the tokens, and then earlier answers count as evidence, as "
        "questions do. Encode conversations with moiety.vlm.data.Encoder, or pass evidence_mask (batch, seq)"
    )
