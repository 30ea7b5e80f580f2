"""Scores for each type of question, from rows and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from moiety.evaluate.identities import told_apart
from moiety.evaluate.scorers import conflict_counts
from moiety.evaluate.tasks import TASKS, prior_of, task_of
from moiety.stats.intervals import Estimate, wilson_interval
from moiety.vlm.rows import Row

UNTYPED = "untyped"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Conflict:
    """Whether a model answered from evidence or from memory, in questions where the two differ.

    Args:
        num_questions: Questions in conflict: rows whose ``prior_answer`` is not their right answer.
        evidence: ConR: share of questions answered from evidence, with its Wilson interval.
        memory: MemR: share of questions answered with the prior answer.
        ratio: MR = MemR / (MemR + ConR), over the questions answered in one of these ways; None if there are none.
    """

    num_questions: int
    evidence: Estimate
    memory: Estimate
    ratio: Estimate | None


@dataclass(frozen=True)
class TypeScore:
    """Score of one type of question in one run.

    Args:
        type: The rows' `type`, followed by the task if several tasks score rows of one type.
        task: Name of the task that scored it, a key of ``TASKS``.
        num_questions: Rows scored.
        accuracy: Share of right answers with its Wilson interval, all in 0..1.
        metrics: Further numbers of the task, such as ``f1`` and ``yes_rate``.
        conflict: Evidence against memory, if rows have a ``prior_answer``.
        num_unreadable: Answers in which the task found no letter, or no yes or no. None: the task accepts any text.
    """

    type: str
    task: str
    num_questions: int
    accuracy: Estimate
    metrics: Mapping[str, float] = field(default_factory=dict)
    conflict: Conflict | None = None
    num_unreadable: int | None = None

    @property
    def more(self) -> str:
        """All numbers other than accuracy as one text, in percent."""
        parts = [f"{name} {100 * value:.1f}" for name, value in self.metrics.items() if name != UNREADABLE]
        if self.num_unreadable is not None:
            parts.append(f"{UNREADABLE} {self.num_unreadable:,} of {self.num_questions:,}")
        if self.conflict is not None:
            shown = {"ConR": self.conflict.evidence, "MemR": self.conflict.memory, "MR": self.conflict.ratio}
            parts += [f"{name} {percent(value)}" for name, value in shown.items() if value is not None]
        return ", ".join(parts)


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of one run, for each type of question and over all questions.

    Args:
        types: Type -> score, in the order in which types first occur in the rows.
        overall: Accuracy over all questions with its Wilson interval. Types have different floors: read `types` first.
        seconds: Time spent on the answers that this call made. Answers read from a file take no time.
        predictions: Row id -> what the model wrote.
    """

    types: Mapping[str, TypeScore]
    overall: Estimate
    seconds: float = 0.0
    predictions: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def mean_of_types(self) -> float:
        """Unweighted mean of the accuracies of all types."""
        return sum(score.accuracy.mean for score in self.types.values()) / len(self.types)

    def to_dict(self) -> dict[str, Any]:
        """The numbers for JSON, without the predictions."""
        return {
            "types": {name: asdict(score) for name, score in self.types.items()},
            "overall": asdict(self.overall),
            "mean_of_types": self.mean_of_types,
            "seconds": self.seconds,
            "rules": {score.task: TASKS[score.task].rule for score in self.types.values()},
        }

    def table(self) -> list[dict[str, str]]:
        """One line for each type: type, task, questions, accuracy in percent, further numbers."""
        return [
            {
                "type": score.type,
                "task": score.task,
                "questions": str(score.num_questions),
                "accuracy %": percent(score.accuracy),
                "more": score.more,
            }
            for score in self.types.values()
        ]


def percent(estimate: Estimate) -> str:
    """An accuracy with its interval, in percent: ``81.2 [79.0, 83.2]``; without interval ``81.2``."""
    text = f"{100 * estimate.mean:.1f}"
    return f"{text} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]" if estimate.has_interval else text


def score_predictions(rows: Sequence[Row], predictions: Mapping[str, str], seconds: float = 0.0) -> EvaluationResult:
    """Score the model's text for each row.

    Args:
        rows: Questions with answers.
        predictions: Row id -> text. Every row needs one. Rows that share an id are named as by
            :func:`moiety.evaluate.identities.told_apart`.
        seconds: Passed on to the result.

    Raises:
        ValueError: there is no row, or a row has no prediction.
    """
    if not rows:
        raise ValueError("no rows to score; give at least one question")
    rows = told_apart(rows)
    missing = [row.id for row in rows if row.id not in predictions]
    if missing:
        raise ValueError(f"{len(missing)} of {len(rows)} rows have no prediction, first {missing[0]!r}")
    by_type: dict[str, list[Row]] = {}
    for row, name in zip(rows, types_of(rows), strict=True):
        by_type.setdefault(name, []).append(row)
    types = {name: _score_type(name, members, predictions) for name, members in by_type.items()}
    num_right = sum(round(score.accuracy.mean * score.num_questions) for score in types.values())
    return EvaluationResult(types, wilson_interval(num_right, len(rows)), seconds, dict(predictions))


def types_of(rows: Sequence[Row]) -> list[str]:
    """The type under which each row is scored: its own, followed by its task if one type has several tasks.

    Two files may use one type for different kinds of questions. One accuracy over both would mean nothing.

    Example:
        >>> from moiety.vlm.rows import Turn
        >>> said = [Row(str(n), (Turn("user", "?"),), answers=(a,), type="k") for n, a in enumerate(("yes", "red"))]
        >>> types_of(said[:1]), types_of(said)
        (['k'], ['k (yes_no)', 'k (exact)'])
    """
    named = [(row.type or UNTYPED, task_of(row).name) for row in rows]
    tasks: dict[str, set[str]] = {}
    for name, task in named:
        tasks.setdefault(name, set()).add(task)
    return [f"{name} ({task})" if len(tasks[name]) > 1 else name for name, task in named]


def _score_type(name: str, rows: Sequence[Row], predictions: Mapping[str, str]) -> TypeScore:
    task = task_of(rows[0])
    truths = [task.truth(row) for row in rows]
    readings = [task.read(predictions[row.id], row) for row in rows]
    num_right = sum(truth == reading for truth, reading in zip(truths, readings, strict=True))
    counts = conflict_counts(truths, [prior_of(row) for row in rows], readings)
    unreadable = None if task.reads_all else readings.count(None)
    metrics = task.metrics(truths, readings)
    accuracy = wilson_interval(num_right, len(rows))
    return TypeScore(name, task.name, len(rows), accuracy, metrics, _conflict(*counts), unreadable)


def _conflict(num_questions: int, with_evidence: int, with_memory: int) -> Conflict | None:
    if num_questions == 0:
        return None
    either = with_evidence + with_memory
    return Conflict(
        num_questions,
        wilson_interval(with_evidence, num_questions),
        wilson_interval(with_memory, num_questions),
        wilson_interval(with_memory, either) if either else None,
    )
