"""Writes one clip (moving pictures, sound, or both) as a small mp4 whose bytes depend only on its content."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

_SAME_BYTES = {"fflags": "+bitexact", "movflags": "+faststart"}


def write_clip(
    path: str | Path,
    frames: np.ndarray | None,
    sound: np.ndarray | None,
    *,
    fps: int,
    rate: int,
) -> Path:
    """Write an mp4 file with H.264 (MPEG-4 if PyAV lacks it) and AAC. Without frames or sound it has no such stream.

    Args:
        path: The file.
        frames: ``(frames, height, width, 3)`` uint8 with even height and width, or None.
        sound: ``(samples,)`` float32 within -1..1, or None.
        fps: Pictures a second.
        rate: Samples a second.

    Raises:
        ValueError: neither frames nor sound, or an odd height or width.
    """
    if frames is None and sound is None:
        raise ValueError(f"{path}: a clip needs frames or sound; got neither")
    if frames is not None and (frames.shape[1] % 2 or frames.shape[2] % 2):
        raise ValueError(f"{path}: pictures of {frames.shape[1]} x {frames.shape[2]} pixels; give even numbers")
    with av.open(str(path), "w", format="mp4", options=_SAME_BYTES) as file:
        tracks: list[
            tuple[Any, Iterator[Any]]
        ] = []  # all streams are in the head of the file, so they are made before the first packet
        if frames is not None:
            tracks.append((_picture_stream(file, frames, fps), _pictures(frames, fps)))
        if sound is not None:
            tracks.append((_sound_stream(file, rate), _sounds(sound, rate)))
        for stream, given in tracks:
            for frame in (*given, None):  # None flushes the encoder
                file.mux(stream.encode(frame))
    return Path(path)


def plays(path: str | Path) -> bool:
    """Whether browsers can play the pictures of a clip: they know H.264, but not MPEG-4 Part 2."""
    with av.open(str(path)) as file:
        return all(stream.codec_context.name == "h264" for stream in file.streams.video)


def _pictures(frames: np.ndarray, fps: int) -> Iterator[av.VideoFrame]:
    for number, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, fps)
        yield frame


def _sounds(sound: np.ndarray, rate: int) -> Iterator[av.AudioFrame]:
    frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    yield frame


def _picture_stream(file: Any, frames: np.ndarray, fps: int) -> Any:
    """A video stream with one thread, so that the bytes do not depend on the number of cores."""
    known = "libx264" in av.codecs_available
    options = {"preset": "ultrafast", "crf": "26", "threads": "1"} if known else {"qscale:v": "3"}
    stream = file.add_stream("libx264" if known else "mpeg4", rate=fps, options=options)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt, stream.thread_count = "yuv420p", 1
    stream.codec_context.time_base = Fraction(1, fps)
    return stream


def _sound_stream(file: Any, rate: int) -> Any:
    stream = file.add_stream("aac", rate=rate, layout="mono")
    stream.bit_rate, stream.thread_count = 48_000, 1
    return stream
