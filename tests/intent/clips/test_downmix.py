"""Six channels and opposite phase: one mix for wav, flac and containers, and no silence that counts as a voice."""

from __future__ import annotations

import logging
from pathlib import Path

import av
import numpy as np
import pytest

from moiety.intent.clips.downmix import USUAL, channel_weights
from moiety.intent.clips.media import Sound, decode_audio
from moiety.intent.clips.reading import read_clips
from tests.intent.clips.clip_files import RATE, tone, write_clip, write_recording, write_wav

LEVEL = float(np.sqrt(np.mean(tone(1) ** 2)))


def heard(path: Path) -> Sound:
    found = decode_audio(path, rate=RATE)
    assert found is not None
    return found


def level(path: Path) -> float:
    """Loudness beside that of the tone alone."""
    return float(np.sqrt(np.mean(heard(path).samples ** 2))) / LEVEL


def places(layout: str) -> list[str]:
    return [channel.name for channel in av.AudioLayout(layout).channels]


def write_one(path: Path, layout: str, place: str) -> Path:
    """A file of pcm with the tone in one channel alone."""
    names = places(layout)
    wave = np.zeros((RATE, len(names)), np.float32)
    wave[:, names.index(place)] = tone(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout=layout)
        part = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16).reshape(1, -1), format="s16", layout=layout)
        part.sample_rate, part.pts = RATE, 0
        container.mux(stream.encode(part))
        container.mux(stream.encode())
    return path


WEIGHTS = [
    ("mono", "FC", 1), ("stereo", "FL", 0.5), ("3.0", "FC", 1), ("3.0", "FR", 0.5**0.5), ("2.1", "FL", 0.5),
    ("quad", "FL", 0.5), ("quad", "BR", 0.125**0.5), ("4.0", "BC", 0.5), ("5.0", "FC", 1), ("5.1", "FC", 1),
    ("5.1", "FL", 0.5**0.5), ("5.1", "BR", 0.5), ("5.1(side)", "SL", 0.5), ("6.1", "FC", 1), ("7.1", "FC", 1),
    ("7.1", "SR", 0.5),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["wav", "mov", "mkv"])
@pytest.mark.parametrize(("layout", "place", "weight"), WEIGHTS)
def test_each_channel_has_the_weight_of_its_place(
    tmp_path: Path, kind: str, layout: str, place: str, weight: float
) -> None:
    if kind == "mkv" and layout in ("2.1", "4.0"):
        pytest.skip("mkv stores how many channels there are, not which")
    assert level(write_one(tmp_path / f"a.{kind}", layout, place)) == pytest.approx(weight, abs=1e-3)


@pytest.mark.parametrize("channels", [1, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_voice_in_the_centre_is_as_loud_as_alone_where_no_places_are_told(
    tmp_path: Path, channels: int, suffix: str
) -> None:
    wave = np.zeros((RATE, channels), np.float32)
    wave[:, places(USUAL[channels]).index("FC")] = tone(1)
    assert level(write_wav(tmp_path / f"a.{suffix}", wave)) == pytest.approx(1, abs=1e-3)


def test_more_channels_than_anybody_names_are_averaged(tmp_path: Path) -> None:
    wave = np.zeros((RATE, 10), np.float32)
    wave[:, 7] = tone(1)
    assert level(write_wav(tmp_path / "a.wav", wave)) == pytest.approx(0.1, abs=1e-3)
    assert channel_weights(["UNK", "FL"]).tolist() == [0.5, 0.5]
    assert channel_weights(["LFE"]).tolist() == [1.0]
    assert channel_weights(["AMBI0", "AMBI1", "AMBI2", "AMBI3"]).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_wav_and_mp4_are_equally_loud(tmp_path: Path, layout: str) -> None:
    names = places(layout)
    wav = write_wav(tmp_path / "a.wav", np.stack([tone(1, 48_000)] * len(names), 1), 48_000)
    mp4 = write_recording(tmp_path / "a.mp4", [(0, 1)], layout=layout)
    assert level(mp4) == pytest.approx(level(wav), rel=0.02)  # 0.1 % seen for mono, 0.9 % for six channels


def test_a_stream_may_change_its_channels_on_the_way(tmp_path: Path) -> None:
    parts = [
        write_recording(tmp_path / f"{layout}.aac", [(0, 1)], layout=layout) for layout in ("5.1", "stereo", "mono")
    ]
    (tmp_path / "all.aac").write_bytes(b"".join(path.read_bytes() for path in parts[1:]))
    both = heard(tmp_path / "all.aac").samples
    assert len(both) / RATE == pytest.approx(2, abs=0.1)
    loudness = [np.sqrt(np.mean(half[2000:14_000] ** 2)) / LEVEL for half in np.array_split(both, 2)]
    assert loudness == pytest.approx([1, 1], abs=0.03)
    assert level(parts[0]) > 2


def opposite(path: Path, noise: float = 0.0) -> Path:
    left = tone(1)
    right = -left + noise * np.random.default_rng(0).normal(size=len(left)).astype(np.float32)
    return write_wav(path, np.stack([left, right], 1))


def test_channels_that_cancel_are_told_of_and_count_as_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, noise in (("exact.wav", 0.0), ("nearly.flac", 0.02)):
        with caplog.at_level(logging.WARNING, "moiety.intent.clips.media"):
            sound = heard(opposite(tmp_path / name, noise))
        assert sound.silence == "its channels cancel each other (is one of them in opposite phase?)"
        assert f"{name}: sound from 0 s on counts as absent: its channels cancel each other" in caplog.text
    rows = [{"key": "a", "audio": tmp_path / "exact.wav", "text": "hello"}]
    assert read_clips(rows, video=None).samples[0].audio is None
    reading = read_clips([{"key": "a", "audio": tmp_path / "exact.wav"}], video=None, text=None, on_error="mask")
    assert reading.problems == [("a", "it has none of audio")]


def test_sound_of_zeros_counts_as_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wav = write_wav(tmp_path / "zero.wav", np.zeros(RATE, np.float32))
    mute = write_recording(tmp_path / "mute.mkv", [(0, 0.1), (1, 1.2)], np.arange(30) / 25, codec="pcm_s16le")
    rows = [{"key": "a", "clip": mute, "start_s": 0.3, "end_s": 0.8}, {"key": "b", "audio": wav, "text": "hello"}]
    with caplog.at_level(logging.WARNING, "moiety.intent.clips.media"):
        first, second = read_clips(rows).samples
    assert (first.audio, second.audio) == (None, None)
    assert first.video is not None
    assert caplog.text.count("every sample of it is 0") == 2
    assert heard(write_clip(tmp_path / "loud.mp4")).silence == ""


def test_stereo_that_only_differs_is_heard(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    apart = write_wav(tmp_path / "a.wav", draw.normal(size=(RATE, 2)).astype(np.float32) * 0.1)
    one = write_wav(tmp_path / "b.wav", np.stack([tone(1), np.zeros(RATE, np.float32)], 1))
    quiet = write_wav(tmp_path / "c.wav", 1e-3 * tone(1))
    assert [heard(path).silence for path in (apart, one, quiet)] == ["", "", ""]


def test_the_reported_files(shared: Path) -> None:
    folder = shared / "cases" / "24-channels"
    if not folder.is_dir():
        pytest.skip("no cases/24-channels there")
    assert level(folder / "centre-of-six.wav") == pytest.approx(level(folder / "mono.wav"), rel=1e-3)
    assert "opposite phase" in heard(folder / "opposite-phase.wav").silence
