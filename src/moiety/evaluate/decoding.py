"""Runs the decoding methods inside ``generate``: prepares the batch, and changes the scores of each step.

CAD and VCD need a second forward, which runs in the same batch: the second half of the batch holds a rival of every
row. A rival is the same question without its evidence, or with a noised picture. ``generate`` keeps cache, positions
and stopping; both halves continue with the same token. DoLa needs no second forward, it reads the hidden states of the
only one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from moiety.evaluate.contrast import context_aware, contrast_layers, diffusion_noise, early_layers, visual_contrastive
from moiety.recipe.evaluate import DecodingSettings
from moiety.vlm.contracts import PICTURES
from moiety.vlm.data import Collator, Encoder
from moiety.vlm.decoders import decoder_layers, on_layer_input, output_layer
from moiety.vlm.images import Pictures
from moiety.vlm.model import settings_of
from moiety.vlm.rows import IMAGE_MARK, Row, Turn

HAS_RIVAL = ("context_aware", "visual_contrastive")
CONTEXT = "context"


def encoder_of_prompts(processor: Any, images: Pictures) -> Encoder:
    """What encodes prompts of any length."""
    return Encoder(processor, images, max_length=0)


def collator_of_prompts(encoder: Encoder) -> Collator:
    """What joins prompts into one batch, padded on the left."""
    return Collator(encoder.pad_token_id, padding_side="left")


def decoding_prompts(
    rows: Sequence[Row],
    encoder: Encoder,
    settings: DecodingSettings,
    blank_image: bool = False,
) -> list[dict[str, Tensor]]:
    """Prompts without padding. If the method needs a second forward, the rivals of all rows follow the rows.

    Raises:
        FileNotFoundError: a picture is missing.
        ValueError: see :meth:`moiety.vlm.data.Encoder.encode_prompt` and :func:`without_evidence`.
    """
    asked = [encoder.encode_prompt(row, blank_image) for row in rows]
    if settings.method == "context_aware":
        asked += [encoder.encode_prompt(without_evidence(row), blank_image) for row in rows]
    if settings.method == "visual_contrastive":
        asked += [with_noise(prompt, settings.noise_step) for prompt in asked]
    return asked


def without_evidence(row: Row) -> Row:
    """The same question without its pictures and without the passage in the row's field ``context``.

    Raises:
        ValueError: no turn of the user holds that passage.
    """
    passage = row.extra.get(CONTEXT) or ""
    if passage and not any(turn.role == "user" and passage in turn.text for turn in row.turns):
        raise ValueError(f"{row.place}: no turn of the user holds its {CONTEXT!r} {passage!r:.60}; quote it literally")

    def stripped(turn: Turn) -> Turn:
        if turn.role != "user":
            return turn
        text = turn.text.replace(IMAGE_MARK, "")
        return replace(turn, text=(text.replace(passage, "") if passage else text).strip())

    return replace(row, turns=tuple(map(stripped, row.turns)), images=())


def with_noise(prompt: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
    """The same prompt with noised pictures. A picture has the same noise in every batch."""
    noised = dict(prompt)
    for name in PICTURES:
        if name in prompt:
            pixels = prompt[name]
            seed = zlib.crc32(pixels.float().numpy().tobytes())
            noised[name] = diffusion_noise(pixels, step, torch.Generator().manual_seed(seed))
    return noised


def keywords_of_generate(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a batch of prompts that this model's `generate` accepts, on the model's device.

    Modality ids are left out: dense models do not know them, and sparse models find them by the same rule. The evidence
    mask is kept only for models that read evidence.
    """
    settings = settings_of(model)
    reads = settings is not None and settings.asymoe is not None and settings.asymoe.needs_context
    dropped = {"modality_ids"} if reads else {"modality_ids", "evidence_mask"}
    return {name: value.to(model.device) for name, value in batch.items() if name not in dropped}


@contextmanager
def decoding_with(model: Any, settings: DecodingSettings) -> Iterator[list[LogitsProcessor]]:
    """Context whose value is the ``logits_processor`` for ``generate``; an empty one for greedy decoding."""
    if settings.method == "greedy":
        yield []
    elif settings.method == "dola":
        layers = DeepMinusEarly(model, settings)
        try:
            yield [layers]
        finally:
            layers.close()
    else:
        yield [RowMinusRival(settings)]


class RowMinusRival(LogitsProcessor):
    """Contrast the scores of the first half of a batch with those of the second. Both halves get the result.

    Args:
        settings: Method ``context_aware`` or ``visual_contrastive``, its weight and its cut.
    """

    def __init__(self, settings: DecodingSettings) -> None:
        self.settings = settings

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores ``(2 * rows, vocab)`` of one step -> the same shape."""
        logits, rival = scores.chunk(2)
        weight = self.settings.contrast_weight
        if self.settings.method == "context_aware":
            moved = context_aware(logits, rival, weight)
        else:
            moved = visual_contrastive(logits, rival, weight, self.settings.cut)
        return torch.cat([moved, moved])


class DeepMinusEarly(LogitsProcessor):
    """DoLa: contrast the last layer's scores with those of an early layer, read by the output layer without final norm.

    Hooks on the decoder keep the last position of the early layers' inputs. :meth:`close` removes the hooks.

    Args:
        model: A vision-language model.
        settings: Which layers, divergence and cut.
    """

    def __init__(self, model: Any, settings: DecodingSettings) -> None:
        stack = decoder_layers(model)
        self.settings, self.head = settings, output_layer(model)
        self.layers = early_layers(len(stack), settings.layers)
        self.states: dict[int, Tensor] = {}
        self._hooks = [on_layer_input(stack[layer], self._keep(layer)) for layer in self.layers]

    def close(self) -> None:
        """Remove the hooks from the model."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, layer: int) -> Any:
        def keep(hidden_states: Tensor) -> None:
            self.states[layer] = hidden_states[:, -1]

        return keep

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores ``(batch, vocab)`` of one step -> the same shape."""
        early = torch.stack([self.head(self.states[layer]) for layer in self.layers])  # (layers, batch, vocab)
        return contrast_layers(scores, early.to(scores.device), self.settings.cut, self.settings.divergence)
