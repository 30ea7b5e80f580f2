"""Extractors: what makes frames ``(frames, dim)`` of a clip, and how one is told from another.

Each has settings that decide its numbers, all of them. Written out in one fixed way they are its fingerprint: two
extractors with the same fingerprint make the same frames. ``prosody`` and ``motion`` need no model; Hugging Face models
are in :mod:`moiety.intent.clips.pretrained`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field, ValidationError

from moiety.groups import nearest_name
from moiety.intent.clips.media import Frames, decode_audio, decode_video
from moiety.intent.clips.signal_audio import prosody
from moiety.intent.clips.signal_video import motion
from moiety.intent.data.rows import ClipRow
from moiety.intent.data.samples import MODALITIES, fingerprint_of
from moiety.intent.labels.descriptions import HASHING
from moiety.recipe.section import Section

VERSION = 1
"""Rises when the same settings make other numbers than before, so that no cache mixes both."""

Features = tuple[np.ndarray, np.ndarray]
"""Frames ``(frames, dim)`` float32 and the second of each, ``(frames,)`` float32; no seconds for text."""


class Extractor(Protocol):
    """What makes the frames of one modality, ``(frames, dim)`` float32, and the second of each, ``(frames,)``.

    Attributes:
        modality: ``text``, ``video`` or ``audio``.
    """

    modality: str

    def settings(self) -> dict[str, Any]:
        """All that decides the numbers, as JSON values; ``extractor`` names the kind, folder or Hugging Face id."""

    @property
    def fingerprint(self) -> str:
        """The settings as one line of JSON."""

    def source(self, row: ClipRow) -> Path | str | None:
        """What of a row is read: a file, or a text; None: the row has none."""

    def extract(self, row: ClipRow) -> Features | None:
        """Frames and seconds; None where the row has no such stream.

        Raises:
            MediaError: the file cannot be used.
        """


class BuiltIn:
    """What extractors without a model share: their numbers follow from a name, a version and options."""

    name: str
    modality: str

    def __init__(self, options: Section) -> None:
        self.options = options

    def settings(self) -> dict[str, Any]:
        """See :class:`Extractor`."""
        return {"extractor": self.name, "version": VERSION, **self.options.model_dump()}

    @property
    def fingerprint(self) -> str:
        """See :class:`Extractor`."""
        return fingerprint_of(self.settings())


class ProsodySettings(Section):
    """Options of :class:`Prosody`; widths of its windows in seconds, ``rate`` in samples a second.

    Frames are ``(frames, 2 * (num_bands + 4))``: the bands and four more numbers, then their changes.
    """

    rate: int = Field(16_000, ge=2_000, le=192_000, description="samples a second")
    window_s: float = Field(0.05, ge=0.01, le=0.5)
    hop_s: float = Field(0.025, ge=0.005, le=0.5)
    num_bands: int = Field(24, ge=1, le=128, description="mel bands")
    max_frames: int = Field(480, ge=1, description="longer sound is cut at the end")


class Prosody(BuiltIn):
    """Loudness, pitch, voicing and timbre of short windows; see :func:`moiety.intent.clips.signal_audio.prosody`."""

    name, modality = "prosody", "audio"
    options: ProsodySettings

    def source(self, row: ClipRow) -> Path | None:
        """See :class:`Extractor`."""
        return row.audio or row.clip

    def extract(self, row: ClipRow) -> Features | None:
        """See :class:`Extractor`."""
        path, known = self.source(row), self.options
        longest = known.window_s + (known.max_frames - 1) * known.hop_s
        sound = path and decode_audio(path, rate=known.rate, start_s=row.start_s, end_s=row.end_s, max_s=longest)
        if not sound or sound.silence:
            return None
        features, times = prosody(
            sound.samples, sound.rate, window_s=known.window_s, hop_s=known.hop_s, num_bands=known.num_bands
        )
        return features[: known.max_frames], times[: known.max_frames] + np.float32(sound.start_s)


class MotionSettings(Section):
    """Options of :class:`Motion`; sizes in pixels, ``fps`` in pictures a second.

    Frames are ``(frames, 2 * rows * columns + 7)``: thumbnail, its change, and seven numbers of the whole picture.
    """

    fps: float = Field(10.0, gt=0, le=240, description="most pictures a second")
    max_frames: int = Field(230, ge=1, description="later pictures are left out")
    rows: int = Field(12, ge=1, le=64, description="height of the thumbnail")
    columns: int = Field(16, ge=1, le=64, description="width of the thumbnail")
    max_side: int = Field(320, ge=16, description="pictures shrink to this longest side before anything is measured")


class Motion(BuiltIn):
    """Grey thumbnails and their changes; see :func:`moiety.intent.clips.signal_video.motion`."""

    name, modality = "motion", "video"
    options: MotionSettings

    def source(self, row: ClipRow) -> Path | None:
        """See :class:`Extractor`."""
        return row.clip

    def extract(self, row: ClipRow) -> Features | None:
        """See :class:`Extractor`."""
        known = self.options
        frames = pictures_of(row, known)
        if frames is None:
            return None
        features = motion(frames.images, frames.times, rows=known.rows, columns=known.columns)
        return features, frames.times.astype(np.float32)


BUILT_IN: Mapping[str, tuple[type[Section], type[Any]]] = {
    kind.name: (options, kind) for options, kind in ((ProsodySettings, Prosody), (MotionSettings, Motion))
}
"""Name -> options and class of the extractors that need no model."""


def extractor_for(modality: str, spec: str | Mapping[str, Any], *, device: str = "cpu") -> Extractor:
    """The extractor that a name or settings describe.

    Args:
        modality: ``text``, ``video`` or ``audio``.
        spec: ``prosody`` (audio), ``motion`` (video), or a Hugging Face id or folder; or a mapping with that under
            ``extractor`` and options beside it, for instance what :meth:`Extractor.settings` gave.
        device: Where a Hugging Face model runs.

    Raises:
        ValueError: the modality, an option or a value is unknown, the extractor is for another modality, its model
            cannot be loaded, or is not the one that the settings tell of.
    """
    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}; {nearest_name(modality, MODALITIES)}")
    given = {"extractor": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("extractor", None)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"the extractor of {modality} is {name!r}, expected a name, a folder or a Hugging Face id")
    if name == HASHING:
        raise ValueError("hashing extracts nothing from a clip: words stay words, and setting text_encoder reads them")
    version = given.pop("version", VERSION)
    if version != VERSION:
        raise ValueError(f"extractor {name!r} has version {version!r}, this moiety makes version {VERSION}; fit again")
    if name not in BUILT_IN:
        from moiety.intent.clips.pretrained import pretrained_extractor

        return pretrained_extractor(modality, name, given, device=device)
    options, kind = BUILT_IN[name]
    if kind.modality != modality:
        fitting = [other for other, (_, one) in BUILT_IN.items() if one.modality == modality]
        raise ValueError(
            f"extractor {name!r} is for {kind.modality}, not for {modality}; "
            f"give {', '.join([*fitting, 'a Hugging Face id or folder'])}"
        )
    return kind(checked(options, name, given))


def pictures_of(row: ClipRow, options: Any) -> Frames | None:
    """Pictures of a row's clip; None where it has none.

    Args:
        row: The row.
        options: With ``fps``, ``max_frames`` and ``max_side``.

    Raises:
        MediaError: the file cannot be used.
    """
    if row.clip is None:
        return None
    return decode_video(
        row.clip,
        fps=options.fps,
        max_frames=options.max_frames,
        start_s=row.start_s,
        end_s=row.end_s,
        max_side=options.max_side,
    )


def checked(options: type[Section], name: str, given: Mapping[str, Any]) -> Any:
    """Options of an extractor, each value checked.

    Raises:
        ValueError: an option is unknown, or a value is not allowed; all are named.
    """
    for option in given:
        if option not in options.model_fields:
            raise ValueError(
                f"extractor {name!r} has no option {option!r}; {nearest_name(option, options.model_fields)}"
            )
    try:
        return options.model_validate(dict(given))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ValueError(f"extractor {name!r}: {wrong}") from error
