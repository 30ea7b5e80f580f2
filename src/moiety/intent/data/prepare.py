"""Prepares samples for a network: text becomes frames, hand-made features become z-scores, widths are checked."""

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
"""Standardised features are clipped at this many standard deviations."""


@dataclass(frozen=True, eq=False)
class Preparation:
    """How samples are prepared, as learned from the training rows.

    Args:
        dims: Modality -> width of its frames.
        mean: Modality -> mean of its real training frames, ``(dim,)``. A modality without one is not standardised.
        deviation: Modality -> standard deviation, likewise.
        max_frames: Modality -> number of frames that are kept.
        text_encoder: Makes the text frames of samples that bring text and no text frames.
        extractors: Modality -> fingerprint of the extractor that made its training frames. A modality that is not
            named has frames that the user made.
        tokenizer: Tokenizer of a text encoder that learns, which turns text into word pieces. None: no encoder learns.
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
        """Learn widths, and mean and standard deviation of hand-made features.

        Args:
            samples: Training rows.
            settings: Which modalities are used, which encoder reads text, and what is standardised.
            tokenizer: Tokenizer of a text encoder that learns.

        Raises:
            ValueError: a modality that is asked for is unknown, or no sample has it.
            SampleError: features of a sample cannot be used, or frames of one modality were made in different ways.
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
                    raise ValueError(f"modality {name!r} is asked for, but no training sample has it; leave it out")
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
            raise ValueError("train_text_encoder is set, but no training sample has text; leave it out, or give text")
        limits = dict(settings.max_frames or {})
        return cls(dims, mean, deviation, limits, settings.text_encoder, extractors, tokenizer)

    def transform(self, samples: Sequence[IntentSample]) -> list[IntentSample]:
        """The samples as the network takes them.

        Raises:
            SampleError: a sample has frames of another extractor or of another width, or no modality that is known.
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
        """A batch of samples that :meth:`transform` made."""
        return make_batch(samples, self.dims, hide=hide, max_frames=self.max_frames)


def _with_text(samples: Sequence[IntentSample], encoder: str, tokenizer: Any = None) -> list[IntentSample]:
    """The samples with frames for their text; with a tokenizer these are word pieces. Blank text stays absent."""
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
    """Numbers of the samples that bring text and no text frames."""
    return [i for i, sample in enumerate(samples) if sample.text_features is None and (sample.text or "").strip()]


@functools.cache
def _tell_that_hashing_is_weak() -> None:
    """Warn once in each process: users of the default should know that it is weak."""
    logger.warning(
        "text is read by text_encoder='hashing' (groups of letters): it needs no model, and is weak. If words matter, "
        "name a Hugging Face id or folder of a text encoder, such as text_encoder='bert-base-uncased' with "
        "train_text_encoder=True"
    )


def _is_hand_made(name: str, samples: Sequence[IntentSample], settings: IntentSettings) -> bool:
    """Whether a modality is standardised: as ``standardize`` says; with auto, unless a model made its frames."""
    if settings.standardize != "auto":
        return settings.standardize == "always"
    if name != "text":
        return not any(is_pretrained(origin_of(name, sample) or USER) for sample in samples)
    return any(sample.text_features is not None and not sample.text_marks for sample in samples)
