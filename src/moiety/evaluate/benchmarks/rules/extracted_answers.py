"""Compares an extracted answer of MathVista with the right one, after both have been brought to one form.

The published score lets a language model take the answer out. Here nothing is asked: the released rules get the whole
text as if it were the extraction, and :func:`sound_verdict` reads the answer off the end by a rule of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moiety.evaluate.benchmarks.rules.anls import edit_distance
from moiety.evaluate.scorers import LETTERS, normalise
from moiety.evaluate.statements import stated_answer, stated_letter

_BRACKETED = re.compile(r"\(([a-zA-Z])\)")
_LAST_LETTER = re.compile(r"(?<![\w'])([A-Z])\.?$")
_NUMBERS = re.compile(r"(?:(?<!\d)[+-])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)", re.ASCII)
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_LIST = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True)
class Wanted:
    """What kind of answer a question of MathVista expects.

    Args:
        answer: The right answer as text.
        answer_type: ``text``, ``integer``, ``float`` or ``list``.
        precision: Decimals of a float.
        choices: Options of a multiple-choice question, else empty.
    """

    answer: str
    answer_type: str
    precision: int = 0
    choices: tuple[str, ...] = ()


def released_form(extraction: str, wanted: Wanted) -> str | None:
    """The form the released scorers compare; None: not a number where one is wanted.

    Of an option a letter in brackets counts first, then a lone capital letter; anything else, nothing included, becomes
    the option nearest in edit distance, the first one on a tie. Integers are cut (7.7 is 7), floats rounded.

    Source:
        lupantech/MathVista ``calculate_score.py`` as in OpenGVLab/InternVL @ 2410d1d.

    Example:
        >>> apples = Wanted("2", "text", choices=("2 apples", "none"))
        >>> released_form("(b) it is", apples), released_form("", apples)
        ('none', 'none')
        >>> released_form("7.7", Wanted("7", "integer")), released_form("0.55", Wanted("0.6", "float", 1))
        ('7', '0.6')
    """
    if wanted.choices:
        return _released_option(extraction, wanted.choices)
    try:
        if wanted.answer_type == "integer":
            return str(int(float(extraction)))
        if wanted.answer_type == "float":
            return str(round(float(extraction), wanted.precision))
    except (ValueError, OverflowError):  # int(inf) overflows
        return None
    return extraction


def _released_option(extraction: str, choices: Sequence[str]) -> str:
    bracketed = _BRACKETED.search(extraction)
    letter = bracketed.group(1).upper() if bracketed else extraction.strip()
    place = LETTERS[: len(choices)].find(letter) if len(letter) == 1 else -1
    return choices[place] if place >= 0 else min(choices, key=lambda choice: edit_distance(letter, choice))


def released_verdict(extraction: str, wanted: Wanted) -> bool:
    """Equality of the two forms, blanks included: ``12 `` is not ``12`` where text is wanted."""
    return released_form(extraction, wanted) == wanted.answer


def lmms_verdict(extraction: str, wanted: Wanted) -> bool:
    """The same with blanks at the ends ignored.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/mathvista/mathvista_evals.py``.
    """
    form = released_form(extraction, wanted)
    return form is not None and form.strip() == wanted.answer.strip()


def sound_verdict(text: str, wanted: Wanted) -> bool:
    """Our rule: the option that is named, the last number, the last list; what cannot be read is wrong.

    An option is named by :func:`moiety.evaluate.statements.stated_letter`, else by the last letter in brackets, else by
    a capital letter at the very end. Nothing is guessed, so no answer scores nothing. A number must be the right one:
    7.7 is not 7; where one decimal is wanted 5.04 is 5.0 and 5.06 is not.

    Example:
        >>> sound_verdict("There are 12, so the answer is 1,024 cm.", Wanted("1024", "integer"))
        True
        >>> sound_verdict("", Wanted("none", "text", choices=("2 apples", "none")))
        False
    """
    if wanted.choices:
        return _named_option(text, wanted.choices) == wanted.answer
    text = stated_answer(text)
    if wanted.answer_type == "list":
        found = _LIST.findall(text)
        return bool(found) and _entries(found[-1]) == _entries(wanted.answer.strip("[]"))
    if wanted.answer_type in ("integer", "float"):
        found = numbers_in(text)
        right = numbers_in(wanted.answer)
        digits = wanted.precision if wanted.answer_type == "float" else 6
        return bool(found and right) and round(found[-1], digits) == round(right[-1], digits)
    return normalise(text).rstrip(".") == normalise(wanted.answer).rstrip(".")


def is_read(text: str, wanted: Wanted) -> bool:
    """Whether our rule finds what is wanted in a text, an option, a number or a list."""
    if wanted.choices:
        return _named_option(text, wanted.choices) is not None
    said = stated_answer(text)
    if wanted.answer_type == "list":
        return bool(_LIST.findall(said))
    return bool(numbers_in(said) if wanted.answer_type in ("integer", "float") else said.strip())


def _named_option(text: str, choices: Sequence[str]) -> str | None:
    """The option that the text names, by our rule for all choices or where the prompt wants the letter: at the end."""
    letter = stated_letter(text, choices)
    if letter is None:
        found = _BRACKETED.findall(text) or _LAST_LETTER.findall(text.rstrip())
        letter = found[-1].upper() if found else ""
    place = LETTERS[: len(choices)].find(letter) if letter else -1
    return choices[place] if place >= 0 else None


def _entries(listed: str) -> list[float | str]:
    """What stands between the commas of a list: numbers where they are, else text."""
    parts = (part.strip().lower() for part in listed.split(","))
    return [numbers[0] if (numbers := numbers_in(part)) else part for part in parts]


def numbers_in(text: str) -> list[float]:
    """Decimal numbers in order; commas group digits where they stand between threes and part numbers elsewhere.

    Example:
        >>> numbers_in("1,024 and -3.5%, .5"), numbers_in("1,2,300")
        ([1024.0, -3.5, 0.5], [1.0, 2.0, 300.0])
    """
    found = (match.group(0) for match in _NUMBERS.finditer(text))
    parts = ([run.replace(",", "")] if _GROUPED.fullmatch(run) else run.split(",") for run in found)
    return [float(number) for run in parts for number in run if number]
