"""Frozen Hugging Face encoders that make frames of what a sample holds raw."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@functools.lru_cache(maxsize=2)
def _loaded(name: str) -> tuple[Any, Any]:
    """Tokenizer and model of a Hugging Face id or folder, frozen; two are kept in memory."""
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name, use_safetensors=True)
    except (OSError, ValueError) as error:
        kind = "folder" if Path(name).is_dir() else "Hugging Face id"
        raise ValueError(
            f"no text encoder in the {kind} {name!r} ({str(error).splitlines()[0]}); give 'hashing', or a model with "
            "tokenizer and safetensors"
        ) from error
    return tokenizer, model.eval().requires_grad_(False)


class TextEncoder:
    """Word pieces of a text as frames, or the text as one vector; frozen, float32.

    Args:
        name: Hugging Face id or folder of an encoder.
        batch_size: Texts a forward.
        max_pieces: Longer texts are cut here.

    Raises:
        ValueError: there is no such encoder.
    """

    def __init__(self, name: str, batch_size: int = 64, max_pieces: int = 64) -> None:
        self.tokenizer, self.model = _loaded(name)
        self.batch_size, self.max_pieces = batch_size, max_pieces

    @torch.no_grad()
    def _states(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(texts), self.batch_size):
            part = list(texts[start : start + self.batch_size])
            given = self.tokenizer(part, padding=True, truncation=True, max_length=self.max_pieces, return_tensors="pt")
            yield self.model(**given).last_hidden_state.float(), given["attention_mask"].bool()

    def frames(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Last hidden states of each text, ``(pieces, dim)``, its first and last mark included."""
        return [
            state[mask].numpy()
            for states, masks in self._states(texts)
            for state, mask in zip(states, masks, strict=True)
        ]

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Mean over the pieces of each text, ``(texts, dim)``."""
        means = []
        for states, masks in self._states(texts):
            weight = masks.unsqueeze(-1).float()
            means.append((states * weight).sum(1) / weight.sum(1))
        return torch.cat(means)
