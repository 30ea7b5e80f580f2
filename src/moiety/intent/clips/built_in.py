"""The extractors that need no model: ``prosody`` hears, ``motion`` sees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from moiety.intent.clips.extractor import VERSION, Features, pictures_of
from moiety.intent.clips.media import decode_audio
from moiety.intent.clips.signal_audio import prosody
from moiety.intent.clips.signal_video import motion
from moiety.intent.data.rows import ClipRow
from moiety.intent.data.samples import fingerprint_of
from moiety.recipe.section import Section


class BuiltIn:
    """Base of the extractors without a model: name, version and options decide their numbers."""

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
    """Options of :class:`Prosody`; windows in seconds, ``rate`` in samples a second.

    The frames are ``(frames, 2 * (num_bands + 4))``: the bands and four more numbers, then the changes of all these.
    """

    rate: int = Field(16_000, ge=2_000, le=192_000, description="samples a second")
    window_s: float = Field(0.05, ge=0.01, le=0.5, description="length of a window, seconds")
    hop_s: float = Field(0.025, ge=0.005, le=0.5, description="from the start of a window to that of the next, seconds")
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

    The frames are ``(frames, 2 * rows * columns + 7)``: thumbnail, its change, and seven numbers of the whole picture.
    """

    fps: float = Field(10.0, gt=0, le=240, description="largest number of pictures a second")
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
"""Name -> class of the options, and class of the extractor."""
