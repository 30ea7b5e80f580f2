"""Free answers compared with those of ten people: how VQAv2, TextVQA and VizWiz normalise text and count agreement.

Source:
    The rules of GT-Vision-Lab/VQA @ a013f00, ``vqaEval.py``, and of the longer form that mmf made of them
    (``m4c_evaluator.py`` in AlenjandroWang/MoIIE @ c614868), in code of our own. Some steps below look odd. They
    are kept as they were, because scores compare only if every step is the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

NUM_PEOPLE = 10
_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_STOP_NOT_BEFORE_DIGIT = re.compile(r"\.(?!\d)")
_NUM_STOPS_DELETED = 32
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(value) for value, word in enumerate(_WORDS)}}
_ARTICLES = frozenset({"a", "an", "the"})
_APOSTROPHES = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""


def _one_apostrophe_missing(word: str) -> Iterator[str]:
    return (word[:place] + word[place + 1 :] for place, sign in enumerate(word) if sign == "'")


CONTRACTIONS: Mapping[str, str] = {
    **{wrong: word for word in _APOSTROPHES.split() for wrong in _one_apostrophe_missing(word)},
    "somebody'd": "somebodyd",  # the only entry of the original that removes an apostrophe
}
"""Spelling without one of its apostrophes -> the word."""


def without_punctuation(text: str) -> str:
    """The punctuation step. Signs are deleted or become blanks; full stops are deleted unless a digit follows.

    All copies of a sign are deleted if one copy stands beside a blank, or if a comma stands between two digits anywhere
    in the text. Otherwise each copy becomes a blank. Only the first 32 full stops are deleted, because the original
    code passes a flag where the function expects a count. Other signs (``$ % # & ' :`` and all outside ASCII) stay.

    Example:
        >>> [without_punctuation(text) for text in ("wi-fi", "7 - eleven", "1,000-2", "3.5.")]
        ['wi fi', '7  eleven', '10002', '3.5']
    """
    has_number = _COMMA_IN_NUMBER.search(text) is not None
    out = text
    for sign in _SIGNS:
        if sign in text:
            gone = has_number or f"{sign} " in text or f" {sign}" in text
            out = out.replace(sign, "" if gone else " ")
    return _STOP_NOT_BEFORE_DIGIT.sub("", out, count=_NUM_STOPS_DELETED)


def without_articles(text: str) -> str:
    """The digit and article step: lower case, ``none`` to ``ten`` as digits, no articles, missing apostrophes added.

    Example:
        >>> without_articles("The two dogs dont"), without_articles("None")
        ("2 dogs don't", '0')
    """
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def on_one_line(text: str) -> str:
    """The text with line breaks and tabs as blanks, and without blanks at its ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def short_form(text: str) -> str:
    """The text in the form of the VQAv2 rule: one line, then punctuation step, then digit and article step.

    Example:
        >>> short_form("Two, please.")
        '2 please'
    """
    return without_articles(without_punctuation(on_one_line(text)))


def long_form(text: str) -> str:
    """The text in the form of the TextVQA rule (m4c).

    It is put into lower case, loses commas and question marks, and gets a blank before ``'s``. Then follow the steps of
    :func:`short_form`.

    Example:
        >>> long_form("The John's?"), long_form("red,white")
        ("john 's", 'redwhite')
    """
    bare = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return without_articles(without_punctuation(on_one_line(bare)))


def agreement(answer: str, people: Sequence[str]) -> float:
    r"""Agreement of an answer with ten people, 0..1.

    For each person, m is the number of the other nine people who gave `answer`. The agreement is the mean of
    :math:`\min(1, m / 3)` over the ten people. If one person gave the answer, it is 0.3; for two people 0.6, for three
    0.9, for four or more 1.

    Args:
        answer: The answer that is scored.
        people: Ten answers in the same form.

    Raises:
        ValueError: `people` does not hold ten answers.

    Example:
        >>> [round(agreement("red", ["red"] * count + ["blue"] * (10 - count)), 6) for count in (0, 1, 3, 4)]
        [0.0, 0.3, 0.9, 1.0]
    """
    if len(people) != NUM_PEOPLE:
        raise ValueError(
            f"a question has {len(people)} answers; this rule is defined for the answers of {NUM_PEOPLE} people"
        )
    same = sum(answer == given for given in people)
    others = same * min(1.0, (same - 1) / 3) + (NUM_PEOPLE - same) * min(1.0, same / 3)
    return others / NUM_PEOPLE
