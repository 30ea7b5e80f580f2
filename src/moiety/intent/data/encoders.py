"""Text encoders and other frozen models: hashing, which needs no model, and Hugging Face ids or folders."""

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
"""Errors of a model that is absent, damaged, or of another kind. tokenizers raises bare ``Exception``."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, for a message of one line; the name of its class where it has no text.

    Example:
        >>> first_line(OSError("no such model\\nsee the log")), first_line(ValueError())
        ('no such model', 'ValueError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@functools.lru_cache(maxsize=3)
def frozen_model(name: str) -> tuple[Any, frozenset[str]]:
    """The model of a Hugging Face id or folder, frozen, float32. The last three stay in memory.

    Returns:
        The model, and the names of weights that its file lacks, which are random.

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
    """Tokenizer and frozen text encoder of a Hugging Face id or folder. The last two stay in memory.

    Returns:
        Tokenizer, model, and the names of weights that its file lacks; these belong to a pooler that is not used.

    Raises:
        ValueError: there is no such encoder, or its file lacks weights that are used.
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
        raise ValueError(
            f"text encoder {name!r} lacks {len(random)} weights ({random[0]}), which would be random; "
            "give a model with all weights"
        )
    return tokenizer, model, missing


class TextEncoder:
    """A frozen text encoder: a text becomes frames, one for each word piece, or one vector; float32.

    Args:
        name: Hugging Face id or folder of an encoder.
        batch_size: Number of texts in one forward.
        max_pieces: Longer texts are cut after so many word pieces.
        device: Where the model runs.

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
        """The last hidden states of each text, ``(pieces, dim)``, with its first and last mark."""
        return [
            state[mask].numpy()
            for states, masks in self._states(texts)
            for state, mask in zip(states, masks, strict=True)
        ]

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """The mean over the word pieces of each text, ``(texts, dim)``."""
        means = []
        for states, masks in self._states(texts):
            weight = masks.unsqueeze(-1).float()
            means.append((states * weight).sum(1) / weight.sum(1))
        return torch.cat(means)


def hashed_vectors(texts: Sequence[str]) -> np.ndarray:
    """Character 1- to 3-grams, hashed into 2,048 signed columns, ``(texts, 2048)``; each row has length 1.

    This needs no model and works for every language.
    """
    hasher = HashingVectorizer(n_features=HASHING_DIM, analyzer="char", ngram_range=(1, 3), lowercase=True, norm="l2")
    return hasher.transform(texts).toarray().astype(np.float32)


def encode_texts(texts: Sequence[str], encoder: str) -> Tensor:
    """One vector for each text, ``(texts, dim)`` float32.

    Args:
        texts: Texts.
        encoder: ``hashing``, or a Hugging Face id or folder, whose last hidden states are averaged over the text.
    """
    if encoder == HASHING:
        return torch.from_numpy(hashed_vectors(texts))
    return TextEncoder(encoder).vectors(texts)
