"""Scores that can be reached without a picture. Every result has to exceed these floors.

Pure functions of rows with one question each; merged rows are not supported.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from moiety.vlm.rows import IMAGE_MARK, Row


def question_only_floor(train: Sequence[Row], test: Sequence[Row]) -> dict[str, float]:
    """For each type, the accuracy of the most frequent training answer to the same question text.

    A question that does not occur in the training rows gets the most frequent training answer of its type.

    Args:
        train: Rows the answers are counted in.
        test: Rows that are scored.

    Returns:
        Type -> accuracy in 0..1, in the order the types first appear in `test`; without types that `train` lacks.

    Raises:
        ValueError: a row has no answer.
    """
    by_question = _most_frequent(train, lambda row: (row.type, question_of(row)))
    by_type = _most_frequent(train, lambda row: row.type)
    return _accuracy(test, lambda row: by_question.get((row.type, question_of(row)), by_type.get(row.type)))


def majority_floor(train: Sequence[Row], test: Sequence[Row]) -> dict[str, float]:
    """For each type, the accuracy of its most frequent training answer.

    Arguments, result and errors are those of :func:`question_only_floor`.
    """
    by_type = _most_frequent(train, lambda row: row.type)
    return _accuracy(test, lambda row: by_type.get(row.type))


def question_of(row: Row) -> str:
    """The last question of a row, without image marks."""
    asked = [turn.text for turn in row.turns if turn.role == "user"]
    return asked[-1].replace(IMAGE_MARK, "").strip() if asked else ""


def accepted_answers(row: Row) -> tuple[str, ...]:
    """Accepted answers of a row in lower case; its last turn if the row lists none.

    Raises:
        ValueError: the row has neither.
    """
    last = row.turns[-1]
    answers = row.answers or ((last.text,) if last.role == "assistant" else ())
    if not answers:
        raise ValueError(f"{row.place}: no answer to score against; give 'answers' or a last turn of the assistant")
    return tuple(answer.strip().lower() for answer in answers)


def _most_frequent(rows: Sequence[Row], key: Callable[[Row], object]) -> dict[object, str]:
    counts: dict[object, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[key(row)][accepted_answers(row)[0]] += 1
    # among equal counts the alphabet decides, so that the order of rows makes no difference
    return {name: min(found, key=lambda answer: (-found[answer], answer)) for name, found in counts.items()}


def _accuracy(rows: Sequence[Row], guess: Callable[[Row], str | None]) -> dict[str, float]:
    hits: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        guessed = guess(row)
        if guessed is not None:  # without a training answer of that type there is no floor, rather than a floor of 0
            hits[row.type or "untyped"].append(guessed in accepted_answers(row))
    return {name: sum(found) / len(found) for name, found in hits.items()}
