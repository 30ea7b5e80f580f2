"""The voice of the small spoken world: one vowel for each syllable, as a buzz with formants, in one of five tones.

Every syllable is a sum of harmonics of the pitch; the formants of its vowel decide how loud each harmonic is. The tone
shapes pitch, loudness and tempo. Each speaker has a pitch, a tempo, a length of the throat and a loudness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moiety.intent.world.phrases import vowels

RATE = 16_000
"""Samples a second."""
FORMANTS = {"a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "o": (570, 840, 2410),
            "u": (300, 870, 2240)}  # fmt: skip
"""Vowel -> its resonances in Hz, rounded from averages of adult men (Peterson and Barney 1952)."""
WIDTH, HIGHEST = 110.0, 4000.0
"""Half width of a resonance, and frequency of the highest harmonic, in Hz."""
SILENCE = 0.2
"""Seconds of background noise before and after the sentence."""


@dataclass(frozen=True)
class Tone:
    """A way of speaking.

    Args:
        pitch: Factors on the pitch of the speaker, evenly spread over the sentence, joined by straight lines.
        loudness: Factor on the loudness of the speaker.
        tempo: Factor on the syllables a second.
        voiced: Share of a syllable that sounds; the rest is a gap.
    """

    pitch: tuple[float, ...]
    loudness: float
    tempo: float
    voiced: float


TONES = {
    "bright": Tone((1.2, 1.8, 1.2, 1.8, 1.2), 1.1, 1.0, 0.85),
    "low": Tone((1.0, 0.85, 0.7), 0.45, 0.75, 0.95),
    "rising": Tone((1.0, 0.95, 1.0, 1.8), 0.9, 1.0, 0.85),
    "firm": Tone((1.1, 1.1, 1.05, 1.0), 1.8, 1.25, 0.55),
    "plain": Tone((1.0, 1.0, 0.95), 0.9, 1.0, 0.85),
}


@dataclass(frozen=True)
class Voice:
    """What stays the same when one person speaks.

    Args:
        pitch: In Hz.
        tempo: Syllables a second.
        throat: Factor on all formants.
        loudness: Peak loudness in a tone of factor 1, of full scale.
        noise: Deviation of the background, of full scale.
    """

    pitch: float
    tempo: float
    throat: float
    loudness: float
    noise: float

    @classmethod
    def drawn(cls, rng: np.random.Generator, noise: float = 1.0) -> Voice:
        """A person; `noise` is a factor on the background."""
        pitch = float(np.exp(rng.uniform(np.log(95), np.log(220))))
        return cls(
            pitch,
            tempo=rng.uniform(4.8, 6.0),
            throat=rng.uniform(0.9, 1.15),
            loudness=rng.uniform(0.2, 0.35),
            noise=noise * rng.uniform(0.002, 0.008),
        )


def speak(text: str, tone: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """A spoken sentence with a little silence around it, ``(samples,)`` float32 within -1..1, :data:`RATE` a second.

    Args:
        text: What is said; its vowels sound.
        tone: Key of :data:`TONES`.
        voice: Who speaks.
        rng: Draws lengths of syllables, a little shiver of the pitch, and the background.
    """
    manner, said = TONES[tone], vowels(text)
    lengths = (RATE / (voice.tempo * manner.tempo) * rng.uniform(0.85, 1.15, len(said))).astype(int)
    time = np.arange(lengths.sum()) / lengths.sum()
    contour = np.interp(time, np.linspace(0, 1, len(manner.pitch)), manner.pitch)
    knots = max(2, 4 * len(said))
    shiver = np.interp(time, np.linspace(0, 1, knots), rng.normal(1, 0.01, knots))
    pitch = voice.pitch * contour * shiver
    sound = _buzz(pitch, np.repeat(np.arange(len(said)), lengths), said, voice.throat)
    sound *= np.concatenate([_swell(int(length), manner.voiced) for length in lengths])
    sound *= voice.loudness * manner.loudness / np.abs(sound).max()
    pad = int(SILENCE * RATE)
    whole = np.pad(sound, (pad, pad))
    return np.clip(whole + rng.normal(0, voice.noise, len(whole)), -1, 1).astype(np.float32)


def _buzz(pitch: np.ndarray, syllable: np.ndarray, said: Sequence[str], throat: float) -> np.ndarray:
    """Harmonics of `pitch` ``(samples,)``, weighted by the formants of the syllable that each sample belongs to."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    every = np.arange(0, len(pitch), RATE // 200)  # loudness of a harmonic changes slowly: 200 values a second do
    formants = throat * np.array([FORMANTS[vowel] for vowel in said])[syllable[every]]
    twice_cosine, before, sine = 2 * np.cos(phase), np.zeros_like(phase), np.sin(phase)
    sound = np.zeros_like(pitch)
    for harmonic in range(1, int(HIGHEST / pitch.min()) + 1):
        height = harmonic * pitch[every]
        loudness = (1 / (1 + ((height[:, None] - formants) / WIDTH) ** 2)) @ (1.0, 0.5, 0.25) / harmonic**0.5
        sound += sine * np.interp(np.arange(len(pitch)), every, np.where(height < HIGHEST, loudness, 0))
        before, sine = sine, twice_cosine * sine - before  # sin((k+1)x) = 2 cos(x) sin(kx) - sin((k-1)x)
    return sound


def _swell(length: int, voiced: float) -> np.ndarray:
    """Loudness over one syllable, ``(length,)``: a rounded hill, then a gap."""
    sounding = max(2, int(length * voiced))
    return np.pad(np.sin(np.pi * np.arange(sounding) / sounding) ** 0.5, (0, length - sounding))
