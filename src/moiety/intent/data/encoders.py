"""Frozen Hugging Face encoders that make frames of what a sample holds raw."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor

HASHING = "hashing"
HASHING_DIM = 2048
LOADING_ERRORS = (Exception,)
"""What transformers raises at a model that is absent, damaged, or of another kind; tokenizers raises nothing finer."""


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@functools.lru_cache(maxsize=3)
def frozen_model(name: str) -> tuple[Any, frozenset[str]]:
    """Model of a Hugging Face id or folder, frozen, float32; three are kept in memory.

    Returns:
        The model, and the names of weights that its file lacks: those are random.

    Raises:
        ValueError: there is no such model.
    """
    from transformers import AutoModel

    try:
        model, report = AutoModel.from_pretrained(
            name, use_safetensors=True, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except LOADING_ERRORS as error:
        raise ValueError(
            f"no model in the {_kind(name)} {name!r} ({first_line(error)}); give one with safetensors"
        ) from error
    return model.eval().requires_grad_(False), frozenset(report["missing_keys"])


def _kind(name: str) -> str:
    return "folder" if Path(name).is_dir() else "Hugging Face id"


@functools.lru_cache(maxsize=2)
def encoder_of(name: str) -> tuple[Any, Any, frozenset[str]]:
    """Tokenizer and frozen text encoder of a Hugging Face id or folder; two are kept in memory.

    Returns:
        Tokenizer, model, and the weights of an unused pooler that its file lacks.

    Raises:
        ValueError: there is no such encoder, or its file lacks weights that count.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, missing = frozen_model(name)
    except LOADING_ERRORS as error:
        raise ValueError(
            f"no text encoder in the {_kind(name)} {name!r} ({first_line(error)}); give 'hashing', or a model "
            "with tokenizer and safetensors"
        ) from error
    random = sorted(key for key in missing if not key.startswith("pooler."))
    if random:
        raise ValueError(f"text encoder {name!r} lacks {len(random)} weights ({random[0]}), which would be random")
    return tokenizer, model, missing


class TextEncoder:
    """Word pieces of a text as frames, or the text as one vector; frozen, float32.

    Args:
        name: Hugging Face id or folder of an encoder.
        batch_size: Texts a forward.
        max_pieces: Longer texts are cut here.
        device: Where it runs.

    Raises:
        ValueError: there is no such encoder.
    """

    def __init__(self, name: str, batch_size: int = 64, max_pieces: int = 64, device: str = "cpu") -> None:
        self.tokenizer, self.model, self.missing = encoder_of(name)
        self.model.to(device)
        self.batch_size, self.max_pieces = batch_size, max_pieces

    @torch.no_grad()
    def _states(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(texts), self.batch_size):
            part = list(texts[start : start + self.batch_size])
            given = self.tokenizer(part, padding=True, truncation=True, max_length=self.max_pieces, return_tensors="pt")
            given = given.to(self.model.device)
            yield self.model(**given).last_hidden_state.float().cpu(), given["attention_mask"].bool().cpu()

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


def hashed_vectors(texts: Sequence[str]) -> np.ndarray:
    """Character 1- to 3-grams hashed into 2,048 signed places, rows of length 1; needs no model, takes any language."""
    hasher = HashingVectorizer(n_features=HASHING_DIM, analyzer="char", ngram_range=(1, 3), lowercase=True, norm="l2")
    return hasher.transform(texts).toarray().astype(np.float32)


def encode_texts(texts: Sequence[str], encoder: str) -> Tensor:
    """One vector a text, ``(texts, dim)`` float32.

    Args:
        texts: What to encode.
        encoder: ``hashing``, or a Hugging Face id or folder: masked mean of the last hidden state, frozen.
    """
    if encoder == HASHING:
        return torch.from_numpy(hashed_vectors(texts))
    return TextEncoder(encoder).vectors(texts)
