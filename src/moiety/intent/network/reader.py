"""A text encoder that learns with the rest of the network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from moiety.intent.data.encoders import encoder_of
from moiety.intent.data.samples import IntentBatch

MAX_PIECES = 64
"""Longer texts are cut after so many word pieces."""


def piece_frames(tokenizer: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """The word pieces of each text as frames of one number (the id), ``(pieces, 1)`` float32, with the marks."""
    ids = tokenizer(list(texts), truncation=True, max_length=_longest(tokenizer))["input_ids"]
    return [np.asarray(row, dtype=np.float32)[:, None] for row in ids]


def _longest(tokenizer: Any) -> int:
    return int(min(MAX_PIECES, tokenizer.model_max_length))


class TextReader(nn.Module):
    """Turns word pieces of the text into states of an encoder, with gradient, before the method reads them.

    Args:
        model: Hugging Face encoder that gives ``last_hidden_state``.
        tokenizer: The tokenizer of the encoder.
    """

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        if getattr(model, "pooler", None) is not None:
            self.model.pooler = None  # only the states are used, never the pooled vector

    @classmethod
    def pretrained(cls, name: str) -> TextReader:
        """A copy of a pretrained encoder that may learn.

        Raises:
            ValueError: there is no such encoder.
        """
        tokenizer, model, _ = encoder_of(name)
        return cls(copy.deepcopy(model).requires_grad_(True), tokenizer)

    @classmethod
    def stored(cls, folder: str | Path) -> TextReader:
        """The encoder that :meth:`save` wrote, with random weights; those of the network are loaded afterwards."""
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_config(config, trust_remote_code=False)
        return cls(model.float(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False))

    def save(self, folder: Path) -> None:
        """Write configuration and tokenizer; the weights are saved with the network."""
        self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @property
    def dim(self) -> int:
        """Width of the states."""
        return int(self.model.config.hidden_size)

    def forward(self, batch: IntentBatch) -> IntentBatch:
        """The batch with states instead of word pieces.

        Args:
            batch: Its ``x["text"]`` holds ids of word pieces, ``(samples, pieces, 1)``, 0 where masked.

        Returns:
            The batch with ``x["text"]`` of ``(samples, pieces, dim)``, 0 where masked.
        """
        ids, mask = batch.x["text"].squeeze(-1).long(), batch.frame_mask["text"]
        states = batch.x["text"].new_zeros(*ids.shape, self.dim)
        rows = mask.any(1).nonzero().flatten()
        if len(rows):
            found = self.model(input_ids=ids[rows], attention_mask=mask[rows].long()).last_hidden_state
            states = states.index_copy(0, rows, found.to(states.dtype))
        return replace(batch, x={**batch.x, "text": states.masked_fill(~mask.unsqueeze(-1), 0)})

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """The mean state of each text, ``(texts, dim)``, in evaluation mode and without gradient."""
        learns = self.training
        self.eval()
        device = next(self.parameters()).device
        given = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=_longest(self.tokenizer), return_tensors="pt"
        ).to(device)
        states = self.model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
        weight = given["attention_mask"].unsqueeze(-1).to(states.dtype)
        self.train(learns)
        return ((states * weight).sum(1) / weight.sum(1)).float()
