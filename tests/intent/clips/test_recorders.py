"""Clips as phones and recorders write them: mirrored, with gaps, late, early, cut, with pictures when they come."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from moiety.intent.clips.media import Frames, MediaError, Sound, decode_audio, decode_video
from moiety.intent.clips.orientation import shown
from moiety.intent.clips.timeline import MAX_GAP_S, Timeline
from tests.intent.clips.clip_files import FPS, RATE, write_clip, write_recording

EIGHT = [(turn, flip) for turn in (0, 90, 180, 270) for flip in (False, True)]


def seen(path: Path, **options: float) -> Frames:
    found = decode_video(path, fps=100.0, max_frames=1000, **options)
    assert found is not None
    return found


def heard(path: Path, **options: float) -> Sound:
    found = decode_audio(path, rate=RATE, **options)
    assert found is not None
    return found


def loud(sound: Sound) -> list[tuple[float, float]]:
    """Seconds from and to which something sounds, to a hundredth."""
    step = RATE // 100
    level = np.abs(sound.samples[: len(sound.samples) // step * step]).reshape(-1, step).max(1) > 0.1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], level, [0]]).astype(int))) / 100 + sound.start_s
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def square(image: np.ndarray) -> int:
    """Where the white square starts, pixels from the left."""
    return int((image[30].min(1) > 128).argmax())


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv"])
def test_all_eight_orientations_stand_as_a_player_shows_them(tmp_path: Path, clip: Path, kind: str) -> None:
    """A turn against the clock, then the mirror: what ``set_display_rotation`` means, and what players do."""
    flat = seen(clip).images
    for turn, flip in EIGHT:
        found = seen(write_clip(tmp_path / f"{turn}{flip}.{kind}", rotation=turn, hflip=flip, sound=False)).images
        for image, stored in zip(found, flat, strict=False):
            turned = np.rot90(stored, turn // 90)
            np.testing.assert_array_equal(image, turned[:, ::-1] if flip else turned)
    upside = seen(write_clip(tmp_path / f"v.{kind}", vflip=True, sound=False)).images[0]
    np.testing.assert_array_equal(upside, flat[0][::-1])


@pytest.mark.parametrize("degrees", [3, 44, 92, 181, 270])
def test_a_crooked_matrix_means_the_nearest_level_one(degrees: int) -> None:
    image = np.arange(6).reshape(2, 3, 1)
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    nearest = np.rot90(image, round(degrees / 90))
    np.testing.assert_array_equal(shown(image, np.array([[cos, -sin], [sin, cos]]) * 65536), nearest)


def test_a_matrix_of_zeros_turns_nothing() -> None:
    image = np.arange(6).reshape(2, 3, 1)
    np.testing.assert_array_equal(shown(image, np.zeros((2, 2))), image)


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "webm", "ts"])
def test_a_gap_in_the_sound_is_silence_of_its_length(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_recording(tmp_path / f"a.{kind}", [(0, 1), (3, 4)], np.arange(100) / FPS)
    whole = heard(path)
    # a transport stream starts with the delay of the encoder, 21 ms, and so do its pictures; frames ring for 10 ms
    np.testing.assert_allclose(loud(whole), [(0, 1), (3, 4)], atol=0.04)
    assert seen(path).times[-1] == pytest.approx(99 / FPS, abs=0.03)
    cut = heard(path, start_s=2.5, end_s=3.5)
    assert (cut.start_s, len(cut.samples)) == (2.5, RATE)
    np.testing.assert_allclose(loud(cut), [(3, 3.5)], atol=0.04)
    assert len(heard(path, start_s=0.5, end_s=2).samples) == 1.5 * RATE
    # wherever reading begins, a second is the same second; mkv stores whole milliseconds, so AAC may move by one
    for start in (0.5, 1.5, 3.2) if kind != "mkv" else ():
        part = heard(path, start_s=start, end_s=start + 0.6)
        of_whole = whole.samples[round((start - whole.start_s) * RATE) :][: len(part.samples)]
        np.testing.assert_allclose(part.samples, of_whole, atol=2e-2)  # opus starts afresh: 6e-3 seen
    with caplog.at_level(logging.WARNING, "moiety.intent.clips.media"):
        inside = heard(path, start_s=1.5, end_s=2.5)
    assert (len(inside.samples), float(np.abs(inside.samples).max())) == (RATE, 0.0)
    assert f"a.{kind}: sound from 1.5 to 2.5 s counts as absent: every sample of it is 0" in caplog.text


@pytest.mark.parametrize(
    "gaps", [[(0, 0.5), (0.6, 1)], [(0, 0.2), (0.7, 0.9), (1.5, 1.6), (1.8, 2)], [(1, 2), (2.5, 3)]]
)
def test_gaps_of_any_number_and_length(tmp_path: Path, gaps: Sequence[tuple[float, float]]) -> None:
    for kind in ("mkv", "mp4"):
        path = write_recording(tmp_path / f"a.{kind}", gaps, np.arange(75) / FPS)
        np.testing.assert_allclose(loud(heard(path)), gaps, atol=0.04)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm"])
@pytest.mark.parametrize("late", ["sound", "pictures"])
def test_what_starts_later_than_the_other_stays_at_its_second(tmp_path: Path, kind: str, late: str) -> None:
    path = tmp_path / f"a.{kind}"
    if late == "sound":
        write_recording(path, [(2, 3)], np.arange(75) / FPS)
        assert heard(path).start_s == pytest.approx(2, abs=0.03)
    else:
        write_recording(path, [(0, 3)], np.arange(25, 75) / FPS)
    np.testing.assert_allclose(loud(heard(path)), [(2 if late == "sound" else 0, 3)], atol=0.04)
    assert seen(path).times[0] == pytest.approx(0 if late == "sound" else 1, abs=0.01)
    np.testing.assert_allclose(loud(heard(path, start_s=2.2, end_s=2.4)), [(2.2, 2.4)], atol=0.01)


@pytest.mark.parametrize("kind", ["mkv", "webm", "mp4", "mov"])
@pytest.mark.parametrize("shift", [-0.5, 5.0])
def test_stamps_that_start_below_or_far_above_zero(tmp_path: Path, kind: str, shift: float) -> None:
    options = {"avoid_negative_ts": "disabled"}
    path = write_recording(
        tmp_path / f"a.{kind}", [(0, 1), (1.5, 2)], np.arange(50) / FPS, shift_s=shift, options=options
    )
    # an mp4 does not show what lies before 0: its edit list says so
    lost = 0.5 if shift < 0 and kind in ("mp4", "mov") else 0.0
    found, pictures = loud(heard(path)), seen(path)
    np.testing.assert_allclose(found, [(0, 1 - lost), (1.5 - lost, 2 - lost)], atol=0.04)
    # picture 20 is shown at 0.8 s, where the tone has a fifth of a second to go
    number = next(n for n, image in enumerate(pictures.images) if square(image) == 20)
    assert pictures.times[number] == pytest.approx(found[0][1] - 0.2, abs=0.04)


def test_an_edit_list_that_starts_inside_a_group_of_pictures(tmp_path: Path) -> None:
    """What cutting without encoding again writes: pictures before the cut are stored, and not shown."""
    source = write_recording(tmp_path / "long.mp4", [(0, 2), (3, 4)], np.arange(100) / FPS)
    with av.open(str(source)) as given, av.open(str(tmp_path / "cut.mp4"), "w") as cut:
        streams = {one.index: cut.add_stream_from_template(one) for one in given.streams}
        for packet in given.demux():
            if packet.dts is None:
                continue
            before = int(1.32 / packet.time_base)
            packet.pts, packet.dts = packet.pts - before, packet.dts - before
            if packet.stream.type == "video" or packet.pts >= 0:
                packet.stream = streams[packet.stream.index]
                cut.mux(packet)
    pictures = seen(tmp_path / "cut.mp4")
    assert [square(image) for image in pictures.images[:3]] == [33, 34, 35]
    np.testing.assert_allclose(pictures.times, np.arange(67) / FPS, atol=0.002)
    np.testing.assert_allclose(loud(heard(tmp_path / "cut.mp4")), [(0, 0.68), (1.68, 2.68)], atol=0.04)


def test_pictures_that_come_when_they_come(tmp_path: Path) -> None:
    times = [0, 0.04, 0.1, 0.5, 0.52, 1.7, 2.9]
    for kind in ("mp4", "mkv", "webm"):
        path = write_recording(tmp_path / f"a.{kind}", [(0, 3)], times)
        found = seen(path)
        np.testing.assert_allclose(found.times, times, atol=0.002)
        assert [square(image) for image in found.images] == list(range(7))
        assert square(seen(path, start_s=1.6, end_s=2).images[0]) == 5


def test_files_joined_end_to_end_go_on(tmp_path: Path) -> None:
    """Stamps start again in the second half of a chained ogg; both halves are there."""
    half = write_recording(tmp_path / "half.ogg", [(0, 1)], codec="libopus").read_bytes()
    (tmp_path / "both.ogg").write_bytes(half + half)
    assert len(heard(tmp_path / "both.ogg").samples) / RATE == pytest.approx(2, abs=0.05)


def test_a_gap_of_hours_is_damage() -> None:
    sound = Timeline(8_000)
    sound.add(0.0, np.ones(800, np.float32), 800.0)
    with pytest.raises(MediaError, match=r"its sound stops at 0.10 s and goes on at 4000.00 s; is it damaged\?"):
        sound.add(400 + MAX_GAP_S, np.ones(8, np.float32), 8.0)


def test_stamps_that_drift_and_shake_leave_no_hole() -> None:
    """A clock that is 1 in 1000 fast, stamps that shake by 10 ms: a minute in pieces of 20 ms."""
    shake, sound = np.random.default_rng(0).uniform(-0.01, 0.01, 3000), Timeline(8_000)
    for number in range(3000):
        sound.add(max(0.0, number * 0.02 * 1.001 + shake[number]), np.ones(160, np.float32), 160.0)
    found = sound.between(0, 60, 8_000)
    assert len(sound.runs) == 2, "one correction of a little more than 40 ms"
    assert 0 < (found == 0).sum() < 0.06 * 8_000
    assert sound.end_s == pytest.approx(60.06, abs=0.05)
