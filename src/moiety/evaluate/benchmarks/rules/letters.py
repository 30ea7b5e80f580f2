"""Multiple choice: writes options into a prompt, reads the letter in a text, and counts texts without one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from moiety.evaluate.scorers import LETTERS
from moiety.evaluate.statements import stated_letter as stated_letter
from moiety.vlm.rows import Row

LETTER_REQUEST = "Answer with the option's letter from the given choices directly."
"""The sentence that the LLaVA line puts behind a question with options."""

Letter = Callable[[str, Sequence[str]], str | None]
"""(text, options) -> the letter it names, or something that is none."""


def lettered(choices: Sequence[str]) -> str:
    """Options below each other, each behind its letter.

    Example:
        >>> lettered(["apple", "pear"])
        'A. apple\\nB. pear'
    """
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def option_prompt(question: str, choices: Sequence[str]) -> str:
    """Question, options and the request for a letter, as the LLaVA line asks."""
    return f"{question}\n{lettered(choices)}\n{LETTER_REQUEST}"


def unread_letters(rows: Sequence[Row], answers: Mapping[str, str], read_as: Letter) -> int:
    """How many answers name none of their question's options under a rule."""
    said = ((read_as(answers[row.id], row.choices), row) for row in rows)
    return sum(letter not in tuple(LETTERS[: len(row.choices)]) for letter, row in said)


# -- the general rule of lmms-eval -------------------------------------------------------------------------------------
_PHRASES = (
    *(f"{best}{noun} is" for noun in ("answer", "choice") for best in ("correct ", "")),
    *("best answer is", "the correct option is", "the best option is"),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_TIGHT = {"({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2}


def weighed_letter(text: str, letters: Sequence[str]) -> str:
    """The letter with the strongest sign for it, and of equal signs the last; ``""`` if the text has none of them.

    Strongest first: a letter alone at the start, alone at the end, behind a phrase such as ``the answer is`` (the first
    copy of each letter anywhere behind it), ``(B)``, ``B.``, ``B:``, ``B)``, ``B`` before a blank (``DNA test`` has an
    A), and any copy at all where nothing else was found. Capitals only.

    Args:
        text: What the model wrote.
        letters: Letters of the options.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/_task_utils/mcq_extract.py``, from a description of its rule; it
        gives the letters of its golden numbers. "Alone" is read as: between word boundaries.

    Example:
        >>> [weighed_letter(text, "ABCD") for text in ("A good choice is B", "The answer is C.", "DNA test", "b")]
        ['A', 'C', 'A', '']
    """
    for sign in ".,!?;:'\"":
        text = text.strip(sign)
    padded = f" {text} "
    lowered = padded.lower()
    found = [(weight, place, letter) for letter in letters for weight, place in _signs(padded, lowered, letter)]
    if not found:
        found = [(0, padded.rfind(letter), letter) for letter in letters if letter in padded]
    return max(found)[2] if found else ""


def _signs(padded: str, lowered: str, letter: str) -> list[tuple[int, int]]:
    """Weight and place of every sign for one letter."""
    signs = []
    if re.match(rf"\s*{letter}\b", padded):
        signs.append((10, 0))
    trimmed = padded.rstrip()
    if re.search(rf"\b{letter}$", trimmed):
        signs.append((9, len(trimmed)))
    for phrase in _PHRASES:
        if phrase in lowered:
            place = padded.find(letter, lowered.find(phrase) + len(phrase))
            if place >= 0:
                signs.append((7, place))
    for form, weight in _TIGHT.items():
        place = padded.rfind(form.format(letter))
        if place >= 0:
            signs.append((weight, place))
    return signs
