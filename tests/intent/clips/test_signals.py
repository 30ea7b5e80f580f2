"""What prosody and motion measure: pitch, loudness, timbre, velocity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moiety.intent.clips.signal_audio import PROSODY_NAMES, prosody
from moiety.intent.clips.signal_video import MOTION_NAMES, motion, thumbnail
from tests.intent.clips.clip_files import RATE, tone

BANDS = 24
ENERGY, PITCH, VOICING, CENTROID = (BANDS + PROSODY_NAMES.index(name) for name in PROSODY_NAMES)
WIDTH = 2 * (BANDS + len(PROSODY_NAMES))


def saw(hertz: float, seconds: float = 0.5) -> np.ndarray:
    return ((np.arange(round(seconds * RATE)) * hertz / RATE) % 1 - 0.5).astype(np.float32)


# -- prosody -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hertz", [65, 80, 100, 123.4, 200, 333, 400])
@pytest.mark.parametrize("wave", [tone, saw], ids=["tone", "saw"])
def test_pitch_is_found_without_octave_errors(wave: Any, hertz: float) -> None:
    features, _ = prosody(wave(0.5, hertz=hertz) if wave is tone else saw(hertz), RATE)
    found = 100 * 2 ** features[:, PITCH]
    np.testing.assert_allclose(found, hertz, rtol=0.012)  # 0.0084 seen, a pure tone of 80 Hz
    assert (features[:, VOICING] > 0.9).all()
    np.testing.assert_allclose(features[1:, WIDTH // 2 + PITCH], 0, atol=0.03)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    for wave in (noise, np.zeros(RATE, np.float32), np.full(RATE, 0.3, np.float32)):
        features, _ = prosody(wave, RATE)
        assert np.isfinite(features).all()
        assert (features[:, PITCH] == 0).all()
        assert (features[:, VOICING] < 0.5).all()  # 0.15 seen in noise


def test_louder_changes_loudness_and_nothing_else() -> None:
    quiet, loud = (prosody(saw(150) * gain, RATE)[0] for gain in (0.1, 1.0))
    np.testing.assert_allclose(loud[:, : ENERGY + 1].mean(0) - quiet[:, : ENERGY + 1].mean(0),
                               [2 * np.log(10)] * BANDS + [np.log(10)], atol=0.02)  # fmt: skip
    np.testing.assert_allclose(loud[:, PITCH : WIDTH // 2], quiet[:, PITCH : WIDTH // 2], atol=1e-3)


def test_a_rising_voice_rises_and_a_falling_one_falls() -> None:
    hertz = np.linspace(120, 240, RATE)
    rising = np.sin(2 * np.pi * np.cumsum(hertz) / RATE).astype(np.float32)
    for wave, sign in ((rising, 1), (rising[::-1], -1)):
        features, times = prosody(wave, RATE)
        change = sign * features[1:, WIDTH // 2 + PITCH]
        assert (change > 0.01).all()
        assert sign * (features[-1, PITCH] - features[0, PITCH]) == pytest.approx(change.sum(), rel=1e-4)
        expected = np.interp(times, np.arange(RATE) / RATE, hertz[::sign])
        np.testing.assert_allclose(100 * 2 ** features[:, PITCH], expected, rtol=0.02)  # 0.006 seen


def test_the_centroid_lies_at_a_tone_and_the_band_around_it_is_loudest() -> None:
    for hertz in (500, 1000, 3000, 6000):
        features, _ = prosody(tone(0.3, hertz=hertz), RATE)
        np.testing.assert_allclose(features[:, CENTROID], hertz / 1000, rtol=0.01)
        mel = 2595 * np.log10(1 + np.array([hertz, 8000.0]) / 700)
        assert abs(features[0, :BANDS].argmax() + 1 - (BANDS + 1) * mel[0] / mel[1]) < 1


def test_windows_and_their_seconds() -> None:
    features, times = prosody(saw(150, 1.0), RATE)
    assert features.shape == (39, WIDTH)
    np.testing.assert_allclose(times, 0.025 + 0.025 * np.arange(39), atol=1e-6)
    later, _ = prosody(saw(150, 1.0)[400:], RATE)
    np.testing.assert_allclose(later[1:], features[2:], atol=1e-4)
    short, middle = prosody(np.ones(3, np.float32), RATE)
    assert short.shape == (1, WIDTH)
    assert middle == pytest.approx([0.025])
    narrow, _ = prosody(saw(150, 0.2), 2_000, num_bands=100)
    assert np.isfinite(narrow).all(), "bands narrower than the resolution hold a bin all the same"


# -- motion ------------------------------------------------------------------------------------------------------------
def blob(x: float, y: float, dark: bool = False) -> np.ndarray:
    """A soft spot at x, y, in shares of width and height."""
    down, across = np.mgrid[:48, :64]
    grey = 200 * np.exp(-((across / 64 - x) ** 2 + (down / 48 - y) ** 2) / 0.02)
    return np.repeat((255 - grey if dark else grey).astype(np.uint8)[..., None], 3, 2)


def columns_of(features: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(MOTION_NAMES, features[:, -len(MOTION_NAMES) :].T, strict=True))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("across", "down"), [(0.4, 0), (-0.4, 0), (0, 0.3), (0, -0.3), (0.3, 0.3)])
def test_velocity_is_that_of_what_moves(across: float, down: float, dark: bool) -> None:
    times = np.arange(8) / 10
    found = columns_of(motion([blob(0.5 + across * (t - 0.35), 0.5 + down * (t - 0.35), dark) for t in times], times))
    np.testing.assert_allclose(found["velocity_x"][1:], across, atol=0.25 * 0.4)  # 0.07 seen
    np.testing.assert_allclose(found["velocity_y"][1:], down, atol=0.25 * 0.4)
    assert found["velocity_x"][0] == found["activity"][0] == 0


def test_changes_are_a_second_and_not_a_picture() -> None:
    pictures = [blob(0.3 + 0.02 * number, 0.5) for number in range(6)]
    fast, slow = (motion(pictures, np.arange(6) / rate) for rate in (20, 10))
    np.testing.assert_allclose(fast[:, :192], slow[:, :192])
    np.testing.assert_allclose(fast[:, 192:385], 2 * slow[:, 192:385], rtol=1e-5)
    np.testing.assert_allclose(fast[:, -6:-2], slow[:, -6:-2], atol=1e-6)
    np.testing.assert_allclose(fast[:, -2:], 2 * slow[:, -2:], rtol=1e-5)


def test_where_something_moves() -> None:
    times = np.arange(5) / 10
    for x, y in ((0.2, 0.5), (0.8, 0.5), (0.5, 0.2), (0.5, 0.8)):
        found = columns_of(motion([blob(x + 0.01 * number, y) for number in range(5)], times))
        assert abs(found["centre_x"][1:] - (2 * x - 1)).max() < 0.15
        assert abs(found["centre_y"][1:] - (2 * y - 1)).max() < 0.15
    still = motion([blob(0.5, 0.5)] * 4, times[:4])
    assert not still[:, 192:].any()
    assert motion([blob(0.5, 0.5)], times[:1]).shape == (1, 2 * 192 + 7)


def test_a_thumbnail_keeps_the_mean_and_takes_any_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    grey = image @ [0.299, 0.587, 0.114] / 255
    assert thumbnail(image, 12, 16).mean() == pytest.approx(grey.mean())
    np.testing.assert_allclose(thumbnail(image, 48, 64), grey)
    np.testing.assert_allclose(thumbnail(image, 12, 16)[3, 5], grey[12:16, 20:24].mean())
    assert thumbnail(image[:1, :1], 12, 16).shape == (12, 16), "a picture smaller than the grid repeats its pixels"
    ragged = thumbnail(image[:47, :61], 12, 16)
    assert ragged.min() >= 0
    assert ragged.max() <= 1
