"""What a sample is, an utterance as arrays, and what a batch is, samples side by side with masks.

A sample holds up to three modalities, each as frames ``(frames, dim)``; any of them may be absent. Each batch is padded
to its longest sample, not to a fixed maximum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from moiety.groups import nearest_name

MODALITIES: tuple[str, ...] = ("text", "video", "audio")
"""Modalities of the intent wing, in the order in which they are always concatenated."""


def fingerprint_of(settings: Mapping[str, Any]) -> str:
    """Settings as one line of JSON, names in alphabetical order.

    Example:
        >>> fingerprint_of({"rate": 16000, "extractor": "prosody"})
        '{"extractor":"prosody","rate":16000}'
    """
    return json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def check_hidden(hide: Sequence[str]) -> None:
    """Refuse names that are no modality, before anything is read.

    Raises:
        ValueError: a name is unknown.
    """
    for name in hide:
        if name not in MODALITIES:
            raise ValueError(f"cannot hide {name!r}; {nearest_name(name, MODALITIES)}")


class SampleError(ValueError):
    """A sample cannot be used; the text names its key."""


@dataclass(frozen=True, eq=False)
class IntentSample:
    """One utterance.

    Args:
        key: Name of the sample in every message.
        text: What was said; None or blank: not known.
        text_features: Frames of the text, ``(frames, dim)``; None: they are made from `text` if there is any.
        video: Frames of the video, ``(frames, dim)``; None: absent.
        audio: Frames of the audio, ``(frames, dim)``; None: absent.
        text_marks: Whether the first and the last text frame are marks of a text encoder ([CLS], [SEP]). Marks never
            become anchors.
        times: Modality -> second of each frame, ``(frames,)``, where it is known.
        extractors: Modality -> fingerprint of the extractor that made its frames from a clip. A modality that is not
            named has frames that the user made.
    """

    key: str
    text: str | None = None
    text_features: np.ndarray | None = None
    video: np.ndarray | None = None
    audio: np.ndarray | None = None
    text_marks: bool = False
    times: Mapping[str, np.ndarray] = field(default_factory=dict)
    extractors: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Any, number: int = 0) -> IntentSample:
        """`given` itself if it is a sample, or a sample with the fields of a mapping.

        Args:
            given: A sample, or a mapping from names of fields to values.
            number: Place in its list, from 0; it makes the key where the mapping has none.

        Raises:
            TypeError: `given` is neither, or a name in it is no field.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise TypeError(
                f"sample {number} is {type(given).__name__}; give an IntentSample or a mapping of its fields"
            )
        known = cls.__dataclass_fields__
        unknown = [name for name in given if name not in known]
        if unknown:
            raise TypeError(f"sample {number} has unknown fields {unknown}; known: {', '.join(known)}")
        return cls(**{"key": f"row {number}", **given})

    def frames(self, modality: str) -> np.ndarray | None:
        """The frames of one modality, checked, ``(frames, dim)`` float32; None where the modality is absent.

        Raises:
            SampleError: the frames are not a matrix of finite numbers.
        """
        value = self.text_features if modality == "text" else getattr(self, modality)
        if value is None:
            return None
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise SampleError(f"{self.key}: {modality} is no array ({error}); expected (frames, dim)") from error
        if array.dtype.kind not in "biuf":
            raise SampleError(f"{self.key}: {modality} holds {array.dtype}, expected numbers of shape (frames, dim)")
        if array.ndim != 2:
            raise SampleError(f"{self.key}: {modality} has shape {array.shape}, expected (frames, dim)")
        if not len(array):
            return None
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            rows = np.flatnonzero(~np.isfinite(array).all(1))
            raise SampleError(
                f"{self.key}: {modality} is not finite in {len(rows)} of {len(array)} frames, first {rows[0]}"
            )
        return array


def has_input(sample: IntentSample, modalities: Sequence[str] | None = None) -> bool:
    """Whether a sample has at least one of these modalities; None: of all modalities."""
    names = MODALITIES if modalities is None else modalities
    with_text = "text" in names and bool((sample.text or "").strip())
    return with_text or any(sample.frames(name) is not None for name in names)


def samples_of(X: Sequence[Any]) -> list[IntentSample]:
    """Samples, from samples or from mappings of their fields.

    Raises:
        TypeError: an entry is neither; see :meth:`IntentSample.of`.
    """
    return [IntentSample.of(given, number) for number, given in enumerate(X)]


def labels_of(y: Any, rows: int) -> np.ndarray:
    """The labels of as many samples, ``(samples,)``: all of them strings, or all of them integers.

    Raises:
        ValueError: there is not one label for each sample, or the labels are neither.
    """
    if y is None or len(y) != rows:
        raise ValueError(f"{rows} samples, but {0 if y is None else len(y)} labels; give one label for each sample")
    labels = np.asarray(y, dtype=object)
    if rows and all(isinstance(label, Integral) and not isinstance(label, bool) for label in labels):
        return labels.astype(np.int64)
    wrong = [label for label in labels if not isinstance(label, str)]
    if wrong:
        raise ValueError(
            f"labels are strings, or integers in all rows, got {type(wrong[0]).__name__} {wrong[0]!r}; write all of "
            "them as strings"
        )
    return labels


def check_oos_label(oos_label: str | None, labels: np.ndarray) -> None:
    """Refuse labels among which the out-of-scope label cannot be.

    Raises:
        ValueError: there is an out-of-scope label, a string, and the labels are integers.
    """
    if oos_label and labels.dtype != object:
        raise ValueError(
            f"oos_label is the string {oos_label!r}, and the labels are integers such as {labels[0]}, so no row can be "
            "out of scope; give strings, or oos_label=None (cross_val_predict with method predict_proba turns labels "
            "into integers)"
        )


def in_scope(
    samples: Sequence[IntentSample], labels: np.ndarray, oos_label: str | None
) -> tuple[list[IntentSample], np.ndarray]:
    """The samples that belong to a class, and their labels."""
    kept = [i for i, label in enumerate(labels) if label != oos_label]
    return [samples[i] for i in kept], labels[kept]


@dataclass(frozen=True, eq=False)
class IntentBatch:
    """Samples side by side.

    Args:
        x: Modality -> frames, ``(samples, frames, dim)``, 0 where masked.
        frame_mask: Modality -> which frames are real, ``(samples, frames)``.
        anchor_mask: Modality -> which frames may become anchors, ``(samples, frames)``.
        text_marks: Samples whose first text frame is a mark that stands for the whole text, ``(samples,)``.
    """

    x: Mapping[str, Float[Tensor, "samples frames dim"]]
    frame_mask: Mapping[str, Bool[Tensor, "samples frames"]]
    anchor_mask: Mapping[str, Bool[Tensor, "samples frames"]]
    text_marks: Bool[Tensor, " samples"]

    def __len__(self) -> int:
        return len(self.text_marks)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of this batch, in the order of :data:`MODALITIES`."""
        return tuple(name for name in MODALITIES if name in self.x)

    def present(self, modality: str) -> Bool[Tensor, " samples"]:
        """Which samples have this modality."""
        return self.frame_mask[modality].any(1)

    def hiding(self, dropped: Mapping[str, Bool[Tensor, " samples"]]) -> IntentBatch:
        """The batch with modalities of some samples hidden: their frames become 0 and are masked.

        Args:
            dropped: Modality -> the samples that lose it, ``(samples,)``.
        """
        frame_mask, anchor_mask = dict(self.frame_mask), dict(self.anchor_mask)
        for name, gone in dropped.items():
            if name in frame_mask:
                frame_mask[name] = frame_mask[name] & ~gone[:, None]
                anchor_mask[name] = anchor_mask[name] & ~gone[:, None]
        return IntentBatch(self.x, frame_mask, anchor_mask, self.text_marks).cleaned()

    def cleaned(self) -> IntentBatch:
        """The batch with 0 in every masked frame, so that nothing there, not even NaN, can reach a result."""
        x = {name: value.masked_fill(~self.frame_mask[name].unsqueeze(-1), 0) for name, value in self.x.items()}
        return IntentBatch(x, self.frame_mask, self.anchor_mask, self.text_marks)

    def to(self, device: torch.device | str) -> IntentBatch:
        """The batch on another device."""
        x, frames, anchors = (
            {name: value.to(device) for name, value in part.items()}
            for part in (self.x, self.frame_mask, self.anchor_mask)
        )
        return IntentBatch(x, frames, anchors, self.text_marks.to(device))


def make_batch(
    samples: Sequence[IntentSample],
    dims: Mapping[str, int],
    *,
    hide: Sequence[str] = (),
    max_frames: Mapping[str, int] | None = None,
) -> IntentBatch:
    """A batch of samples, padded to the longest of them.

    Args:
        samples: At least one sample.
        dims: Modality -> width of its frames; other modalities are left out.
        hide: Modalities hidden in every sample.
        max_frames: Modality -> number of frames that are kept of a longer sample, from its start.

    Raises:
        SampleError: a sample has no modality left, or its frames have another width.
    """
    x, frame_mask, anchor_mask = {}, {}, {}
    found = [[None if name in hide else sample.frames(name) for name in dims] for sample in samples]
    for sample, arrays in zip(samples, found, strict=True):
        if all(array is None for array in arrays):
            left_out = f" once {', '.join(hide)} is hidden" if hide else ""
            raise SampleError(f"{sample.key}: none of {', '.join(dims)} is present{left_out}; leave the sample out")
    for place, (name, dim) in enumerate(dims.items()):
        limit = (max_frames or {}).get(name)
        arrays = [None if (array := row[place]) is None else array[:limit] for row in found]
        longest = max(1, *(0 if array is None else len(array) for array in arrays))
        values = torch.zeros(len(samples), longest, dim)
        mask = torch.zeros(len(samples), longest, dtype=torch.bool)
        marks = torch.zeros_like(mask)
        for row, (sample, array) in enumerate(zip(samples, arrays, strict=True)):
            if array is None:
                continue
            if array.shape[1] != dim:
                raise SampleError(f"{sample.key}: {name} frames are {array.shape[1]} wide, the model takes {dim}")
            values[row, : len(array)] = torch.from_numpy(np.ascontiguousarray(array))
            mask[row, : len(array)] = True
            if name == "text" and sample.text_marks:
                marks[row, [0, len(array) - 1]] = True
        x[name], frame_mask[name], anchor_mask[name] = values, mask, mask & ~marks
    return IntentBatch(x, frame_mask, anchor_mask, torch.tensor([sample.text_marks for sample in samples]))
