"""Small media files: a white square that walks to the right under a red corner, and a tone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

FPS, SIZE, RATE = 25, (64, 48), 16_000


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """``(height, width, 3)``; the square moves one pixel to the right a number."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[:12, :16] = (255, 0, 0)
    x = number % (width - 12)
    image[height // 2 : height // 2 + 12, x : x + 12] = 255
    return image


def tone(seconds: float, rate: int = RATE, hertz: float = 220.0) -> np.ndarray:
    """``(samples,)`` float32 of amplitude a half."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_clip(
    path: Path,
    *,
    seconds: float = 0.6,
    size: tuple[int, int] = SIZE,
    pictures: bool = True,
    sound: bool = True,
    sound_s: float | None = None,
    rotation: int = 0,
    step: int = 1,
    title: str = "",
    options: dict[str, Any] | None = None,
) -> Path:
    """A clip with the streams that are asked for; the suffix names the container; sound may be shorter; the square
    walks `step` pixels a picture."""
    with av.open(str(path), "w", options=options) as container:
        container.metadata["title"] = title
        seen = container.add_stream("libx264", rate=FPS) if pictures else None
        if seen is not None:
            seen.width, seen.height, seen.pix_fmt = *size, "yuv420p"
            if rotation:
                seen.set_display_rotation(rotation)
        heard = container.add_stream("aac", rate=RATE, layout="mono") if sound else None
        if seen is not None:
            for number in range(round(seconds * FPS)):
                frame = av.VideoFrame.from_ndarray(picture(step * number, size), format="rgb24")
                frame.pts = number
                container.mux(seen.encode(frame))
            container.mux(seen.encode())
        if heard is not None:
            wave = tone(seconds if sound_s is None else sound_s)
            for start in range(0, len(wave), 1024):
                part = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts = RATE, start
                container.mux(heard.encode(part))
            container.mux(heard.encode())
    return path


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, kind: str = "PCM_16") -> Path:
    """A wav or flac of ``(samples,)`` or ``(samples, channels)``."""
    soundfile.write(path, samples, rate, subtype=kind)
    return path
