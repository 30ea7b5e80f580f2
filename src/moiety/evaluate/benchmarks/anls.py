"""Average normalised Levenshtein similarity: how DocVQA and its relatives forgive misread letters."""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of one character that turn one text into the other.

    Example:
        >>> edit_distance("kitten", "sitting"), edit_distance("", "ab")
        (3, 2)
    """
    if len(first) < len(second):
        first, second = second, first
    before = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        now = [row]
        for column, other in enumerate(second):
            if letter == other:
                now.append(before[column])
            else:
                now.append(1 + min(before[column], before[column + 1], now[column]))
        before = now
    return before[-1]


def anls(text: str, answers: Sequence[str]) -> float:
    r"""Score of one question: :math:`1 - \min_a d(a) / l(a)`, or 0 where that is below one half; 0..1.

    d is the edit distance in lower case with blanks collapsed; l the larger length of the two texts **as they came**,
    in upper case (an ``ß`` counts twice, a trailing blank counts): the divisor is the released one, oddities included.

    Args:
        text: What the model wrote.
        answers: Accepted answers, at least one.

    Raises:
        ValueError: there is no answer.

    Source:
        ``infographicsvqa_eval.py`` (AlenjandroWang/MoIIE @ c614868), the file published with the benchmark; lmms-eval @
        75571cf has the same rule.

    Example:
        >>> anls("St Louis", ["St. Louis"]), anls("Paris", ["St. Louis"])
        (0.8888888888888888, 0.0)
    """
    _check_answers(answers)
    distances = (_distance(_collapsed(text), _collapsed(answer), _raw_length(text, answer)) for answer in answers)
    return _kept(1 - min(distances))


def anls_stvqa(text: str, answers: Sequence[str]) -> float | None:
    """The same with blanks kept inside and the divisor taken after stripping; None where both texts are empty.

    Raises:
        ValueError: there is no answer.

    Source:
        ``m4c_evaluator.py`` (AlenjandroWang/MoIIE @ c614868), which divides by zero where this gives None.

    Example:
        >>> anls_stvqa(" A  B ", ["a b"]), anls_stvqa("", [" "])
        (0.75, None)
    """
    _check_answers(answers)
    bare = text.strip().lower()
    pairs = [(answer.strip().lower(), max(len(bare), len(answer.strip().lower()))) for answer in answers]
    if any(length == 0 for _, length in pairs):
        return None
    return _kept(1 - min(_distance(bare, answer, length) for answer, length in pairs))


def _check_answers(answers: Sequence[str]) -> None:
    if not answers:
        raise ValueError("a question without accepted answers cannot be scored by ANLS; give at least one answer")


def _collapsed(text: str) -> str:
    return " ".join(text.lower().split())


def _raw_length(first: str, second: str) -> int:
    return max(len(first.upper()), len(second.upper()))


def _distance(first: str, second: str, length: int) -> float:
    """Edit distance over `length`; not counted out where lengths alone put it beyond the threshold."""
    if length == 0:
        return 0.0
    bound = abs(len(first) - len(second)) / length
    return bound if bound > THRESHOLD else edit_distance(first, second) / length


def _kept(similarity: float) -> float:
    return similarity if similarity >= THRESHOLD else 0.0
