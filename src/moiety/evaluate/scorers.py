"""Scoring rules that decide whether a model's text is right. Each rule is one pure function.

A rule never guesses. For text that it cannot read as an answer it gives None, which counts as wrong and is also counted
separately.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence

LETTERS = string.ascii_uppercase


def normalise(text: str) -> str:
    """The text in lower case without blanks at its ends, as exact match compares it.

    Example:
        >>> normalise("  Granny Smith ")
        'granny smith'
    """
    return text.strip().lower()


def exact_match(text: str, answers: Sequence[str]) -> bool:
    """Whether `text` is one of the accepted `answers` after :func:`normalise`.

    Example:
        >>> exact_match("Apple ", ["apple", "red apple"])
        True
    """
    return normalise(text) in {normalise(answer) for answer in answers}


# -- yes or no ---------------------------------------------------------------------------------------------------------
def first_word_verdict(text: str) -> str | None:
    """``yes`` or ``no`` if that is the first word, in any case and with any punctuation; otherwise None.

    Example:
        >>> first_word_verdict("Yes, two of them."), first_word_verdict("NO"), first_word_verdict("nothing")
        ('yes', 'no', None)
    """
    words = re.findall(r"[^\W_]+", text.lower())
    return words[0] if words and words[0] in ("yes", "no") else None


def official_verdict(text: str) -> str:
    """Rule of the POPE script: ``no`` if a word of the first sentence is exactly No, no or not; else ``yes``.

    So an empty answer and ``NO`` count as yes. Use this rule to repeat published numbers, not to judge a new model.

    Source:
        RUCAIBox/POPE @ 3df3ba1, evaluate.py; the released MoIIE code has the same rule.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def whole_text_verdict(text: str) -> str | None:
    """``yes`` or ``no`` if the text is that word alone; otherwise None.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, tasks/pope/utils.py.
    """
    verdict = normalise(text)
    return verdict if verdict in ("yes", "no") else None


YES_NO_RULES: Mapping[str, Callable[[str], str | None]] = {
    "first_word": first_word_verdict,
    "official": official_verdict,
    "lmms_eval": whole_text_verdict,
}


def yes_no_metrics(truths: Sequence[str], verdicts: Sequence[str | None]) -> dict[str, float]:
    """Precision, recall and F1 of the answer yes, the share of yes among all answers and the share of unreadable ones.

    A ratio without any case (no answer was yes, or no right answer is yes) is 0.

    Args:
        truths: ``yes`` or ``no``, one for each question.
        verdicts: What the model answered; None if its text is neither.

    Example:
        >>> yes_no_metrics(["yes", "yes", "no", "no"], ["yes", "no", "yes", None])["f1"]
        0.5
    """
    pairs = list(zip(truths, verdicts, strict=True))
    hits = sum(truth == verdict == "yes" for truth, verdict in pairs)
    said = sum(verdict == "yes" for _, verdict in pairs)
    true = sum(truth == "yes" for truth, _ in pairs)
    precision = hits / said if said else 0.0
    recall = hits / true if true else 0.0
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / (said + true) if said + true else 0.0,
        "yes_rate": said / len(pairs) if pairs else 0.0,
        "unreadable": sum(verdict is None for _, verdict in pairs) / len(pairs) if pairs else 0.0,
    }


# -- evidence against memory -------------------------------------------------------------------------------------------
def conflict_counts(
    truths: Sequence[str], priors: Sequence[str | None], readings: Sequence[str | None]
) -> tuple[int, int, int]:
    """Questions in conflict, those answered with the evidence and those answered with the prior.

    Args:
        truths: What the evidence says, one for each question.
        priors: What memory says, if that differs. None: there is no conflict, and the question is not counted.
        readings: What the model answered; None if its text is unreadable.

    Example:
        >>> conflict_counts(["blue", "red", "green"], ["yellow", "orange", None], ["blue", "orange", "green"])
        (2, 1, 1)
    """
    asked = [entry for entry in zip(truths, priors, readings, strict=True) if entry[1] is not None]
    with_evidence = sum(reading == truth for truth, _, reading in asked)
    with_memory = sum(reading == prior for _, prior, reading in asked)
    return len(asked), with_evidence, with_memory


# -- multiple choice ---------------------------------------------------------------------------------------------------
_LETTER_FIRST = re.compile(r"^\(?([A-Za-z])(?:[).:,]|$)")
_ANSWER_IS = re.compile(r"(?:answer|option|choice)(?: is|:)? *\(?([A-Z])\b", re.IGNORECASE)


def option_letter(text: str, choices: Sequence[str]) -> str | None:
    """The option that `text` names, as a capital letter; None when it names none of them.

    These are tried in order: a letter at the start of the text (``B``, ``(b)``, ``B. pear``), ``answer is B`` or
    ``option: B``, and the exact words of an option.

    Args:
        text: What the model wrote.
        choices: Options in the order A, B, C, ...; a letter beyond them is not an answer.

    Example:
        >>> [option_letter(text, ["apple", "pear"]) for text in ("b", "(A) apple", "The answer is B.", "Pear", "C")]
        ['B', 'A', 'B', 'B', None]
    """
    stripped = text.strip()
    found = _LETTER_FIRST.match(stripped) or _ANSWER_IS.search(stripped)
    if found:
        letter = found.group(1).upper()
        return letter if letter in LETTERS[: len(choices)] else None
    for letter, choice in zip(LETTERS, choices, strict=False):
        if normalise(stripped).rstrip(".") == normalise(choice).rstrip("."):
            return letter
    return None
