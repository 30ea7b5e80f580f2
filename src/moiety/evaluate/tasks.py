"""The kinds of questions and how their answers are scored: one record for each kind, in one dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moiety.evaluate.question_floors import accepted_answers
from moiety.evaluate.scorers import (
    LETTERS,
    exact_match,
    normalise,
    option_letter,
    yes_no_metrics,
)
from moiety.evaluate.statements import stated_letter, stated_word, without_wrappers
from moiety.vlm.rows import Row

Metrics = Callable[[Sequence[str], Sequence[str | None]], dict[str, float]]


@dataclass(frozen=True)
class Task:
    """One kind of question.

    Args:
        name: Key in :data:`TASKS`.
        rule: How text is compared, in words for a report.
        applies: Whether a row is of this kind.
        truth: The right answer of a row in the form that `read` gives.
        read: Reads the answer from the model's text; None if it is unreadable.
        reads_all: Whether every text counts as an answer, so that none is unreadable.
        metrics: Further numbers from all truths and readings, besides accuracy.
    """

    name: str
    rule: str
    applies: Callable[[Row], bool]
    truth: Callable[[Row], str]
    read: Callable[[str, Row], str | None]
    metrics: Metrics = lambda truths, readings: {}
    reads_all: bool = False


def _is_yes_no(row: Row) -> bool:
    return {normalise(answer) for answer in accepted_answers(row)} <= {"yes", "no"}


def _choice_truth(row: Row) -> str:
    letter = option_letter(accepted_answers(row)[0], row.choices)
    if letter is None:
        options = ", ".join(f"{letter} {choice!r}" for letter, choice in zip(LETTERS, row.choices, strict=False))
        raise ValueError(
            f"{row.place}: answer {accepted_answers(row)[0]!r} is none of its choices {options}; give the letter"
        )
    return letter


def _read_exact(text: str, row: Row) -> str:
    """The first accepted answer if the text is one of them, so that it compares equal to the truth."""
    answers = accepted_answers(row)
    bare = next((said for said in (text, *without_wrappers(text)) if exact_match(said, answers)), None)
    return normalise(answers[0]) if bare is not None else normalise(text)


TASKS: Mapping[str, Task] = {
    "choice": Task(
        "choice",
        "letter of the option, wrappers taken off: the last `answer is X`, the first letter, or the option's own words",
        applies=lambda row: bool(row.choices),
        truth=_choice_truth,
        read=lambda text, row: stated_letter(text, row.choices),
    ),
    "yes_no": Task(
        "yes_no",
        "yes or no, wrappers taken off: the last `answer is yes`, or the first word",
        applies=_is_yes_no,
        truth=lambda row: normalise(accepted_answers(row)[0]),
        read=lambda text, row: stated_word(text),
        metrics=yes_no_metrics,
    ),
    "exact": Task(
        "exact",
        "equal to an accepted answer after lower-casing and stripping, wrappers and a full stop taken off",
        applies=lambda row: True,
        truth=lambda row: normalise(accepted_answers(row)[0]),
        read=_read_exact,
        reads_all=True,
    ),
}


def task_of(row: Row) -> Task:
    """The first task in :data:`TASKS` that applies."""
    return next(task for task in TASKS.values() if task.applies(row))


def prior_of(row: Row) -> str | None:
    """What memory alone would answer to a row with ``prior_answer``, in the form that its task reads.

    None if the row has no ``prior_answer``, or if memory is right, because then there is no conflict.

    Raises:
        ValueError: ``prior_answer`` cannot be read as an answer to the row.
    """
    given = row.extra.get("prior_answer")
    if given is None:
        return None
    task = task_of(row)
    prior = task.read(given, row) if isinstance(given, str) and given.strip() else None
    if prior is None:
        options = (
            f"one of {', '.join(row.choices)} or its letter" if row.choices else "a text in the form of its answers"
        )
        raise ValueError(f"{row.place}: prior_answer {given!r} is no answer to the question; give {options}")
    return None if prior == task.truth(row) else prior
