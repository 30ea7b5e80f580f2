"""The measures of HallusionBench after a judge has called each answer wrong, right or unclear.

The benchmark asks the same question about an original figure, about an edited figure, and without a figure. The three
answers show whether an error comes from memory (language) or from misreading the figure (vision).

Source:
    Guan et al. 2023 (2310.14566); rules of tianyi-lab/HallusionBench @ 744007c, ``utils.py`` and ``evaluation.py``,
    in code of our own. Rates here are not rounded; the released tool rounds most to four decimals.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

WRONG, RIGHT, UNCLEAR = 0, 1, 2
Failure = Literal["language_hallucination", "visual_illusion", "mixed"]
FAILURES: tuple[Failure, ...] = ("language_hallucination", "visual_illusion", "mixed")


@dataclass(frozen=True)
class Judged:
    """One question, and how the judge graded its answer.

    Args:
        category: ``VD`` if the question needs the figure; ``VS`` if a figure only supplements it.
        subcategory: ``chart``, ``illusion``, ...
        set_id: Number of a set: all questions about one original figure and its edits.
        figure_id: In VD, ``0`` is the original figure. In VS, ``0`` means that there is no figure.
        question_id: Number of the question inside its set.
        visual_input: ``0`` no figure, ``1`` the original figure, ``2`` an edited figure.
        truth: 1 for yes, 0 for no.
        code: :data:`WRONG`, :data:`RIGHT` or :data:`UNCLEAR`.
        same: Whether the answer says the same as the answer to this question about figure 0.
    """

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    visual_input: str
    truth: int
    code: int
    same: bool

    @property
    def blind(self) -> bool:
        """Whether the question was asked without a figure."""
        return self.category == "VS" and self.figure_id == "0"

    @property
    def correct(self) -> bool:
        """Whether the answer counts as right. An unclear answer does too, if the question came without a figure."""
        return self.code == RIGHT or (self.blind and self.code == UNCLEAR)

    @property
    def question(self) -> tuple[str, ...]:
        """Key of the question; equal for all figures about which it is asked."""
        return self.category, self.subcategory, self.set_id, self.question_id

    @property
    def figure(self) -> tuple[str, ...]:
        """Key of the figure; equal for all questions about it."""
        return self.category, self.subcategory, self.set_id, self.figure_id


def _question(row: Judged) -> Hashable:
    return row.question


def judged_numbers(rows: Sequence[Judged]) -> dict[str, float]:
    """All rates of the released tool, in percent; but ``yes_diff`` is -1..1 and ``false_positive_ratio`` is 0..1.

    ``aAcc`` is the share of right answers. ``qAcc`` is the share of questions that were answered right for all their
    figures. ``fAcc`` is the share of figures of which all questions were answered right; questions without a figure do
    not enter it. A rate that no answer enters is 0.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no judged answers of HallusionBench; give at least one")
    figures = _shares_of_right((row.figure, row.correct) for row in rows if not row.blind)
    wrong = [row for row in rows if not row.correct]
    said_yes = sum(row.correct == bool(row.truth) for row in rows)
    failures = failure_counts(rows)
    return {
        "aAcc": 100 * (len(rows) - len(wrong)) / len(rows),
        "qAcc": all_right(rows),
        "fAcc": 100 * _share(share == 1 for share in figures.values()),
        "easy_qAcc": all_right([row for row in rows if row.visual_input != "2"]),
        "hard_qAcc": all_right([row for row in rows if row.visual_input == "2"]),
        "yes_diff": (said_yes - sum(row.truth for row in rows)) / len(rows),
        "false_positive_ratio": _share(row.truth == 0 for row in wrong),
        "consistency_correct": 100 * _share(share == 1 for share in figures.values()),
        "consistency_inconsistent": 100 * _share(0 < share < 1 for share in figures.values()),
        "consistency_wrong": 100 * _share(share == 0 for share in figures.values()),
        "figure_score": 100 * sum(figures.values()) / len(figures) if figures else 0.0,
        **{name: 100 * count / max(1, sum(failures.values())) for name, count in failures.items()},
    }


def all_right(rows: Sequence[Judged], group: Callable[[Judged], Hashable] = _question) -> float:
    """Percentage of groups in which every answer is right; 0 without rows. Grouped by question, this is qAcc."""
    return 100 * _share(share == 1 for share in _shares_of_right((group(row), row.correct) for row in rows).values())


def failure_counts(rows: Sequence[Judged]) -> dict[Failure, int]:
    """Number of answers with each kind of failure; see :func:`failure_of`."""
    originals = {row.question: row.code for row in rows if row.figure_id == "0"}
    counts = Counter(failure_of(row, originals.get(row.question)) for row in rows)
    return {name: counts[name] for name in FAILURES}


def failure_of(row: Judged, original: int | None) -> Failure | None:
    """The kind of failure of one answer. None: the answer is right, or the kind is unknown.

    Args:
        row: The answer.
        original: Code of the answer to the same question about figure 0; None if it was not asked.

    Example:
        >>> seen = Judged("VS", "chart", "0", "1", "0", "2", truth=1, code=WRONG, same=True)
        >>> failure_of(seen, WRONG), failure_of(seen, UNCLEAR)
        ('language_hallucination', 'visual_illusion')
    """
    if row.code == RIGHT:
        return None
    if row.figure_id == "0":
        return _failure_on_original(row)
    if row.category == "VD":
        repeated = original == RIGHT and row.code == WRONG and row.same
        return "mixed" if repeated else "visual_illusion"
    if original == WRONG:
        return "language_hallucination" if row.code == WRONG and row.same else "mixed"
    if original == UNCLEAR or row.code == UNCLEAR:
        return "visual_illusion" if original is not None else None
    if original == RIGHT:
        from_memory = row.visual_input == "2" and row.same
        return "language_hallucination" if from_memory else "visual_illusion"
    return None


def _failure_on_original(row: Judged) -> Failure | None:
    if row.category == "VD":
        return "visual_illusion"
    return "language_hallucination" if row.code == WRONG else None


def _shares_of_right(answers: Iterable[tuple[Hashable, bool]]) -> Mapping[Hashable, float]:
    """Group -> share of its answers that are right, 0..1."""
    groups: dict[Hashable, list[bool]] = defaultdict(list)
    for group, correct in answers:
        groups[group].append(correct)
    return {group: sum(right) / len(right) for group, right in groups.items()}


def _share(holds: Iterable[bool]) -> float:
    """Share of true values; 0 if there are no values."""
    values = list(holds)
    return sum(values) / len(values) if values else 0.0
