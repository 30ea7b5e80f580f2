"""The law of the small spoken world: which words, voice and gesture each intent has, and what a reader can know.

The words of a speaker tell a group of intents. The tone of the voice divides some groups, the gesture others. One group
is divided by either of them, one only by both together, and two intents are clear from the words. Each sign may be
unclear, with probability `unclear` and independently of the others: the words are vague, the voice is plain, or the
body is still.

All three signs have few values, so the best accuracy that any reader can reach is a finite sum: see
:func:`attainable`. It holds for a reader who never misreads a sign; a model on noisy clips stays below.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WORDS = ("outcome", "fact", "meeting", "step", "thanks", "sorry", "vague")
"""Groups of sentences; the last group says nothing about the intent."""
TONES = ("bright", "low", "rising", "firm", "plain")
"""Tones of the voice; the last one says nothing about the intent."""
GESTURES = ("nod", "shake", "wave", "walk", "point", "shrug", "still")
"""What the figure does; the last one says nothing about the intent."""
SIGNS = {"text": WORDS, "video": GESTURES, "audio": TONES}
"""Modality -> the values of its sign, in the order of every table here."""
MASKS = tuple(
    kept
    for count in range(len(SIGNS), 0, -1)
    for kept in itertools.combinations(SIGNS, count)
)  # fmt: skip
"""Every non-empty set of modalities, the largest first."""


@dataclass(frozen=True)
class Intent:
    """One intent and its signs.

    Args:
        label: Its name in the rows.
        words: The group of sentences it uses.
        tones: Tones it is spoken in, equally likely.
        gestures: Gestures that go with it, equally likely.
        description: One sentence on what the speaker wants.
        cues: How it looks and sounds, where that says something.
    """

    label: str
    words: str
    tones: tuple[str, ...]
    gestures: tuple[str, ...]
    description: str
    cues: str


ANY_TONE, ANY_GESTURE = TONES[:-1], GESTURES[:-1]
INTENTS = (
    Intent("Praise", "outcome", ("bright",), ("nod",),
           "The speaker is glad about what the other person achieved and says so.", "lively voice, nodding head"),
    Intent("Taunt", "outcome", ("bright",), ("shake",),
           "The speaker makes fun of a failure of the other person.", "lively voice, head shaken"),
    Intent("Comfort", "outcome", ("low",), ("nod",),
           "The speaker wants the other person to feel better after a failure.", "soft slow voice, nodding head"),
    Intent("Complain", "outcome", ("low",), ("shake",),
           "The speaker is unhappy about what happened and shows it.", "soft slow voice, head shaken"),
    Intent("Ask", "fact", ("rising",), ANY_GESTURE,
           "The speaker does not know whether it is so and wants an answer.", "voice that rises to the end"),
    Intent("Inform", "fact", ("firm",), ANY_GESTURE,
           "The speaker knows it and lets the other person know.", "even loud voice, short syllables"),
    Intent("Greet", "meeting", ANY_TONE, ("wave",),
           "The speaker has just come and says hello to everybody.", "waving hand"),
    Intent("Leave", "meeting", ANY_TONE, ("walk",),
           "The speaker says farewell and goes away.", "walks out of the picture"),
    Intent("Prevent", "step", ("firm",), ("point",),
           "The speaker wants to stop the other person from doing something.", "even loud voice, arm stretched out"),
    Intent("Doubt", "step", ("rising",), ("shrug",),
           "The speaker is not convinced that it will work.", "voice that rises to the end, lifted shoulders"),
    Intent("Thank", "thanks", ANY_TONE, ANY_GESTURE,
           "The speaker is grateful for something that was done.", ""),
    Intent("Apologise", "sorry", ANY_TONE, ANY_GESTURE,
           "The speaker regrets a mistake of their own and asks to be forgiven.", ""),
)  # fmt: skip
"""Twelve intents, equally frequent."""
OUTSIDE = "None of these"
"""Label of utterances without an intent: words of none of these groups, any tone, any gesture."""


def law(unclear: float) -> np.ndarray:
    """Probability of intent, words, gesture and tone together, ``(intents, words, gestures, tones)``; sums to 1.

    Given the intent, the three signs are independent.

    Args:
        unclear: Probability that a sign is unclear, within 0..1.
    """
    table = np.zeros((len(INTENTS), *(len(values) for values in SIGNS.values())))
    for place, intent in enumerate(INTENTS):
        each = ((WORDS, (intent.words,)), (GESTURES, intent.gestures), (TONES, intent.tones))
        words, gestures, tones = (_chances(values, likely, unclear) for values, likely in each)
        table[place] = words[:, None, None] * gestures[:, None] * tones / len(INTENTS)
    return table


def _chances(values: Sequence[str], likely: Sequence[str], unclear: float) -> np.ndarray:
    """Probability of each value of one sign, ``(values,)``."""
    found = np.array([(1 - unclear) * (value in likely) / len(likely) for value in values])
    found[-1] += unclear
    return found


def attainable(kept: Sequence[str], *, unclear: float = 0.0, missing: float = 0.0) -> float:
    r"""The best accuracy of any reader who is given only the signs of `kept`.

    With s the signs that are seen, it is :math:`\\sum_s \\max_i P(i, s)`. A row lacks one modality, each equally often,
    with probability `missing`; rows that have none of `kept` are not asked, as in
    :meth:`moiety.intent.IntentClassifier.evaluate_masks`.

    Args:
        kept: Modalities, at least one of :data:`SIGNS`.
        unclear: Probability that a sign is unclear.
        missing: Probability that a row lacks a modality.

    Example:
        >>> [round(attainable(kept), 4) for kept in (("text",), ("text", "audio"), ("text", "video", "audio"))]
        [0.5, 0.75, 1.0]
    """
    table = law(unclear)
    weights, values = [1 - missing], [_seen(table, kept)]
    for name in SIGNS:
        left = [other for other in kept if other != name]
        if left:
            weights.append(missing / len(SIGNS))
            values.append(_seen(table, left))
    return float(np.average(values, weights=weights))


def _seen(table: np.ndarray, kept: Sequence[str]) -> float:
    """Accuracy of the best guess, after the signs that are not kept are summed out."""
    hidden = tuple(axis for axis, name in enumerate(SIGNS, 1) if name not in kept)
    return float(table.sum(hidden).max(0).sum())
