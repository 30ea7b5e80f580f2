"""The measures of HallusionBench after a judge has called each answer wrong, right or unclear.

The benchmark asks the same question about an original figure, an edited one and none at all, so that one can see
whether a wrong answer comes from the language side (memory) or from the eye.

Source:
    Guan et al. 2023 (2310.14566); rules of tianyi-lab/HallusionBench @ 744007c, ``utils.py`` and ``evaluation.py``,
    written again from their description. Rates here are not rounded; the released tool rounds most to four decimals.
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
    """One question with the judge's word on its answer.

    Args:
        category: ``VD``, the question needs the figure, or ``VS``, a figure supplements it.
        subcategory: ``chart``, ``illusion``, ...
        set_id: Questions about one original figure.
        figure_id: ``0`` is the original of VD, and no figure at all in VS.
        question_id: The question inside its set.
        visual_input: ``0`` none, ``1`` the original, ``2`` an edited figure.
        truth: 1 for yes, 0 for no.
        code: :data:`WRONG`, :data:`RIGHT` or :data:`UNCLEAR`.
        same: Whether the answer says the same as that to figure 0.
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
        """Whether the question came without a figure."""
        return self.category == "VS" and self.figure_id == "0"

    @property
    def correct(self) -> bool:
        """Right, or unclear where nothing was shown: there `I cannot tell` is a good answer."""
        return self.code == RIGHT or (self.blind and self.code == UNCLEAR)

    @property
    def question(self) -> tuple[str, ...]:
        """The question over all its figures."""
        return self.category, self.subcategory, self.set_id, self.question_id

    @property
    def figure(self) -> tuple[str, ...]:
        """The figure with all its questions."""
        return self.category, self.subcategory, self.set_id, self.figure_id


def _question(row: Judged) -> Hashable:
    return row.question


def judged_numbers(rows: Sequence[Judged]) -> dict[str, float]:
    """All rates of the released tool; shares in percent, but ``yes_diff`` (-1..1) and ``false_positive_ratio`` (0..1).

    ``aAcc`` counts answers, ``qAcc`` questions right over all their figures, ``fAcc`` figures with all questions right
    (without the figures that are none). A rate without a case is 0.

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
    """Percent of the groups in which every answer is right, by question: qAcc; 0 for no rows."""
    return 100 * _share(share == 1 for share in _shares_of_right((group(row), row.correct) for row in rows).values())


def failure_counts(rows: Sequence[Judged]) -> dict[Failure, int]:
    """How many answers failed in each way; see :func:`failure_of`."""
    originals = {row.question: row.code for row in rows if row.figure_id == "0"}
    counts = Counter(failure_of(row, originals.get(row.question)) for row in rows)
    return {name: counts[name] for name in FAILURES}


def failure_of(row: Judged, original: int | None) -> Failure | None:
    """Where one answer went wrong, told by the code of the same question's `original`; None: it did not, or unknown.

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
    """Share of true values; 0 of none."""
    values = list(holds)
    return sum(values) / len(values) if values else 0.0
