"""What one number of a comparison may claim: whether the picture was used, and whether two schemes differ."""

from __future__ import annotations

from dataclasses import dataclass

from moiety.evaluate.report import percent
from moiety.stats.intervals import Estimate
from moiety.stats.permutation import SignFlip, shown_p

EQUAL = "equal"


@dataclass(frozen=True)
class Floors:
    """Accuracies in 0..1 that need no picture, on one type of question; None where a floor does not apply.

    Args:
        majority: Always answer with the most frequent training answer of the type.
        question_only: Answer with the most frequent training answer to the same question text.
        chance: Guess among the options of a multiple-choice question.
    """

    majority: float | None = None
    question_only: float | None = None
    chance: float | None = None

    @property
    def best(self) -> float:
        """The highest of the floors; 0 where there is none."""
        return max(
            (value for value in (self.majority, self.question_only, self.chance) if value is not None), default=0.0
        )


@dataclass(frozen=True)
class Standing:
    """One score beside what can be reached without the picture.

    Args:
        scheme: The scheme that was scored.
        question_type: Type of question.
        score: Accuracy with the pictures, in 0..1.
        blank: Accuracy of the same model with blank pictures; None where it was not measured.
        floors: Accuracies that need no picture and no model.
    """

    scheme: str
    question_type: str
    score: Estimate
    blank: Estimate | None
    floors: Floors

    @property
    def bar(self) -> float:
        """What the score has to exceed: the best floor and the upper end of the blank-image score."""
        control = 0.0 if self.blank is None else self.blank.high if self.blank.has_interval else self.blank.mean
        return max(self.floors.best, control)

    @property
    def sees(self) -> bool:
        """Whether the lower end of the score exceeds :attr:`bar`: then the picture was used."""
        return self.score.has_interval and self.score.low > self.bar

    @property
    def sentence(self) -> str:
        """For instance ``moiie on 'coarse': 45.1 [43.0, 47.2] against blank image 10.9, question-only 11.1: above``."""
        controls = {
            "blank image": None if self.blank is None else self.blank.mean,
            "majority": self.floors.majority,
            "question-only": self.floors.question_only,
            "chance": self.floors.chance,
        }
        named = ", ".join(f"{name} {100 * value:.1f}" for name, value in controls.items() if value is not None)
        verdict = "above all of them" if self.sees else "not shown to be above all of them"
        return f"{self.scheme} on {self.question_type!r}: {percent(self.score)} against {named or 'nothing'}: {verdict}"


@dataclass(frozen=True)
class Difference:
    """One paired difference, first minus second, and what may be said about it.

    Args:
        first: The scheme whose accuracy is taken.
        second: The scheme whose accuracy is subtracted.
        question_type: Type of question.
        estimate: Mean of first minus second over the paired seeds, in -1..1.
        budget_remark: How `second` differs from the reference in activated parameters; ``equal`` where it does not.
        test: Sign-flip test over the same seeds.
        corrected: The p of the test after Holm's correction over all differences of the comparison.
        withheld: Why no verdict is given, whatever the numbers are; empty where one is.
    """

    first: str
    second: str
    question_type: str
    estimate: Estimate
    budget_remark: str
    test: SignFlip
    corrected: float = 1.0
    withheld: str = ""

    @property
    def is_tested(self) -> bool:
        """Whether there are enough seeds for an interval, and a verdict may be given."""
        return self.estimate.has_interval and not self.withheld

    @property
    def is_clear(self) -> bool:
        """Whether the verdict says which scheme is higher."""
        return self.is_tested and (self.estimate.low > 0 or self.estimate.high < 0)

    @property
    def verdict(self) -> str:
        """In words, and never more than the interval shows."""
        if self.withheld:
            return f"no verdict: {self.withheld}"
        if not self.estimate.has_interval:
            return "one seed: no verdict"
        if self.estimate.low > 0:
            return f"{self.first} is higher"
        if self.estimate.high < 0:
            return f"{self.first} is lower"
        return "not distinguishable"

    @property
    def sentence(self) -> str:
        """For instance ``moiie − vanilla on 'x': +1.2 points [−0.5, +2.9], 5 seeds, p 0.25: not distinguishable``."""
        estimate = self.estimate
        interval = f" [{points(estimate.low)}, {points(estimate.high)}]" if estimate.has_interval else ""
        seeds = f"{estimate.num_values} seed{'s' * (estimate.num_values != 1)}"
        if self.is_tested:
            seeds += f", p {shown_p(self.test.p)}, corrected {shown_p(self.corrected)}"
        remark = "" if self.budget_remark == EQUAL else f" ({self.second}: {self.budget_remark})"
        return (
            f"{self.first} − {self.second} on {self.question_type!r}: {points(estimate.mean)} points{interval}, "
            f"{seeds}: {self.verdict}{remark}"
        )


def points(value: float) -> str:
    """A signed number of percentage points: ``+1.2``, ``−0.5``."""
    return f"{100 * value:+.1f}".replace("-", "−")
