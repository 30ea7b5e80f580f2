"""Features of speech: loudness, pitch, voicing and timbre of short windows. Nothing is learned."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

MIN_HZ, MAX_HZ = 60.0, 420.0
"""The pitch of a voice is searched between these frequencies."""
VOICED = 0.5
"""A window counts as voiced if its best autocorrelation is larger than this."""
PROSODY_NAMES = ("energy", "pitch", "voicing", "centroid")
"""Columns of :func:`prosody` after the mel bands; then the differences of all columns follow."""
_FLOOR = 1e-7


def prosody(
    samples: Float[np.ndarray, " samples"],
    rate: int,
    *,
    window_s: float = 0.05,
    hop_s: float = 0.025,
    num_bands: int = 24,
) -> tuple[Float[np.ndarray, "frames dim"], Float[np.ndarray, " frames"]]:
    """Prosody of overlapping windows.

    The columns are: log power of `num_bands` mel bands (natural log, floor 1e-7); log of the root mean square (floor
    1e-4); octaves of the pitch above 100 Hz, 0 where unvoiced; voicing 0 to 1; spectral centroid in kHz; then the
    difference of each to the window before, 0 in the first window, and for the pitch 0 unless both are voiced.

    Args:
        samples: Amplitudes, about -1 to 1; fewer than a window are padded with silence.
        rate: Samples a second.
        window_s: Length of a window, seconds.
        hop_s: From window to window, seconds.
        num_bands: Mel bands from 0 Hz to the lower of 8 kHz and half the rate.

    Returns:
        Features, ``(frames, 2 * (num_bands + 4))`` float32, and the second at the middle of each window.

    Source:
        Mel scale of O'Shaughnessy 1987; pitch as the first strong peak of the autocorrelation, divided by the share
        of the window that overlaps (Boersma 1993 divides by the autocorrelation of the window instead).
    """
    size, hop = max(2, round(window_s * rate)), max(1, round(hop_s * rate))
    padded = np.pad(np.asarray(samples, np.float64), (0, max(0, size - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    power = np.abs(np.fft.rfft(windows * np.hanning(size), axis=1)) ** 2 / size
    hertz = np.fft.rfftfreq(size, 1 / rate)
    bands = np.log(power @ mel_filters(hertz, num_bands, min(8000.0, rate / 2)).T + _FLOOR)
    energy = np.log(np.sqrt((windows**2).mean(1)) + 1e-4)
    pitch, voicing = _pitch(windows, rate)
    total = power.sum(1)
    centroid = np.where(total > _FLOOR, power @ hertz / np.maximum(total, _FLOOR), 0) / 1000
    columns = np.column_stack([bands, energy, pitch, voicing, centroid])
    change = np.diff(columns, axis=0, prepend=columns[:1])
    voiced = voicing > VOICED
    change[1:, num_bands + 1] *= voiced[1:] & voiced[:-1]
    times = (np.arange(len(windows)) * hop + size / 2) / rate
    return np.hstack([columns, change]).astype(np.float32), times.astype(np.float32)


def mel_filters(hertz: Float[np.ndarray, " bins"], num_bands: int, top_hz: float) -> Float[np.ndarray, "bands bins"]:
    """Triangular filters that overlap by half and are evenly spaced on the mel scale; each one sums to 1.

    Example:
        >>> mel_filters(np.arange(0.0, 8001.0, 20.0), 4, 8000.0).sum(1).round(6).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + top_hz / 700), num_bands + 2) / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (hertz - low) / (middle - low), (high - hertz) / (high - middle)
    weight = np.maximum(0, np.minimum(rising, falling))
    # a triangle narrower than the bins would be empty, so it takes the nearest bin
    nearest = np.abs(hertz[None] - middle).argmin(1)
    weight[np.arange(num_bands), nearest] += weight.sum(1) == 0
    return weight / weight.sum(1, keepdims=True)


def _pitch(windows: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Octaves above 100 Hz (0 where unvoiced) and voicing of each window, ``(frames,)``."""
    size = windows.shape[1]
    centred = windows - windows.mean(1, keepdims=True)
    spectrum = np.fft.rfft(centred, 2 * size, axis=1)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :size]
    lags = np.arange(max(2, int(rate / MAX_HZ)), min(size * 3 // 4, int(np.ceil(rate / MIN_HZ)) + 1))
    power = correlation[:, 0]
    if not len(lags):
        return np.zeros(len(windows)), np.zeros(len(windows))
    unbiased = correlation / (1 - np.arange(size) / size) / np.maximum(power, size * 1e-9)[:, None]
    inside = unbiased[:, lags]
    best = inside.max(1)
    # a tone also repeats after every multiple of its period, so the first peak that is nearly the best is taken
    peaks = (inside >= unbiased[:, lags - 1]) & (inside >= unbiased[:, lags + 1]) & (inside >= 0.9 * best[:, None])
    found = peaks.any(1)
    lag = lags[np.where(found, peaks.argmax(1), inside.argmax(1))]
    rows = np.arange(len(windows))
    left, middle, right = (unbiased[rows, lag + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(np.abs(bend) > 1e-12, (left - right) / (2 * np.where(bend == 0, 1, bend)), 0).clip(-0.5, 0.5)
    voicing = np.where(found, middle, 0).clip(0, 1)
    return np.where(voicing > VOICED, np.log2(rate / (lag + shift) / 100), 0), voicing
