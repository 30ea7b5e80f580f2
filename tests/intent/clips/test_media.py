"""Decoding: what comes out stands in the file, upright and at its second; damage is refused (P23)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from moiety.intent.clips.media import Frames, MediaError, Sound, decode_audio, decode_video
from tests.intent.clips.clip_files import FPS, RATE, SIZE, picture, tone, write_clip, write_wav


def seen(path: Path, fps: float = 100.0, **options: object) -> Frames:
    found = decode_video(path, fps=fps, max_frames=1000, **options)  # type: ignore[arg-type]
    assert found is not None
    assert len(found.images) == len(found.times)
    return found


def heard(path: Path, rate: int = RATE, **options: object) -> Sound:
    found = decode_audio(path, rate=rate, **options)  # type: ignore[arg-type]
    assert found is not None
    assert found.samples.dtype == np.float32
    return found


def loudest_hertz(sound: Sound) -> float:
    power = np.abs(np.fft.rfft(sound.samples * np.hanning(len(sound.samples))))
    return float(np.fft.rfftfreq(len(sound.samples), 1 / sound.rate)[power.argmax()])


@pytest.mark.parametrize("fps", [1, 5, 10, 12.5, 25, 60])
def test_slots_of_time_hold_one_picture_and_none_is_made_up(clip: Path, fps: float) -> None:
    whole, some = seen(clip), seen(clip, fps)
    np.testing.assert_allclose(whole.times, np.arange(15) / FPS, atol=1e-6)
    slots = np.floor(some.times * fps + 1e-6)
    assert (np.diff(slots) > 0).all()
    assert len(slots) == len(set(np.floor(whole.times * fps + 1e-6)))
    place = [round(time * FPS) for time in some.times]
    assert all((image == whole.images[number]).all() for image, number in zip(some.images, place, strict=True))


def test_a_part_of_the_file_is_the_part_of_the_whole(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "long.mp4", seconds=4)
    whole, part = seen(path), seen(path, start_s=2.4, end_s=3.2)
    inside = (whole.times >= 2.4 - 1e-6) & (whole.times < 3.2 - 1e-6)
    np.testing.assert_allclose(part.times, whole.times[inside])
    assert all((a == whole.images[n]).all() for a, n in zip(part.images, np.flatnonzero(inside), strict=True))
    sound, cut = heard(path), heard(path, start_s=2.4, end_s=3.2)
    assert cut.start_s == 2.4
    # the decoder starts a little before the cut, without the state it has after 2.4 s: 3e-8 seen
    np.testing.assert_allclose(cut.samples, sound.samples[38_400:51_200], atol=1e-5)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_rotated_clip_stands_upright(tmp_path: Path, clip: Path, rotation: int) -> None:
    turned = seen(write_clip(tmp_path / "turned.mp4", rotation=rotation))
    for image, flat in zip(turned.images, seen(clip).images, strict=True):
        assert (image == np.rot90(flat, rotation // 90)).all()


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "avi", "ts"])
def test_containers(tmp_path: Path, kind: str) -> None:
    path = write_clip(tmp_path / f"a.{kind}")
    pictures, sound = seen(path), heard(path)
    assert 14 <= len(pictures.images) <= 15
    assert pictures.images[0].shape == (SIZE[1], SIZE[0], 3)
    corner = pictures.images[0][4, 4].astype(int)
    assert corner[0] > 200 > 60 > corner[1:].max(), "red comes first"
    assert abs(loudest_hertz(sound) - 220) < 2
    # transport streams and avi carry the delay of the encoder, 64 ms at most
    assert 0 <= pictures.times[0] < 0.1
    assert 0.58 <= len(sound.samples) / RATE <= 0.75


def test_streams_that_are_absent(tmp_path: Path) -> None:
    silent, blind = write_clip(tmp_path / "s.mp4", sound=False), write_clip(tmp_path / "b.mp4", pictures=False)
    assert decode_audio(silent, rate=RATE) is None
    assert decode_video(blind, fps=10, max_frames=9) is None
    assert seen(silent).images
    assert len(heard(blind).samples)
    assert decode_video(write_wav(tmp_path / "w.wav", tone(0.1)), fps=10, max_frames=9) is None


def test_titles_in_any_letters(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", title="TITLEOFTHECLIP")
    data = path.read_bytes()
    assert b"TITLEOFTHECLIP" in data
    path.write_bytes(data.replace(b"TITLEOFTHECLIP", b"\xe9t\xe9 \xe0 la mer!!"))
    assert len(seen(path).images) == 15


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        heard_stream = container.add_stream("aac", rate=RATE, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = *SIZE, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(picture(0), format="rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        container.mux(cover.encode(frame))
        container.mux(cover.encode())
        part = av.AudioFrame.from_ndarray(tone(0.064)[None], format="fltp", layout="mono")
        part.sample_rate, part.pts = RATE, 0
        container.mux(heard_stream.encode(part))
        container.mux(heard_stream.encode())
    assert decode_video(tmp_path / "song.mp4", fps=10, max_frames=9) is None
    assert len(heard(tmp_path / "song.mp4").samples)


def test_large_pictures_shrink_and_late_ones_are_left_out(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = seen(clip, max_side=32)
    assert {image.shape for image in small.images} == {(24, 32, 3)}
    means = [np.mean([image.mean() for image in frames.images]) for frames in (small, seen(clip))]
    assert abs(means[0] - means[1]) < 1.5  # 0.3 grey values of 255 seen
    with caplog.at_level(logging.INFO, "moiety.intent.clips.media"):
        short = decode_video(clip, fps=25, max_frames=4)
    assert short is not None
    np.testing.assert_allclose(short.times, np.arange(4) / FPS, atol=1e-6)
    assert "pictures after the first 4 are left out" in caplog.text


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sound_of_any_rate_and_two_channels(tmp_path: Path, rate: int, suffix: str) -> None:
    left = tone(1, rate)
    path = write_wav(tmp_path / f"a.{suffix}", np.stack([left, np.zeros_like(left)], 1), rate)
    sound = heard(path)
    assert sound.rate == RATE
    assert len(sound.samples) == RATE
    inner = slice(200, -200)  # away from the ends, where the filter of the resampler rings
    np.testing.assert_allclose(sound.samples[inner], tone(1)[inner] / 2, atol=1e-3)  # 1.4e-4 seen
    part = heard(path, start_s=0.25, end_s=0.5)
    assert len(part.samples) == RATE // 4
    np.testing.assert_allclose(part.samples[inner], tone(1)[RATE // 4 : RATE // 2][inner] / 2, atol=1e-3)


def test_sound_of_a_container_is_resampled_too(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    slow = heard(clip, 8_000)
    assert abs(loudest_hertz(slow) - 220) < 2
    assert abs(len(slow.samples) - len(heard(clip).samples) / 2) < 32
    with caplog.at_level(logging.INFO, "moiety.intent.clips.media"):
        assert len(heard(clip, max_s=0.2).samples) == 3200
    assert "sound after the first 0.2 s is left out" in caplog.text


def refused(path: Path, **options: float) -> str:
    """What both decoders say; they agree on what is wrong with a file as a whole."""
    with pytest.raises(MediaError) as audio:
        decode_audio(path, rate=RATE, **options)
    with pytest.raises(MediaError) as video:
        decode_video(path, fps=10, max_frames=9, **options)
    assert str(audio.value).startswith(f"{path.name}: ")
    return f"{audio.value} | {video.value}"


def test_what_is_no_media_file(tmp_path: Path) -> None:
    assert "there is no such file in" in refused(tmp_path / "gone.mp4")
    assert "it is a folder, expected a media file" in refused(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "it is empty (0 bytes)" in refused(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("Dear Sir or Madam, " * 50)
    assert "it cannot be decoded (Invalid data found" in refused(tmp_path / "text.mp4")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.6,\ngood.ts\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile good.ts\n"),
    ],
)
def test_a_playlist_opens_no_other_file(tmp_path: Path, name: str, text: str) -> None:
    """It names a good clip, which the decoder would open by itself; that would be reading what nobody gave."""
    write_clip(tmp_path / "good.ts")
    (tmp_path / name).write_text(text)
    assert "it cannot be decoded" in refused(tmp_path / name)


def test_times_beyond_the_file(clip: Path, tmp_path: Path) -> None:
    assert "start_s 5 lies beyond its end at 0." in refused(clip, start_s=5)
    assert "end_s 1e+09 lies beyond its end at 0." in refused(clip, end_s=1e9)
    wav = write_wav(tmp_path / "a.wav", tone(0.5))
    with pytest.raises(MediaError, match=r"a.wav: start_s 0.5 lies beyond its end at 0.50 s"):
        decode_audio(wav, rate=RATE, start_s=0.5)
    assert len(heard(wav, end_s=0.9).samples) == RATE // 2, "time stamps are rounded"
    with pytest.raises(MediaError, match=r"it holds no picture from 0.57 to 0.59 s"):
        decode_video(clip, fps=10, max_frames=9, start_s=0.57, end_s=0.59)


def test_sound_that_is_none(tmp_path: Path) -> None:
    assert "it holds no samples" in refused_sound(write_wav(tmp_path / "zero.wav", np.zeros(0, np.float32)))
    broken = tone(0.1)
    broken[[3, 700]] = np.nan, np.inf
    assert "2 of 1600 samples are not finite" in refused_sound(write_wav(tmp_path / "nan.wav", broken, kind="FLOAT"))
    huge = write_wav(tmp_path / "huge.wav", tone(0.1) * 1e30, kind="FLOAT")
    assert "its loudest sample is 5e+29, expected about 1" in refused_sound(huge)
    for rate in (8, 2_000_000):
        path = write_wav(tmp_path / "rate.wav", tone(0.1), rate)
        assert f"a sample rate of {rate} Hz cannot be right" in refused_sound(path)
    early = write_clip(tmp_path / "early.mp4", sound_s=0.1)
    with pytest.raises(MediaError, match=r"early.mp4: it holds no sound from 0.4 to 0.5 s"):
        decode_audio(early, rate=RATE, start_s=0.4, end_s=0.5)


def refused_sound(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        decode_audio(path, rate=RATE)
    return str(caught.value)


def test_files_cut_short_are_refused_before_any_picture(clip: Path, tmp_path: Path) -> None:
    """Also where the index stands in front and everything up to the cut could be shown."""
    for flags in ("", "+faststart", "frag_keyframe+empty_moov"):
        whole = write_clip(tmp_path / "whole.mp4", options={"movflags": flags} if flags else None).read_bytes()
        for share in (0.01, 0.3, 0.6, 0.9):
            (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * share)])
            assert "it is cut short" in refused(tmp_path / "cut.mp4")
    for suffix in ("mkv", "avi", "mov"):
        whole = write_clip(tmp_path / f"whole.{suffix}").read_bytes()
        for share in (0.4, 0.7, 0.95):
            (tmp_path / f"cut.{suffix}").write_bytes(whole[: int(len(whole) * share)])
            assert "it is cut short" in refused(tmp_path / f"cut.{suffix}")
    for suffix in ("wav", "flac", "aiff"):
        whole = write_wav(tmp_path / f"w.{suffix}", np.random.default_rng(0).normal(size=8000) * 0.1).read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
        reason = "it cannot be decoded" if suffix == "flac" else "it is cut short"
        assert reason in refused_sound(tmp_path / f"cut.{suffix}")


def index_beyond(data: bytes) -> bytes:
    """The first chunk of samples is said to lie beyond the file."""
    at = data.find(b"stco") + 12
    return data[:at] + b"\x7f\0\0\0" + data[at + 4 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.replace(b"avc1", b"zzzz"), "its video is in a form that is not known here, or damaged"),
        (lambda data: data.replace(b"trak", b"free"), "it holds no stream"),
        (index_beyond, r"it is cut short: \d+ bytes of at least 21307\d+"),
    ],
    ids=["codec", "no stream", "index"],
)
def test_damaged_indices(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    path = write_clip(tmp_path / "a.mp4", options={"movflags": "+faststart"})
    path.write_bytes(change(path.read_bytes()))
    assert re.search(f"^a.mp4: {message} [|] a.mp4: {message}$", refused(path))


def test_a_container_with_an_absurd_rate(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=500, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 400), np.int16), format="s16", layout="mono")
        part.sample_rate, part.pts = 500, 0
        container.mux(stream.encode(part))
        container.mux(stream.encode())
    assert "a.mov: a sample rate of 500 Hz cannot be right" in refused_sound(tmp_path / "a.mov")


def test_a_disk_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    path = write_wav(tmp_path / "a.wav", tone(0.1))
    monkeypatch.setattr("moiety.intent.clips.media.soundfile.SoundFile", broken)
    assert refused_sound(path) == "a.wav: it cannot be read (OSError: [Errno 5] Input/output error)"


def test_pictures_of_absurd_size_are_not_even_decoded(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety.intent.clips.media.MAX_PIXELS", SIZE[0] * SIZE[1] - 1)
    with pytest.raises(MediaError, match=r"clip.mp4: it (cannot be decoded|holds no picture)"):
        seen(clip)


def test_headers_that_do_not_know_the_length(tmp_path: Path) -> None:
    """Recorders that stop early, or write into a pipe: what is there is the file."""
    data = write_clip(tmp_path / "a.mkv").read_bytes()
    at = data.find(b"\x18\x53\x80\x67") + 4
    (tmp_path / "open.mkv").write_bytes(data[:at] + b"\x01" + b"\xff" * 7 + data[at + 8 : len(data) * 3 // 4])
    assert 5 < len(seen(tmp_path / "open.mkv").images) < 15
    data = write_clip(tmp_path / "a.mp4", options={"movflags": "+faststart"}).read_bytes()
    at = data.find(b"mdat") - 4
    (tmp_path / "open.mp4").write_bytes(data[:at] + bytes(4) + data[at + 4 :])
    assert len(seen(tmp_path / "open.mp4").images) == 15
    (tmp_path / "torn.mp4").write_bytes(data + b"end")
    assert "it is cut short or damaged: there is no whole part at byte" in refused(tmp_path / "torn.mp4")


def test_a_stream_of_wav_says_no_length(tmp_path: Path) -> None:
    data = bytearray(write_wav(tmp_path / "w.wav", tone(0.1)).read_bytes())
    data[4:8] = b"\xff" * 4
    (tmp_path / "w.wav").write_bytes(data)
    assert len(heard(tmp_path / "w.wav").samples) == 1600
    assert soundfile.info(tmp_path / "w.wav").frames == 1600


def test_damaged_pictures_are_refused(tmp_path: Path) -> None:
    whole = bytearray(write_clip(tmp_path / "a.mp4", sound=False).read_bytes())
    at = whole.find(b"mdat") + 800
    whole[at : at + 200] = bytes(200)
    (tmp_path / "a.mp4").write_bytes(whole)
    with pytest.raises(MediaError, match=r"a.mp4: (its video is damaged at|it cannot be decoded)"):
        seen(tmp_path / "a.mp4")
