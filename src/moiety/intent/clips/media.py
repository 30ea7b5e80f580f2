"""Decodes media files to pictures and sound.

Containers are read with PyAV, wav and flac with soundfile. Seconds are counted from the start of the file. A file with
visible damage is refused as a whole, because half a clip is another clip.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from jaxtyping import Float

from moiety.intent.clips.containers import MediaError, check_whole
from moiety.intent.clips.downmix import Mixer, mixed
from moiety.intent.clips.frame_clock import FrameClock
from moiety.intent.clips.orientation import upright
from moiety.intent.clips.timeline import Timeline, silence_of

logger = logging.getLogger(__name__)

MIN_RATE, MAX_RATE = 1_000, 768_000
"""Sample rates outside this range are taken for damage."""
MAX_PEAK = 1e5
"""Float samples are within 1 by convention, and integers written as floats within 32,768; more is damage."""
MAX_PIXELS = 50_000_000
"""Pictures larger than 8K are taken for damage."""
SLACK_S = 1.0
"""An end may be this much later than the end of the file, because data sets round their time stamps."""
DECODING = 2
"""This number rises when a file gives other pictures or sound than before, so that no cache mixes both."""

_OPTIONS = {
    # formats that name other files (playlists, concatenations) could read files beside the clip, so they are left out
    "format_whitelist": "mov,mp4,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,mp3,aac,wav,w64,flac,aiff,amr,3gp,ivf,gif",
    "protocol_whitelist": "file",
}
# PyAV 19 decodes titles in any encoding, and has no keyword for that
_TITLES: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}


@dataclass(frozen=True, eq=False)
class Frames:
    """Pictures of a clip.

    Args:
        images: Each ``(height, width, 3)`` uint8, red first, upright.
        times: Second of each, ``(frames,)`` float64, rising.
    """

    images: list[np.ndarray]
    times: np.ndarray


@dataclass(frozen=True, eq=False)
class Sound:
    """Sound of a clip, one channel.

    Args:
        samples: Amplitudes, ``(samples,)`` float32, about -1 to 1.
        rate: Samples a second.
        start_s: Second of the first sample.
        silence: The reason why nothing can be heard; empty if something can.
    """

    samples: Float[np.ndarray, " samples"]
    rate: int
    start_s: float = 0.0
    silence: str = ""


def decode_video(
    path: str | Path,
    *,
    fps: float,
    max_frames: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    max_side: int | None = None,
) -> Frames | None:
    """The pictures of a file, at most `fps` a second; if the file has fewer, none are added.

    Args:
        path: Media file.
        fps: Largest number of pictures a second; each one is the first in its slot of 1/fps seconds.
        max_frames: Largest number of pictures; later ones are left out, and the log says so.
        start_s: Earlier pictures are left out, seconds.
        end_s: Pictures at this second or later are left out; None: none are.
        max_side: Pictures are made smaller until no side is longer, in pixels; None: they keep their size.

    Returns:
        At least one picture; None if the file has no video stream (cover art does not count).

    Raises:
        MediaError: the file is missing, is no media file, is damaged, or has no picture in that time.
    """
    images: list[np.ndarray] = []
    times: list[float] = []
    filled = -1
    with _opened(Path(path), start_s, end_s) as (container, zero):
        streams = [one for one in container.streams.video if not one.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            return None
        for frame, time in _decoded(container, streams[0], zero, start_s):
            # a rounding error of a time stamp must not put a picture into the slot before
            slot = int((time - start_s) * fps + 1e-6)
            if time < start_s - 1e-6 or slot <= filled:
                continue
            if end_s is not None and time >= end_s - 1e-6:
                break
            if len(images) == max_frames:
                logger.info("%s: pictures after the first %d are left out", path, max_frames)
                break
            images.append(_picture(frame, max_side))
            times.append(time)
            filled = slot
        if not images:
            raise MediaError(f"it holds no picture {_between(start_s, end_s)}")
    return Frames(images, np.array(times))


def decode_audio(
    path: str | Path, *, rate: int, start_s: float = 0.0, end_s: float | None = None, max_s: float | None = None
) -> Sound | None:
    """The sound of a file in one channel (see :mod:`moiety.intent.clips.downmix`), resampled to `rate`.

    Gaps in the sound become zeros of the same length, so that each sample is at its second.

    Args:
        path: Media file.
        rate: Samples a second of the result.
        start_s: Earlier sound is left out, seconds.
        end_s: Sound at this second or later is left out; None: none is.
        max_s: Longer sound is cut at its end, and the log says so; None: it is not cut.

    Returns:
        At least one sample; None if the file has no audio stream. If nothing can be heard, the log says so.

    Raises:
        MediaError: the file is missing, is no media file, is damaged, has no sound in that time, or has samples that
            are not finite.
    """
    path = Path(path)
    until = end_s
    if max_s is not None and (end_s is None or end_s - start_s > max_s):
        until = start_s + max_s
    sound = _from_soundfile(path, rate, start_s, end_s, until)
    if sound is None:
        with _opened(path, start_s, end_s) as (container, zero):
            if not container.streams.audio:
                return None
            sound = _from_container(container, container.streams.audio[0], zero, rate, start_s, until)
    with _named(path):
        _check_sound(sound, start_s, end_s)
    if sound.silence:
        logger.warning("%s: sound %s counts as absent: %s", path.name, _between(start_s, until), sound.silence)
    if until != end_s and max_s is not None and len(sound.samples) >= int(max_s * rate):
        logger.info("%s: sound after the first %g s is left out", path, max_s)
    return sound


def _check_sound(sound: Sound, start_s: float, end_s: float | None) -> None:
    if not len(sound.samples):
        raise MediaError(f"it holds no sound {_between(start_s, end_s)}")
    wrong = ~np.isfinite(sound.samples)
    if wrong.any():
        raise MediaError(f"{wrong.sum()} of {len(wrong)} samples are not finite, first {np.flatnonzero(wrong)[0]}")
    peak = float(np.abs(sound.samples).max())
    if peak > MAX_PEAK:
        raise MediaError(f"its loudest sample is {peak:.3g}, expected about 1")


def _between(start_s: float, end_s: float | None) -> str:
    return f"from {start_s:g} s on" if end_s is None else f"from {start_s:g} to {end_s:g} s"


# -- files -------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns errors inside the block into :class:`MediaError` with the name of the file."""
    try:
        yield
    except MediaError as error:
        raise MediaError(f"{path.name}: {error}") from error
    except (av.FFmpegError, soundfile.LibsndfileError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"{path.name}: it cannot be decoded ({reason}); is it whole, and a media file?") from error
    except (OSError, ValueError, MemoryError) as error:
        raise MediaError(f"{path.name}: it cannot be read ({type(error).__name__}: {error})") from error


def check_file(path: Path) -> None:
    """Refuse a path that is not a regular file with content.

    Raises:
        MediaError: the file is missing, is a folder or another special file, or is empty.
    """
    if not path.exists():
        raise MediaError(f"there is no such file in {path.parent}")
    if not path.is_file():
        raise MediaError("it is a folder, expected a media file" if path.is_dir() else "it is no regular file")
    if not path.stat().st_size:
        raise MediaError("it is empty (0 bytes)")


def _check_cut(length_s: float | None, start_s: float, end_s: float | None) -> None:
    if length_s is None:
        return
    if start_s >= length_s:
        raise MediaError(f"start_s {start_s:g} lies beyond its end at {length_s:.2f} s")
    if end_s is not None and end_s > length_s + SLACK_S:
        raise MediaError(f"end_s {end_s:g} lies beyond its end at {length_s:.2f} s")


@contextlib.contextmanager
def _opened(path: Path, start_s: float, end_s: float | None) -> Iterator[tuple[Any, float]]:
    """An open container, and the time stamp of its start, in seconds."""
    with _named(path):
        check_file(path)
        check_whole(path)
        # titles and comments are not read, so their encoding does not matter
        with av.open(str(path), options=dict(_OPTIONS), **_TITLES) as container:
            _check_streams(container, path.stat().st_size)
            _check_cut(container.duration / av.time_base if container.duration else None, start_s, end_s)
            yield container, (container.start_time or 0) / av.time_base


def _check_streams(container: Any, size: int) -> None:
    """Refuse a file whose index reaches beyond its end: it was cut short."""
    if not container.streams:
        raise MediaError("it holds no stream")
    for stream in container.streams:
        if stream.type in ("audio", "video") and stream.codec_context is None:
            raise MediaError(f"its {stream.type} is in a form that is not known here, or damaged")
        reach = max((entry.pos + entry.size for entry in getattr(stream, "index_entries", ())), default=0)
        if reach > size:
            raise MediaError(f"it is cut short: {size} bytes of at least {reach}")


def _decoded(container: Any, stream: Any, zero: float, start_s: float) -> Iterator[tuple[Any, float]]:
    """The frames of one stream with their seconds, beginning with a key frame at or before `start_s`."""
    if stream.type == "video":
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    clock = FrameClock(container, stream, zero)
    if start_s > SLACK_S and not clock.by_order:
        with contextlib.suppress(av.FFmpegError):  # a file that cannot seek is read from its start
            container.seek(int((zero + start_s - SLACK_S) * av.time_base))
    for packet in container.demux(stream):
        # frames before the cut are decoded only to get there, so damage in them does not matter
        if packet.is_corrupt and clock.after_s >= start_s:
            raise MediaError(f"its {stream.type} is damaged at {clock.after_s:.2f} s")
        for frame, time in clock.timed(packet.decode()):
            if frame.is_corrupt and time >= start_s:
                raise MediaError(f"its {stream.type} is damaged at {time:.2f} s")
            yield frame, time
    yield from clock.rest()


def _picture(frame: Any, max_side: int | None) -> np.ndarray:
    """A frame upright, ``(height, width, 3)``."""
    shrink = min(1.0, (max_side or np.inf) / max(frame.width, frame.height))
    width, height = max(1, round(frame.width * shrink)), max(1, round(frame.height * shrink))
    small = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    return upright(small.to_ndarray(), frame)


# -- sound -------------------------------------------------------------------------------------------------------------
def _from_container(container: Any, stream: Any, zero: float, rate: int, start_s: float, until: float | None) -> Sound:
    if not MIN_RATE <= (stream.rate or 0) <= MAX_RATE:
        raise MediaError(f"a sample rate of {stream.rate} Hz cannot be right")
    last, sound, mixer = np.inf if until is None else until, None, Mixer()
    for frame, time in _decoded(container, stream, zero, start_s):
        # one moment more than asked for, since resampling looks a little ahead
        if time > last + 0.1:
            break
        # the rate of what comes out: a header may name half of it (HE-AAC)
        sound = sound or Timeline(frame.sample_rate, float(stream.time_base))
        for number, piece in enumerate(mixer.pieces(frame, sound.rate)):
            sound.add(sound.end_s if number else time, *piece)
    else:
        last = last if sound is None else min(sound.end_s, last)
    if sound is None or not sound.runs:
        return Sound(np.zeros(0, np.float32), rate, start_s)
    known = 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base) - zero
    begin, first = max(start_s, known), sound.runs[0][0]
    begin = first if begin < first <= begin + sound.drift_s else begin
    samples = sound.between(begin, last, rate)
    return Sound(samples, rate, begin, silence_of(samples, sound.cancels(begin, last)))


def _from_soundfile(path: Path, rate: int, start_s: float, end_s: float | None, until: float | None) -> Sound | None:
    """The sound of a wav or flac; None for every other kind of file, which its first bytes show."""
    with _named(path):
        check_file(path)
        with path.open("rb") as file:
            head = file.read(12)
        if not (head[:4] == b"fLaC" or (head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE")):
            return None
        check_whole(path)
        with soundfile.SoundFile(path) as file:
            if not MIN_RATE <= file.samplerate <= MAX_RATE:
                raise MediaError(f"a sample rate of {file.samplerate} Hz cannot be right")
            if not file.frames:
                raise MediaError("it holds no samples")
            _check_cut(file.frames / file.samplerate, start_s, end_s)
            begin = round(start_s * file.samplerate)
            end = file.frames if until is None else min(file.frames, round(until * file.samplerate))
            file.seek(begin)
            samples = file.read(end - begin, dtype="float32", always_2d=True)
            sound = Timeline(file.samplerate)
            sound.add(start_s, *mixed(samples, _places(path, file.channels)))
        mono = sound.between(start_s, sound.end_s, rate)
        return Sound(mono, rate, start_s, silence_of(mono, sound.cancels(start_s, sound.end_s)))


def _places(path: Path, channels: int) -> list[str]:
    """The place of each channel of a wav or flac, which soundfile does not tell."""
    if channels > 2:
        with av.open(str(path), options=dict(_OPTIONS), **_TITLES) as container:
            return [channel.name for channel in container.streams.audio[0].layout.channels]
    return ["NONE"] * channels
