"""Records of all runs to what may be said about them: means over seeds, contrasts, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moiety.contrasts import Contrast, as_families, contrast_over, limit_of
from moiety.intent.recipe import FLOORS, IntentRecipe
from moiety.intent.run_record import IntentRun
from moiety.intervals import Estimate, seed_interval

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
        """Mean over seeds with Student's interval; one seed, or a floor, has none. None without a result."""
        values = self.values(name, measure, hide)
        if not values:
            return None
        if self.is_floor(name):
            return Estimate(next(iter(values.values())), math.nan, math.nan, 1)
        return seed_interval(list(values.values()))

    def mean_of(self, name: str, key: str) -> float:
        """Mean over runs of one number of training; NaN where there is none."""
        values = [run.training[key] for run in self.runs if run.name == name and key in run.training]
        return math.fsum(values) / len(values) if values else math.nan

    def contrasts(self) -> list[Contrast]:
        """What the recipe's contrasts say by now, p corrected; those without a common seed are left out."""
        found = []
        for name in self.recipe.compare.contrasts:
            weights = self.recipe.compare.weights(name)
            for measure in self.recipe.compare.measures:
                values = {member: self.values(member, measure) for member in weights}
                contrast = contrast_over(name, weights, measure, values)
                if contrast is not None:
                    found.append(replace(contrast, unit="measures"))
        return as_families(found)

    @property
    def limit(self) -> str:
        """What the number of seeds cannot show whatever the runs say; empty when they can show something."""
        number = len(self.seeds)
        if not self.recipe.compare.contrasts or not number:
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
