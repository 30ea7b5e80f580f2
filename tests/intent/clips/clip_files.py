"""Small media files: a white square that walks to the right under a red corner, and a tone."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
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
    hflip: bool = False,
    vflip: bool = False,
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
            if rotation or hflip or vflip:
                seen.set_display_rotation(rotation, hflip=hflip, vflip=vflip)
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


def write_recording(
    path: Path,
    pieces: Sequence[tuple[float, float]],
    pictures: Sequence[float] = (),
    *,
    shift_s: float = 0.0,
    codec: str = "",
    layout: str = "mono",
    options: dict[str, Any] | None = None,
) -> Path:
    """A recording at 48 kHz whose tone sounds from second to second of each piece, all channels alike, with pictures at
    the given seconds, whose square stands one pixel further right each; `shift_s` moves everything."""
    webm = path.suffix == ".webm"
    with av.open(str(path), "w", options=options) as container:
        seen = container.add_stream("libvpx" if webm else "libx264", rate=FPS) if len(pictures) else None
        heard = container.add_stream(codec or ("libopus" if webm else "aac"), rate=48_000, layout=layout)
        packets = []
        if seen is not None:
            seen.width, seen.height, seen.pix_fmt = *SIZE, "yuv420p"
            seen.codec_context.time_base = Fraction(1, 1000)
            for number, second in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base = round((second + shift_s) * 1000), Fraction(1, 1000)
                packets += seen.encode(frame)
            packets += seen.encode()
        size = heard.codec_context.frame_size or 960
        for start, end in pieces:
            wave = np.stack([tone(end - start, 48_000)] * heard.layout.nb_channels)
            for place in range(0, wave.shape[1] // size * size, size):
                samples = np.ascontiguousarray(wave[:, place : place + size])
                kind = heard.codec_context.format.name
                samples = samples if kind == "fltp" else samples.T.reshape(1, -1)
                samples = (32767 * samples).astype(np.int16) if kind == "s16" else np.ascontiguousarray(samples)
                part = av.AudioFrame.from_ndarray(samples, format=kind, layout=layout)
                part.sample_rate, part.pts = 48_000, round((start + shift_s) * 48_000) + place
                part.time_base = Fraction(1, 48_000)
                packets += heard.encode(part)
        packets += heard.encode()
        packets.sort(key=lambda packet: (packet.pts if packet.dts is None else packet.dts) * packet.time_base)
        container.mux(packets)
    return path


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, kind: str = "PCM_16") -> Path:
    """A wav or flac of ``(samples,)`` or ``(samples, channels)``."""
    soundfile.write(path, samples, rate, subtype=kind)
    return path
