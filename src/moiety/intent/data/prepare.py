"""From given samples to what a network takes: text to vectors, hand-made features to z-scores, fixed widths."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from moiety.groups import nearest_name
from moiety.intent.data.encoders import HASHING, encode_texts
from moiety.intent.data.frame_origin import USER, check_origins, is_pretrained, origin_of
from moiety.intent.data.samples import MODALITIES, IntentBatch, IntentSample, SampleError, make_batch
from moiety.intent.settings import IntentSettings

logger = logging.getLogger(__name__)

CLIP = 10.0
"""Standardised features are cut at this many deviations."""


@dataclass(frozen=True, eq=False)
class Preparation:
    """What was learned from the training rows about their features.

    Args:
        dims: Modality -> width of its frames.
        mean: Modality -> mean of its real training frames, ``(dim,)``; absent: left as it is.
        deviation: Modality -> standard deviation, likewise.
        max_frames: Modality -> frames kept.
        text_encoder: Makes text frames where a sample has text alone.
        extractors: Modality -> fingerprint of what made its training frames of clips; not named: the user did.
        tokenizer: Of a text encoder that learns: text goes on as word pieces. None: as frames.
    """

    dims: Mapping[str, int]
    mean: Mapping[str, np.ndarray]
    deviation: Mapping[str, np.ndarray]
    max_frames: Mapping[str, int]
    text_encoder: str
    extractors: Mapping[str, str] = field(default_factory=dict)
    tokenizer: Any = None

    @classmethod
    def fit(cls, samples: Sequence[IntentSample], settings: IntentSettings, tokenizer: Any = None) -> Preparation:
        """Widths, and mean and deviation of hand-made features.

        Args:
            samples: Training rows.
            settings: Which modalities, which encoder, what is standardised.
            tokenizer: Of a text encoder that learns.

        Raises:
            ValueError: a modality that is asked for is in no sample, or an unknown one is asked for.
            SampleError: a sample's features cannot be used, or frames of one modality were made in different ways.
        """
        wanted = settings.modalities or MODALITIES
        for name in wanted:
            if name not in MODALITIES:
                raise ValueError(f"unknown modality {name!r}; {nearest_name(name, MODALITIES)}")
        encoded = _with_text(samples, settings.text_encoder, tokenizer)
        if "text" in wanted and settings.text_encoder == HASHING and _bare(samples):
            _tell_that_hashing_is_weak()
        dims, mean, deviation, origins = {}, {}, {}, {}
        for name in MODALITIES:
            arrays = (
                [array for sample in encoded if (array := sample.frames(name)) is not None] if name in wanted else []
            )
            if not arrays:
                if settings.modalities and name in wanted:
                    raise ValueError(f"modality {name!r} is asked for, but no training sample has it")
                continue
            dims[name] = arrays[0].shape[1]
            origins[name] = next(origin for sample in samples if (origin := origin_of(name, sample)) is not None)
            if _is_hand_made(name, samples, settings) and not (name == "text" and tokenizer is not None):
                frames = np.concatenate([array for array in arrays if array.shape[1] == dims[name]]).astype(np.float64)
                mean[name] = frames.mean(0).astype(np.float32)
                deviation[name] = (frames.std(0) + 1e-6).astype(np.float32)
        check_origins(samples, origins)
        extractors = {name: origin for name, origin in origins.items() if origin != USER}
        if tokenizer is not None and "text" not in dims:
            raise ValueError("train_text_encoder is set, but no training sample has text that is used")
        limits = dict(settings.max_frames or {})
        return cls(dims, mean, deviation, limits, settings.text_encoder, extractors, tokenizer)

    def transform(self, samples: Sequence[IntentSample]) -> list[IntentSample]:
        """Samples as the network takes them.

        Raises:
            SampleError: a sample has frames of another extractor or width, or none of the known modalities.
        """
        check_origins(samples, {name: self.extractors.get(name, USER) for name in self.dims})
        found = []
        for sample in _with_text(samples, self.text_encoder, self.tokenizer) if "text" in self.dims else samples:
            arrays = {name: self._standardized(name, sample) for name in self.dims}
            if all(array is None for array in arrays.values()):
                raise SampleError(f"{sample.key}: none of {', '.join(self.dims)} is present; leave the sample out")
            found.append(
                replace(sample, text_features=arrays.get("text"), video=arrays.get("video"), audio=arrays.get("audio"))
            )
        return found

    def _standardized(self, name: str, sample: IntentSample) -> np.ndarray | None:
        array = sample.frames(name)
        if array is None:
            return None
        if array.shape[1] != self.dims[name]:
            raise SampleError(
                f"{sample.key}: {name} frames are {array.shape[1]} wide, the model takes {self.dims[name]}"
            )
        if name not in self.mean:
            return array
        return np.clip((array - self.mean[name]) / self.deviation[name], -CLIP, CLIP)

    def batch(self, samples: Sequence[IntentSample], hide: Sequence[str] = ()) -> IntentBatch:
        """Pad samples that went through :meth:`transform`."""
        return make_batch(samples, self.dims, hide=hide, max_frames=self.max_frames)


def _with_text(samples: Sequence[IntentSample], encoder: str, tokenizer: Any = None) -> list[IntentSample]:
    """Samples whose text has frames, or word pieces where a tokenizer is given; blank text stays absent."""
    bare, found = _bare(samples), list(samples)
    with_frames = [sample.key for sample in samples if sample.text_features is not None]
    if tokenizer is not None and with_frames:
        raise SampleError(
            f"{len(with_frames)} samples bring text frames ({', '.join(with_frames[:5])}), "
            "but train_text_encoder reads words; leave text_features out, or train_text_encoder"
        )
    if not bare:
        return found
    texts = [str(samples[i].text) for i in bare]
    if tokenizer is not None:
        from moiety.intent.network.reader import piece_frames

        for i, frames in zip(bare, piece_frames(tokenizer, texts), strict=True):
            found[i] = replace(samples[i], text_features=frames, text_marks=True)
        return found
    if encoder == HASHING:
        for i, vector in zip(bare, encode_texts(texts, HASHING).numpy(), strict=True):
            found[i] = replace(samples[i], text_features=vector[None])
        return found
    from moiety.intent.data.encoders import TextEncoder

    for i, frames in zip(bare, TextEncoder(encoder).frames(texts), strict=True):
        found[i] = replace(samples[i], text_features=frames, text_marks=True)
    return found


def _bare(samples: Sequence[IntentSample]) -> list[int]:
    """Which samples bring words and no frames of them."""
    return [i for i, sample in enumerate(samples) if sample.text_features is None and (sample.text or "").strip()]


@functools.cache
def _tell_that_hashing_is_weak() -> None:
    """Once in a process: whoever takes the default should know what it costs."""
    logger.warning(
        "words are read by text_encoder='hashing' (groups of letters): it needs no model, and is weak; where words "
        "matter, name a Hugging Face id or folder of a text encoder, such as text_encoder='bert-base-uncased' with "
        "train_text_encoder=True"
    )


def _is_hand_made(name: str, samples: Sequence[IntentSample], settings: IntentSettings) -> bool:
    """Whether z-scores are due: always or never as asked; by itself for all but the output of pretrained encoders."""
    if settings.standardize != "auto":
        return settings.standardize == "always"
    if name != "text":
        return not any(is_pretrained(origin_of(name, sample) or USER) for sample in samples)
    return any(sample.text_features is not None and not sample.text_marks for sample in samples)
