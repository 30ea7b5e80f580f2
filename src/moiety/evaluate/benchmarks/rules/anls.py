"""Average normalised Levenshtein similarity (ANLS): the score of DocVQA, which tolerates a few wrong letters."""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of one character that turn one text into the other.

    One column of the usual table is kept as two whole numbers, a bit a row: where the next cell is one more
    (``rises``) and where it is one less (``falls``). A step to the next letter is then a handful of operations whatever
    the length of the shorter text, so that an answer of 100 kB costs tenths of a second.

    Source:
        Myers 1999, in the form of Hyyrö 2003, fig. 3.

    Example:
        >>> edit_distance("kitten", "sitting"), edit_distance("", "ab")
        (3, 2)
    """
    short, long = sorted((first, second), key=len)
    if not short:
        return len(long)
    places: dict[str, int] = {}
    for place, letter in enumerate(short):
        places[letter] = places.get(letter, 0) | 1 << place
    all_rows, last_row = (1 << len(short)) - 1, 1 << len(short) - 1
    rises, falls, distance = all_rows, 0, len(short)
    for letter in long:
        equal = places.get(letter, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        more, less = falls | ~(diagonal | rises) & all_rows, rises & diagonal
        distance += bool(more & last_row) - bool(less & last_row)
        more, less = more << 1 | 1, less << 1
        rises, falls = (less | ~(diagonal | more)) & all_rows, more & diagonal & all_rows
    return distance


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
    """Edit distance divided by `length`. It is not computed if the lengths alone put it above the threshold."""
    if length == 0:
        return 0.0
    bound = abs(len(first) - len(second)) / length
    return bound if bound > THRESHOLD else edit_distance(first, second) / length


def _kept(similarity: float) -> float:
    return similarity if similarity >= THRESHOLD else 0.0
