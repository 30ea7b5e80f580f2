"""What the records of all runs say together: means, contrasts, verdicts."""

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
    """Everything that is known of one comparison; tables, pictures and pages are made from it.

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
        """Whether every person scored once, in folds: intervals and verdicts are then about persons, not seeds."""
        return self.recipe.data.folds is not None

    @property
    def asked_contrasts(self) -> list[str]:
        """Names of the contrasts whose members are all in this table."""
        compare = self.recipe.compare
        return [name for name in compare.contrasts if set(compare.weights(name)) <= set(self.names)]

    def is_floor(self, name: str) -> bool:
        """Whether this line is a floor: it has one run, because it does not depend on a seed."""
        return self.recipe.method_of(name) in FLOORS

    def values(self, name: str, measure: str, hide: str = "") -> dict[int, float]:
        """Seed -> value in 0..1; a floor has the same value for every seed.

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
        """Mean over seeds with Student's 95 % interval; None without a result.

        One seed has no interval, and a floor has none. Where persons were scored in folds, the interval comes from
        persons drawn with replacement, and floors have one too.
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

    def contrast_on(self, name: str, weights: Mapping[str, float], measures: Sequence[str]) -> list[Contrast]:
        """One contrast on each of these measures, not corrected yet.

        The pairs are persons where persons were scored in folds, and seeds otherwise. A measure on which the members
        have no seed in common is left out.

        Args:
            name: What the contrast is called.
            weights: Line of the table -> weight; they sum to 0.
            measures: Names of measures.
        """
        if self.rests_on_persons:
            return self._contrast_over_persons(name, weights, measures)
        found = []
        for measure in measures:
            values = {member: self.values(member, measure) for member in weights}
            contrast = contrast_over(name, weights, measure, values)
            if contrast is not None:
                found.append(replace(contrast, unit="measures"))
        return found

    def _contrast_over_persons(
        self, name: str, weights: Mapping[str, float], measures: Sequence[str]
    ) -> list[Contrast]:
        runs = {member: {run.seed: run for run in self.runs if run.name == member} for member in weights}
        seeds_of_trained = [set(of_member) for member, of_member in runs.items() if not self.is_floor(member)]
        seeds = sorted(set.intersection(*seeds_of_trained)) if seeds_of_trained else [0]
        if not seeds or not all(runs.values()):
            return []
        paired = {m: [*runs[m].values()] if self.is_floor(m) else [runs[m][seed] for seed in seeds] for m in weights}
        tables = tables_of(paired)
        estimates = drawn(tables, weights)
        tests = {measure: test for measure, (_, test) in estimates.items()}
        if sorted(weights.values()) == [-1, 1]:
            first, second = sorted(weights, key=lambda member: -weights[member])
            tests = swapped(tables[first], tables[second])
        return [
            Contrast(name, weights, measure, estimates[measure][0], tests[measure], unit="measures", pairs="person")
            for measure in measures
        ]

    def contrasts(self) -> list[Contrast]:
        """The contrasts of the recipe whose members are in this table, their p corrected after Holm."""
        compare = self.recipe.compare
        asked = [self.contrast_on(name, compare.weights(name), compare.measures) for name in self.asked_contrasts]
        return as_families([contrast for of_name in asked for contrast in of_name])

    @property
    def how_tested(self) -> str:
        """How verdicts and intervals of contrasts come about, in two or three sentences."""
        if self.rests_on_persons:
            return (
                "A verdict comes from a two-sided permutation test at level 0.05: for each person, chance decides "
                "which method gave which answers. The p values are corrected after Holm over the measures of a "
                "contrast. The interval comes from persons drawn with replacement."
            )
        return (
            "A verdict comes from the exact two-sided sign-flip test over paired seeds, at level 0.05. The p values "
            "are corrected after Holm over the measures of a contrast. The interval is Student's."
        )

    @property
    def limit(self) -> str:
        """What this number of seeds can never show, whatever the runs say; empty where it can show something."""
        number = len(self.seeds)
        if not self.asked_contrasts or not number or self.rests_on_persons:
            return ""
        limit = limit_of(number, 2.0 ** (1 - number), len(self.recipe.compare.measures), "measures")
        return f"No contrast can be shown: {limit}; take more seeds or fewer measures." if limit else ""

    def confusion(self, name: str) -> tuple[list[str], list[list[int]]] | None:
        """Labels and counts of one line, summed over its seeds; None without a result."""
        tables = [run.confusion for run in self.runs if run.name == name]
        if not tables:
            return None
        labels = sorted({label for table in tables for label in table["labels"]})
        place = {label: i for i, label in enumerate(labels)}
        total = [[0] * len(labels) for _ in labels]
        for table in tables:
            for truth, line in zip(table["labels"], table["counts"], strict=True):
                for said, count in zip(table["labels"], line, strict=True):
                    total[place[truth]][place[said]] += count
        return labels, total
