"""Frozen Hugging Face encoders as extractors: wav2vec2, Whisper and kin hear, vision towers see, text encoders read.

A model is identified by the hash of its weights, not by its name, because the name may stand for other weights later.
Weights that its file lacks would be random, so the model is refused if its frames depend on them.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from moiety.intent.clips.extractor import VERSION, Extractor, Features, checked, pictures_of
from moiety.intent.clips.media import decode_audio
from moiety.intent.data.encoders import LOADING_ERRORS, TextEncoder, first_line, frozen_model
from moiety.intent.data.rows import ClipRow
from moiety.intent.data.samples import fingerprint_of
from moiety.recipe.section import Section

MIN_SOUND_S = 0.1
"""Shorter sound is padded with silence, because the convolutions need a minimum length."""
_FOUND = ("revision", "weights_sha256", "preprocessing")
"""Settings that identify the model that was found; if they are given, they must agree with it."""


class SoundSettings(Section):
    """Options of :class:`PretrainedSound`, whose frames are ``(frames, hidden)``, about 50 a second."""

    layer: int | None = Field(
        None, ge=0, description="which hidden state is taken, 0 before the first block; null: the output"
    )
    max_frames: int = Field(480, ge=1, description="longer sound is cut at the end")


class PictureSettings(Section):
    """Options of :class:`PretrainedPictures`, whose frames are ``(frames, hidden)``, one for each picture."""

    fps: float = Field(10.0, gt=0, le=240, description="largest number of pictures a second")
    max_frames: int = Field(230, ge=1, description="later pictures are left out")
    max_side: int = Field(640, ge=16, description="pictures shrink to this longest side as they are decoded")
    pooling: Literal["auto", "pooled", "mean", "cls"] = Field(
        "auto",
        description="how a picture becomes one vector; auto: the pooled output if its weights are there, else the mean",
    )


class WordSettings(Section):
    """Options of :class:`PretrainedWords`, whose frames are ``(pieces, hidden)``, with the marks."""

    max_pieces: int = Field(64, ge=2, description="longer texts are cut here")


class _Pretrained:
    """Base of the three kinds: a frozen model, and the settings that identify it."""

    modality: str

    def __init__(self, name: str, options: Any, model: Any, missing: frozenset[str], preprocessing: Mapping) -> None:
        self.name, self.options, self.model = name, options, model
        self.made = {
            "revision": getattr(model.config, "_commit_hash", None),
            "weights_sha256": _weights_hash(model, missing),
            "preprocessing": dict(preprocessing),
        }

    def settings(self) -> dict[str, Any]:
        """See :class:`Extractor`."""
        return {"extractor": self.name, "version": VERSION, **self.options.model_dump(), **self.made}

    @property
    def fingerprint(self) -> str:
        """See :class:`Extractor`."""
        return fingerprint_of(self.settings())


class PretrainedSound(_Pretrained):
    """Hidden states of a model of the wav2vec2 family (wav2vec2, HuBERT, WavLM): frames ``(frames, hidden)``."""

    modality = "audio"

    def __init__(self, name: str, options: SoundSettings, device: str) -> None:
        from transformers import AutoFeatureExtractor

        model, missing = frozen_model(name)
        is_wave = hasattr(model.config, "inputs_to_logits_ratio")
        _check_input(name, model, "input_values" if is_wave else "", "sound", "wav2vec2, HuBERT, WavLM or Whisper")
        _check_weights(name, missing - {"masked_spec_embed"})
        self.processor = _processor(AutoFeatureExtractor, name)
        _check_layer(name, options.layer, model.config.num_hidden_layers)
        super().__init__(name, options, model.to(device), missing, _plain(self.processor.to_dict()))
        self.rate = int(self.processor.sampling_rate)
        self.frame_s = model.config.inputs_to_logits_ratio / self.rate

    def source(self, row: ClipRow) -> Path | None:
        """See :class:`Extractor`."""
        return row.audio or row.clip

    @torch.no_grad()
    def extract(self, row: ClipRow) -> Features | None:
        """See :class:`Extractor`."""
        path, limit = self.source(row), self.options.max_frames
        # the window of a frame reaches a little beyond its stretch of time
        longest = (limit + 1) * self.frame_s + MIN_SOUND_S
        sound = path and decode_audio(path, rate=self.rate, start_s=row.start_s, end_s=row.end_s, max_s=longest)
        if not sound or sound.silence:
            return None
        given = self.processor(sound.samples, sampling_rate=self.rate, return_tensors="pt")["input_values"]
        # padded after the processor, so that mean and deviation, which it may normalise, are those of the sound alone
        given = F.pad(given, (0, max(0, int(MIN_SOUND_S * self.rate) - given.shape[1])))
        found = self.model(given.to(self.model.device), output_hidden_states=True)
        layer = self.options.layer
        states = found.last_hidden_state if layer is None else found.hidden_states[layer]
        frames = states[0, :limit].float().cpu().numpy()
        times = sound.start_s + (np.arange(len(frames)) + 0.5) * self.frame_s
        return frames, times.astype(np.float32)


class PretrainedSpeech(_Pretrained):
    """Hidden states of the encoder of Whisper: frames ``(frames, hidden)``, 50 a second.

    Whisper reads windows of 30 s, and shorter sound with silence behind it. The frames of that silence are dropped.
    """

    modality = "audio"

    def __init__(self, name: str, options: SoundSettings, device: str) -> None:
        from transformers import AutoFeatureExtractor

        whole, missing = frozen_model(name)
        _check_weights(name, frozenset(key for key in missing if key.startswith("encoder.")))
        self.processor = _processor(AutoFeatureExtractor, name)
        _check_layer(name, options.layer, whole.config.encoder_layers)
        longest = whole.config.max_source_positions
        if options.max_frames > longest:
            raise ValueError(
                f"extractor {name!r}: max_frames is {options.max_frames}, and Whisper hears at most {longest} frames; "
                "give fewer, or cut the clips with start_s and end_s"
            )
        encoder = whole.get_encoder().to(device)
        super().__init__(name, options, encoder, frozenset(), _plain(self.processor.to_dict()))
        self.rate = int(self.processor.sampling_rate)
        self.frame_s = self.processor.n_samples / self.rate / longest

    def source(self, row: ClipRow) -> Path | None:
        """See :class:`Extractor`."""
        return row.audio or row.clip

    @torch.no_grad()
    def extract(self, row: ClipRow) -> Features | None:
        """See :class:`Extractor`."""
        path, limit = self.source(row), self.options.max_frames
        longest = limit * self.frame_s
        sound = path and decode_audio(path, rate=self.rate, start_s=row.start_s, end_s=row.end_s, max_s=longest)
        if not sound or sound.silence:
            return None
        given = self.processor(sound.samples, sampling_rate=self.rate, return_tensors="pt")["input_features"]
        found = self.model(given.to(self.model.device), output_hidden_states=True)
        layer = self.options.layer
        states = found.last_hidden_state if layer is None else found.hidden_states[layer]
        heard = min(limit, math.ceil(len(sound.samples) / self.rate / self.frame_s))
        frames = states[0, :heard].float().cpu().numpy()
        times = sound.start_s + (np.arange(len(frames)) + 0.5) * self.frame_s
        return frames, times.astype(np.float32)


def _sound(name: str, options: SoundSettings, device: str) -> PretrainedSound | PretrainedSpeech:
    is_whisper = frozen_model(name)[0].config.model_type == "whisper"
    return (PretrainedSpeech if is_whisper else PretrainedSound)(name, options, device)


class PretrainedPictures(_Pretrained):
    """One vector for each picture from a vision tower (CLIP, SigLIP, ViT, Swin): frames ``(frames, hidden)``."""

    modality = "video"
    batch_size = 16

    def __init__(self, name: str, options: PictureSettings, device: str) -> None:
        from transformers import AutoImageProcessor

        whole, missing = frozen_model(name)
        inside = "vision_model." if hasattr(whole, "vision_model") else ""
        tower = whole.vision_model if inside else whole
        missing = frozenset(key.removeprefix(inside) for key in missing if key.startswith(inside))
        _check_input(name, tower, "pixel_values", "pictures", "CLIP, SigLIP, ViT or Swin")
        lost = {key for key in missing if "pool" in key or key.startswith("head.")}
        if options.pooling == "auto":
            options = options.model_copy(update={"pooling": "mean" if lost else "pooled"})
        _check_weights(name, missing - (frozenset() if options.pooling == "pooled" else lost))
        # the torchvision backend scales differently, and is not installed everywhere
        self.processor = _processor(AutoImageProcessor, name, backend="pil")
        super().__init__(name, options, tower.to(device), missing, _plain(self.processor.to_dict()))

    def source(self, row: ClipRow) -> Path | None:
        """See :class:`Extractor`."""
        return row.clip

    @torch.no_grad()
    def extract(self, row: ClipRow) -> Features | None:
        """See :class:`Extractor`."""
        frames = pictures_of(row, self.options)
        if frames is None:
            return None
        vectors = []
        for start in range(0, len(frames.images), self.batch_size):
            given = self.processor(images=frames.images[start : start + self.batch_size], return_tensors="pt")
            vectors.append(self._pooled(self.model(given["pixel_values"].to(self.model.device))))
        return torch.cat(vectors).float().cpu().numpy(), frames.times.astype(np.float32)

    def _pooled(self, found: Any) -> torch.Tensor:
        """``(images, hidden)``."""
        pooled = getattr(found, "pooler_output", None)
        if self.options.pooling == "pooled" and pooled is not None:
            return pooled.flatten(1)
        states = found.last_hidden_state
        # convolutional towers: (images, hidden, height, width) -> (images, patches, hidden)
        states = states.flatten(2).transpose(1, 2) if states.ndim == 4 else states
        return states[:, 0] if self.options.pooling == "cls" else states.mean(1)


class PretrainedWords(_Pretrained):
    """Last hidden states of the word pieces of a text, with the marks: frames ``(pieces, hidden)``."""

    modality = "text"

    def __init__(self, name: str, options: WordSettings, device: str) -> None:
        self.encoder = TextEncoder(name, max_pieces=options.max_pieces, device=device)
        super().__init__(name, options, self.encoder.model, self.encoder.missing, {})

    def source(self, row: ClipRow) -> str | None:
        """See :class:`Extractor`."""
        return row.text

    def extract(self, row: ClipRow) -> Features | None:
        """See :class:`Extractor`."""
        return None if row.text is None else (self.encoder.frames([row.text])[0], np.zeros(0, np.float32))


_KINDS: Mapping[str, tuple[type[Section], Any]] = {
    "text": (WordSettings, PretrainedWords),
    "video": (PictureSettings, PretrainedPictures),
    "audio": (SoundSettings, _sound),
}


def pretrained_extractor(modality: str, name: str, given: Mapping[str, Any], *, device: str = "cpu") -> Extractor:
    """The extractor of a Hugging Face id or folder.

    Args:
        modality: ``text``, ``video`` or ``audio``.
        name: Id or folder.
        given: Options, and settings that identify the model.
        device: Where the model runs.

    Raises:
        ValueError: an option is unknown, the model cannot be loaded or takes another input, weights are missing, or
            the model is another one than the settings identify.
    """
    options, kind = _KINDS[modality]
    told = {key: given[key] for key in _FOUND if key in given}
    found = kind(name, checked(options, name, {key: given[key] for key in given if key not in _FOUND}), device)
    other = [key for key in told if key != "revision" and told[key] != found.made[key]]
    if other:
        raise ValueError(
            f"extractor {name!r} is not the one that was used before: {', '.join(other)} differ "
            f"(before: {told[other[0]]}; now: {found.made[other[0]]}); put the earlier model there, or fit again"
        )
    return found


def _processor(kind: Any, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **options)
    except LOADING_ERRORS as error:
        raise ValueError(
            f"extractor {name!r} has no {kind.__name__.removeprefix('Auto')} ({first_line(error)}); "
            "its preprocessor_config.json must lie beside the model"
        ) from error


def _check_input(name: str, model: Any, wanted: str, what: str, kinds: str) -> None:
    if model.main_input_name != wanted:
        raise ValueError(f"extractor {name!r} takes {model.main_input_name}, not {what}; give a model such as {kinds}")


def _check_layer(name: str, layer: int | None, layers: int) -> None:
    if layer is not None and layer > layers:
        raise ValueError(f"extractor {name!r}: layer {layer} does not exist, the model has {layers}")


def _check_weights(name: str, missing: frozenset[str] | set[str]) -> None:
    if missing:
        shown = ", ".join(sorted(missing)[:3])
        raise ValueError(
            f"extractor {name!r} lacks {len(missing)} weights ({shown}), which would be random; "
            "give a model with all weights"
        )


@functools.lru_cache(maxsize=8)
def _weights_hash(model: Any, missing: frozenset[str]) -> str:
    """Hash of all weights that the file holds, with their names and shapes."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        if key not in missing:
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(tree: Any) -> Any:
    """The settings as JSON would give them back, without paths and versions, so that stored and new ones are equal."""
    if isinstance(tree, Mapping):
        dropped = ("_name_or_path", "name_or_path", "transformers_version", "_processor_class", "processor_class")
        return {str(key): _plain(value) for key, value in tree.items() if key not in dropped}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    return tree if isinstance(tree, str | int | float | bool | None) else str(tree)
