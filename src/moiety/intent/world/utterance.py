"""One utterance of the small spoken world: what is drawn of it, and its pictures and sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moiety.intent.world.figure import Look, move
from moiety.intent.world.phrases import sentence
from moiety.intent.world.signs import ANY_GESTURE, ANY_TONE, INTENTS, OUTSIDE, SIGNS
from moiety.intent.world.voice import RATE, Voice, speak

SPEAKERS = {"train": 60, "dev": 15, "test": 30}
"""Split -> number of its speakers; no speaker is in two splits."""


@dataclass(frozen=True)
class Utterance:
    """What is drawn for one clip before the clip is made.

    Args:
        key: Name of the clip.
        split: ``train``, ``dev`` or ``test``.
        label: Its intent, or :data:`moiety.intent.world.signs.OUTSIDE`.
        text: What is said.
        words: Group of words, a key of :data:`moiety.intent.world.phrases.SENTENCES`.
        tone: One of :data:`moiety.intent.world.signs.TONES`.
        gesture: One of :data:`moiety.intent.world.signs.GESTURES`.
        missing: The modality that the clip lacks, or None.
        speaker: Number of the speaker, counted over all splits.
        draw: Seeds of everything that is random in sound and pictures.
    """

    key: str
    split: str
    label: str
    text: str
    words: str
    tone: str
    gesture: str
    missing: str | None
    speaker: int
    draw: tuple[int, ...]


def drawn_utterance(split: str, number: int, *, seed: int, unclear: float, missing: float, outside: float) -> Utterance:
    """Draw utterance `number` of a split. It does not depend on the number of the others."""
    place = list(SPEAKERS).index(split)
    draw = (seed, place, number)
    rng = np.random.default_rng(draw)
    turn = np.random.default_rng((seed, place, number // len(INTENTS), 1)).permutation(len(INTENTS))
    intent = INTENTS[turn[number % len(INTENTS)]]  # of every 12 clips, one has each intent
    words, gestures, tones = (intent.words,), intent.gestures, intent.tones
    label = intent.label
    if rng.random() < outside:
        label, words, gestures, tones = OUTSIDE, ("outside",), ANY_GESTURE, ANY_TONE
    likely = dict(zip(SIGNS, (words, gestures, tones), strict=True))
    sign = {
        name: SIGNS[name][-1] if rng.random() < unclear else str(rng.choice(values)) for name, values in likely.items()
    }
    lacking = str(rng.choice(list(SIGNS))) if rng.random() < missing else None
    before = sum(count for other, count in list(SPEAKERS.items())[:place])
    speaker = before + int(rng.integers(SPEAKERS[split]))
    text = sentence(sign["text"], rng)
    key = f"{split}-{number:05d}"
    return Utterance(key, split, label, text, sign["text"], sign["audio"], sign["video"], lacking, speaker, draw)


def clip_of(utterance: Utterance, seed: int, noise: float) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Pictures ``(frames, side, side, 3)`` and sound ``(samples,)`` of an utterance; None for a modality it lacks."""
    person = np.random.default_rng((seed, 9, utterance.speaker))
    voice, look = Voice.drawn(person, noise), Look.drawn(person, noise)
    rng = np.random.default_rng((*utterance.draw, 2))
    sound = speak(utterance.text, utterance.tone, voice, rng)
    pictures = move(utterance.gesture, look, len(sound) / RATE, rng)
    lacking = utterance.missing
    return None if lacking == "video" else pictures, None if lacking == "audio" else sound
