"""The sentences of the small spoken world. They are made from parts, and leave open what the speaker wants."""

from __future__ import annotations

import re

import numpy as np

SENTENCES = {
    "outcome": ("you did it again", "so this is your work", "look what you have done", "that was all you",
                "you really tried this time", "you brought us here"),
    "fact": ("he paid for it already", "the train leaves at nine", "they closed the old shop",
             "she lives in that street", "the meeting is on monday", "we have two of those"),
    "meeting": ("good day everybody", "a fine evening to you all", "good morning my friends",
                "my best wishes to you all", "a good night to everybody", "good evening dear people"),
    "step": ("you want to climb up there", "you will go in alone", "you open that box", "you can drive home",
             "you pull the red wire", "you cut the rope"),
    "thanks": ("thank you so much", "thanks for all of this", "many thanks for your help", "i thank you for the lift",
               "thanks a lot for coming", "thank you for the flowers"),
    "sorry": ("i am so sorry", "sorry for the noise", "forgive me please", "it was my mistake and i am sorry",
              "i apologise for that", "please forgive my words"),
    "vague": ("how it goes", "let me see", "oh dear oh my", "and so on and so on", "here we are", "what else is new"),
    "outside": ("the soup needs some salt", "clouds drift over the lake", "seven eight nine ten",
                "cats sleep on warm stones", "a triangle has three sides", "rivers run into the sea"),
}  # fmt: skip
"""Group of words -> its sentences; ``outside`` belongs to no intent."""
OPENINGS = ("", "well", "oh", "so", "okay", "right")
CLOSINGS = ("", "now", "then", "today", "you know", "i see")


def sentence(group: str, rng: np.random.Generator) -> str:
    """One sentence of a group, with an opening and a closing that any group may have.

    Args:
        group: Key of :data:`SENTENCES`.
        rng: Source of all draws.
    """
    parts = (OPENINGS, SENTENCES[group], CLOSINGS)
    return " ".join(part for choices in parts if (part := str(rng.choice(choices))))


def vowels(text: str) -> list[str]:
    """The vowel of each syllable; each group of vowels is one syllable.

    Example:
        >>> vowels("you did it again")
        ['o', 'i', 'i', 'a', 'a']
    """
    return [found[0].replace("y", "i") for found in re.findall("y?[aeiou]+|y", text.replace("you", "ou"))] or ["e"]
