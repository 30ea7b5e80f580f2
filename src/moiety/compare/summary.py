"""What the records of all runs allow to say: means over seeds, paired differences, verdicts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moiety.compare.records import RunRecord
from moiety.compare.verdicts import EQUAL, Difference, Floors, Standing
from moiety.recipe.compare import MEAN_OF_TYPES, CompareSettings
from moiety.records.pages import listed
from moiety.stats.contrasts import Contrast, as_families, contrast_over
from moiety.stats.intervals import Estimate, paired_difference, seed_interval
from moiety.stats.permutation import holm, sign_flip_test


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
        why_unequal: Why its activated parameters cannot be those of the reference; empty where there is nothing to say.
        starts_as_dense: Whether it computes the same as the dense base before it is trained; None: not known.
        start_text_loss: Its loss on plain text before it is trained; None: not measured.
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
    why_unequal: str = ""
    starts_as_dense: bool | None = None
    start_text_loss: float | None = None

    @property
    def has_equal_budget(self) -> bool:
        """Whether the scheme activates as many parameters as the reference, within the recipe's tolerance."""
        return self.budget_remark == EQUAL


@dataclass(frozen=True)
class DenseBase:
    """The dense model that all schemes start from.

    Args:
        given: Whether it existed before the recipe, so that there is something to lose.
        recovery: Name of the sparse stage that brings back what was lost; empty where the recipe names none.
        text_loss: Its loss on plain text; None where it was not measured.
        num_texts: Number of texts that this loss is the mean of.
        folder: Where it is; None while it does not exist.
        stops: Whether the comparison stops before training at a scheme that lost something.
    """

    given: bool = False
    recovery: str = ""
    text_loss: float | None = None
    num_texts: int = 0
    folder: Path | None = None
    stops: bool = False


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
        base: The dense model that all schemes start from.
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
    base: DenseBase = field(default_factory=DenseBase)

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

    def text_losses(self, scheme: str) -> list[float]:
        """Loss on plain text after training, one for each seed that it was measured for."""
        found = [record.text_loss for record in self.records if record.scheme == scheme]
        return [loss for loss in found if loss is not None]

    def withheld(self, schemes: Collection[str]) -> str:
        """Why no verdict is given between `schemes`; empty where one is.

        A scheme that does not start as a given dense model has lost what that model knew. Beside one that lost nothing
        it has to learn that again, so their scores say nothing about the schemes. A recipe whose stage brings it back
        says so with ``recovers: true``. If the recipe builds the dense model from nothing, nothing can be lost.
        """
        if not self.base.given or self.base.recovery:
            return ""
        starts = {row.scheme: row.starts_as_dense for row in self.rows if row.scheme in schemes}
        lost, kept = ([name for name, start in starts.items() if start is wanted] for wanted in (False, True))
        if not lost or not kept:
            return ""
        return f"{_do(lost, 'not start as the dense model')} and {_do(kept)}"

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
                    why = self.withheld((self.reference, row.scheme))
                    found.append(
                        Difference(self.reference, row.scheme, name, estimate, row.budget_remark, test, 1.0, why)
                    )
        tested = [number for number, difference in enumerate(found) if difference.is_tested]
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
                    found.append(replace(contrast, remarks=remarks, withheld=self.withheld(weights)))
        return as_families(found)

    def standings(self) -> list[Standing]:
        """Each scheme on each type of question, beside what can be reached without the picture."""
        return [
            Standing(row.scheme, name, score, self.score(row.scheme, name, blank=True), self.floors.get(name, Floors()))
            for row in self.rows
            for name in self.types
            if (score := self.score(row.scheme, name)) is not None
        ]


def _do(names: Sequence[str], what: str = "") -> str:
    """``a does not start``, ``a and b do``."""
    return f"{listed(names)} {'does' if len(names) == 1 else 'do'} {what}".rstrip()


def _accuracy(record: RunRecord, question_type: str, blank: bool) -> float | None:
    if question_type != MEAN_OF_TYPES:
        return record.accuracy(question_type, blank)
    scores = record.blank if blank else record.evaluation
    return None if scores is None else float(scores["mean_of_types"])
