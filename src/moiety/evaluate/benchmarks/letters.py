"""Multiple choice: how options are put to a model, and which letter its text names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from moiety.evaluate.scorers import LETTERS, normalise

LETTER_REQUEST = "Answer with the option's letter from the given choices directly."
"""The sentence that the LLaVA line puts behind a question with options."""

_OPENING = re.compile(r"\(?(?:([A-Z])(?:[).:,;\n]|$)|([a-z])(?:[).:]|$))")
_STATED = re.compile(r"(?i:answer|option|choice)(?i: is|:)? *(?:\(([A-Za-z])\)|([A-Z])\b)")
_BRACKETED = re.compile(r"\(([A-Z])\)")


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


def stated_letter(text: str, choices: Sequence[str]) -> str | None:
    """The option a text names, as a capital letter; None when it names none: the sound rule of all letter benchmarks.

    Full-width signs count as plain ones, emphasis and quotes are looked through. Read in this order: a letter that
    opens the text (``B``, ``(b)``, ``B. pear``); the last ``answer is B``, ``option: B`` and the like; the only letter
    in brackets; the very words of one option. A letter beyond the options names none, and nothing is ever guessed.

    Args:
        text: What the model wrote.
        choices: Options in the order A, B, C, ...

    Example:
        >>> said = ("**b**", "(A)", "The answer is A. No, the answer is B.", "Pear.", "a pear", "C")
        >>> [stated_letter(text, ["apple", "pear"]) for text in said]
        ['B', 'A', 'B', 'B', None, None]
    """
    bare = re.sub(r"[*_`\"]", "", unicodedata.normalize("NFKC", text)).strip()
    opening = _OPENING.match(bare)
    named = [opening] if opening else list(_STATED.finditer(bare))[-1:]
    if named:
        found = (named[0].group(1) or named[0].group(2)).upper()
        return found if found in LETTERS[: len(choices)] else None
    bracketed = set(_BRACKETED.findall(bare)) & set(LETTERS[: len(choices)])
    if bracketed:
        return bracketed.pop() if len(bracketed) == 1 else None
    said = _words(bare)
    same = [letter for letter, choice in zip(LETTERS, choices, strict=False) if said and _words(choice) == said]
    return same[0] if len(same) == 1 else None


def _words(text: str) -> str:
    return normalise(text).rstrip(".")


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
