"""What the records of all runs allow to say: means over seeds, paired differences, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moiety.compare.records import RunRecord
from moiety.evaluate.report import percent
from moiety.recipe.compare import MEAN_OF_TYPES, CompareSettings
from moiety.stats.contrasts import Contrast, as_families, contrast_over
from moiety.stats.intervals import Estimate, paired_difference, seed_interval
from moiety.stats.permutation import SignFlip, holm, shown_p, sign_flip_test

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
class SchemeRow:
    """One scheme of the comparison: what its model is made of. One line of the tables.

    Args:
        scheme: Name as compared, such as ``dense_wide`` or the name of a variant.
        budget_remark: ``equal``, or in words how the activated parameters differ from those of the reference.
        expert_ffn: Inner width of one expert; for a model without experts, of the dense FFN.
        activated: Activated parameters.
        total: All parameters.
        relative_difference: ``activated / activated of the reference - 1``.
        against_dense: The same against the dense model, with vision tower and projector left out on both sides.
        widths: Expert group or part -> width, where the experts do not share one width.
        note: Why the recipe has this variant.
        meaning: What the scheme does, in one sentence.
    """

    scheme: str
    budget_remark: str
    expert_ffn: int
    activated: int
    total: int
    relative_difference: float
    against_dense: float | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    note: str = ""
    meaning: str = ""

    @property
    def has_equal_budget(self) -> bool:
        """Whether the scheme activates as many parameters as the reference, within the recipe's tolerance."""
        return self.budget_remark == EQUAL


@dataclass(frozen=True)
class Comparison:
    """Everything that one comparison knows. Tables, plot and page are made from it.

    Args:
        name: Name of the recipe.
        rows: The schemes, in the order of the recipe.
        reference: The scheme that every other scheme is compared with.
        records: Finished runs.
        floors: Type of question -> what can be reached without a picture.
        planned: (scheme, seed) of every run that was asked for.
        context: Settings, command and versions, for the report.
        folder: Where everything is written.
        asked: The section ``compare`` of the recipe; it holds the contrasts.
        title: Title of the report; empty: made from the name of the recipe.
        model: Folder of a trained model that was kept; None where there is none.
    """

    name: str
    rows: Sequence[SchemeRow]
    reference: str
    records: Sequence[RunRecord]
    floors: Mapping[str, Floors] = field(default_factory=dict)
    planned: Sequence[tuple[str, int]] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    asked: CompareSettings = field(default_factory=CompareSettings)
    title: str = ""
    model: Path | None = None

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"

    @property
    def types(self) -> list[str]:
        """Types of question, in the order of the data."""
        return list(dict.fromkeys(name for record in self.records for name in record.evaluation["types"]))

    @property
    def missing(self) -> list[tuple[str, int]]:
        """(scheme, seed) of every run that was asked for and has no result yet."""
        done = {(record.scheme, record.seed) for record in self.records}
        return [pair for pair in self.planned if pair not in done]

    def values(self, scheme: str, question_type: str, blank: bool = False) -> dict[int, float]:
        """Seed -> accuracy in 0..1. `question_type` may be ``mean of types``."""
        found = {}
        for record in self.records:
            if record.scheme == scheme:
                value = _accuracy(record, question_type, blank)
                if value is not None:
                    found[record.seed] = value
        return found

    def score(self, scheme: str, question_type: str, blank: bool = False) -> Estimate | None:
        """Mean over seeds with Student's interval; for one seed, its accuracy with Wilson's interval over questions."""
        values = self.values(scheme, question_type, blank)
        if not values:
            return None
        if len(values) > 1 or question_type == MEAN_OF_TYPES:
            return seed_interval(list(values.values()))
        record = next(record for record in self.records if record.scheme == scheme and record.seed in values)
        scores = record.blank if blank else record.evaluation
        assert scores is not None
        return Estimate(**scores["types"][question_type]["accuracy"])

    def mean_of(self, scheme: str, key: str) -> float:
        """Mean over seeds of one number of the training; NaN where it was not measured."""
        values = [record.training[key] for record in self.records if record.scheme == scheme and key in record.training]
        return math.fsum(values) / len(values) if values else math.nan

    def conflict(self, scheme: str, question_type: str, rate: str) -> Estimate | None:
        """The rate ``evidence`` (ConR), ``memory`` (MemR) or ``ratio`` (MR) on one type, as in :meth:`score`."""
        found = [
            scores[rate]
            for record in self.records
            if record.scheme == scheme
            and (scores := record.evaluation["types"].get(question_type, {}).get("conflict"))
            and scores[rate] is not None
        ]
        if len(found) == 1:
            return Estimate(**found[0])
        return seed_interval([estimate["mean"] for estimate in found]) if found else None

    def reference_minus_others(self) -> list[Difference]:
        """The reference minus each other scheme, for every type and for the mean of types, paired by seed.

        A positive difference says that the reference is the better of the two.
        """
        found = []
        for row in self.rows:
            for name in [*self.types, MEAN_OF_TYPES]:
                other, reference = self.values(row.scheme, name), self.values(self.reference, name)
                if row.scheme != self.reference and (seeds := sorted(set(other) & set(reference))):
                    test = sign_flip_test([reference[seed] - other[seed] for seed in seeds])
                    estimate = paired_difference(reference, other)
                    found.append(Difference(self.reference, row.scheme, name, estimate, row.budget_remark, test))
        tested = [number for number, difference in enumerate(found) if difference.estimate.has_interval]
        corrected = holm([found[number].test.p for number in tested])
        for number, p in zip(tested, corrected, strict=True):
            found[number] = replace(found[number], corrected=p)
        return found

    def contrasts(self) -> list[Contrast]:
        """The contrasts of the recipe over the finished runs, with corrected p.

        A contrast whose schemes have no finished seed in common is left out.
        """
        unequal = {row.scheme: row.budget_remark for row in self.rows if not row.has_equal_budget}
        types = [name for name in [*self.types, MEAN_OF_TYPES] if name in (self.asked.contrast_types or [name])]
        found = []
        for name in self.asked.contrasts:
            weights = self.asked.weights(name)
            remarks = [f"{scheme}: {unequal[scheme]}" for scheme in weights if scheme in unequal]
            for question_type in types:
                values = {scheme: self.values(scheme, question_type) for scheme in weights}
                contrast = contrast_over(name, weights, question_type, values)
                if contrast is not None:
                    found.append(replace(contrast, remarks=remarks))
        return as_families(found)

    def standings(self) -> list[Standing]:
        """Each scheme on each type of question, beside what can be reached without the picture."""
        return [
            Standing(row.scheme, name, score, self.score(row.scheme, name, blank=True), self.floors.get(name, Floors()))
            for row in self.rows
            for name in self.types
            if (score := self.score(row.scheme, name)) is not None
        ]


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
    """

    first: str
    second: str
    question_type: str
    estimate: Estimate
    budget_remark: str
    test: SignFlip
    corrected: float = 1.0

    @property
    def verdict(self) -> str:
        """In words, and never more than the interval shows."""
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
        if estimate.has_interval:
            seeds += f", p {shown_p(self.test.p)}, corrected {shown_p(self.corrected)}"
        remark = "" if self.budget_remark == EQUAL else f" ({self.second}: {self.budget_remark})"
        return (
            f"{self.first} − {self.second} on {self.question_type!r}: {points(estimate.mean)} points{interval}, "
            f"{seeds}: {self.verdict}{remark}"
        )


def points(value: float) -> str:
    """A signed number of percentage points: ``+1.2``, ``−0.5``."""
    return f"{100 * value:+.1f}".replace("-", "−")


def _accuracy(record: RunRecord, question_type: str, blank: bool) -> float | None:
    if question_type != MEAN_OF_TYPES:
        return record.accuracy(question_type, blank)
    scores = record.blank if blank else record.evaluation
    return None if scores is None else float(scores["mean_of_types"])
