"""Records of all runs to what may be said about them: means over seeds, contrasts, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from moiety.intent.compare.persons import drawn, swapped, tables_of
from moiety.intent.compare.run_record import IntentRun
from moiety.intent.recipe import FLOORS, IntentRecipe
from moiety.stats.contrasts import Contrast, as_families, contrast_over, limit_of
from moiety.stats.intervals import Estimate, seed_interval

Pair = tuple[str, int]
"""Name in the table, and seed."""


@dataclass(frozen=True)
class IntentComparison:
    """Everything one comparison knows; tables, pictures and pages are drawn from it.

    Args:
        recipe: What was asked.
        names: Lines of the table, in order.
        runs: Finished runs.
        planned: What was asked for.
        folder: Where everything is written.
        context: Rows of each split, command and versions, for the report.
    """

    recipe: IntentRecipe
    names: Sequence[str]
    runs: Sequence[IntentRun]
    planned: Sequence[Pair]
    folder: Path
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.folder / "report.html"

    @property
    def missing(self) -> list[Pair]:
        """Runs that were asked for and have no result yet."""
        done = {(run.name, run.seed) for run in self.runs}
        return [pair for pair in self.planned if pair not in done]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the table, those of floors left out."""
        return sorted({seed for name, seed in self.planned if not self.is_floor(name)})

    @property
    def rests_on_persons(self) -> bool:
        """Whether every person scored once, so that intervals and verdicts are about persons; otherwise about seeds."""
        return self.recipe.data.folds is not None

    @property
    def asked_contrasts(self) -> list[str]:
        """Contrasts of the recipe whose members are all lines of this table."""
        compare = self.recipe.compare
        return [name for name in compare.contrasts if set(compare.weights(name)) <= set(self.names)]

    def is_floor(self, name: str) -> bool:
        """Whether no seed enters this line: one run speaks for all."""
        return self.recipe.method_of(name) in FLOORS

    def values(self, name: str, measure: str, hide: str = "") -> dict[int, float]:
        """Seed -> value in 0..1; a floor has the same for every seed.

        Args:
            name: Line of the table.
            measure: Name of the measure.
            hide: Modalities taken away, as in the recipe; "" for none.
        """
        found = {}
        for run in self.runs:
            grades = run.hidden.get(hide, {}) if hide else run.grades
            if run.name == name and measure in grades:
                found[run.seed] = grades[measure]
        if self.is_floor(name) and found:
            return dict.fromkeys(self.seeds or found, next(iter(found.values())))
        return found

    def estimate(self, name: str, measure: str, hide: str = "") -> Estimate | None:
        """Mean over seeds with Student's interval; one seed, or a floor, has none. None without a result.

        Where persons were scored in folds the interval is that of persons drawn anew, for floors too.
        """
        values = self.values(name, measure, hide)
        if not values:
            return None
        if self.rests_on_persons:
            return self._of_persons[name, hide][measure]
        if self.is_floor(name):
            return Estimate(next(iter(values.values())), math.nan, math.nan, 1)
        return seed_interval(list(values.values()))

    def mean_of(self, name: str, key: str) -> float:
        """Mean over runs of one number of training; NaN where there is none."""
        values = [run.training[key] for run in self.runs if run.name == name and key in run.training]
        return math.fsum(values) / len(values) if values else math.nan

    @cached_property
    def _of_persons(self) -> dict[tuple[str, str], dict[str, Estimate]]:
        """Name and what is hidden -> measure -> its estimate over persons."""
        found = {}
        for name in self.names:
            runs = [run for run in self.runs if run.name == name]
            for hide in runs[0].by_group if runs else ():
                drawn_ones = drawn(tables_of({name: runs}, hide), {name: 1.0})
                found[name, hide] = {measure: one[0] for measure, one in drawn_ones.items()}
        return found

    def _contrasts_over_persons(self, name: str) -> list[Contrast]:
        """One contrast on every measure of the recipe, persons as pairs; none without a common seed."""
        weights = self.recipe.compare.weights(name)
        runs = {member: {run.seed: run for run in self.runs if run.name == member} for member in weights}
        trained = [set(own) for member, own in runs.items() if not self.is_floor(member)]
        seeds = sorted(set.intersection(*trained)) if trained else [0]
        if not seeds or not all(runs.values()):
            return []
        own = {m: [*runs[m].values()] if self.is_floor(m) else [runs[m][seed] for seed in seeds] for m in weights}
        tables = tables_of(own)
        estimates = drawn(tables, weights)
        tests = {measure: test for measure, (_, test) in estimates.items()}
        if sorted(weights.values()) == [-1, 1]:
            first, second = sorted(weights, key=lambda member: -weights[member])
            tests = swapped(tables[first], tables[second])
        return [
            Contrast(name, weights, measure, estimates[measure][0], tests[measure], unit="measures", pairs="person")
            for measure in self.recipe.compare.measures
        ]

    def contrasts(self) -> list[Contrast]:
        """What the contrasts of these lines say by now, p corrected; those without a common seed are left out."""
        if self.rests_on_persons:
            return as_families([one for name in self.asked_contrasts for one in self._contrasts_over_persons(name)])
        found = []
        for name in self.asked_contrasts:
            weights = self.recipe.compare.weights(name)
            for measure in self.recipe.compare.measures:
                values = {member: self.values(member, measure) for member in weights}
                contrast = contrast_over(name, weights, measure, values)
                if contrast is not None:
                    found.append(replace(contrast, unit="measures"))
        return as_families(found)

    @property
    def how_tested(self) -> str:
        """What verdicts and intervals of contrasts rest on, one or two sentences."""
        if self.rests_on_persons:
            return (
                "Verdicts read a two-sided test in which the answers of two methods to a person change sides at "
                "random, at 0.05, after Holm's correction over the measures that a contrast is tested on. The interval "
                "is that of persons drawn with replacement."
            )
        return (
            "Verdicts read the exact two-sided sign-flip test over paired seeds at 0.05, after Holm's correction over "
            "the measures that a contrast is tested on. The interval is Student's."
        )

    @property
    def limit(self) -> str:
        """What the number of seeds cannot show whatever the runs say; empty when they can show something."""
        number = len(self.seeds)
        if not self.asked_contrasts or not number or self.rests_on_persons:
            return ""
        limit = limit_of(number, 2.0 ** (1 - number), len(self.recipe.compare.measures), "measures")
        return f"No contrast can be shown: {limit}; take more seeds or fewer measures." if limit else ""

    def confusion(self, name: str) -> tuple[list[str], list[list[int]]] | None:
        """Labels and counts of one line, summed over its seeds; None without a result."""
        own = [run.confusion for run in self.runs if run.name == name]
        if not own:
            return None
        labels = sorted({label for table in own for label in table["labels"]})
        place = {label: i for i, label in enumerate(labels)}
        total = [[0] * len(labels) for _ in labels]
        for table in own:
            for truth, line in zip(table["labels"], table["counts"], strict=True):
                for said, count in zip(table["labels"], line, strict=True):
                    total[place[truth]][place[said]] += count
        return labels, total
