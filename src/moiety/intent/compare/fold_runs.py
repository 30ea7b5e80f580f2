"""Runs one method with one seed in folds of persons: one record for each fold, then one record for all."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moiety.intent.compare.persons import tables_of
from moiety.intent.compare.run_record import IntentRun, load_run, save_run
from moiety.intent.compare.training_run import graded, run_of, trained
from moiety.intent.data.dataset import Split
from moiety.intent.data.folds import folds_of
from moiety.intent.metrics import measures_of
from moiety.intent.recipe import IntentRecipe

logger = logging.getLogger(__name__)


def made_in_folds(
    recipe: IntentRecipe,
    pair: tuple[str, int],
    split: Split,
    folder: Path,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> IntentRun:
    """Train and score one method with one seed in every fold; finished folds are kept.

    Args:
        recipe: With ``data.folds``.
        pair: Name in the table, and seed.
        split: All rows, with their groups.
        folder: Folder of the run; each fold writes ``fold<k>/result.json`` below it.
        settings: Everything that the result depends on.
        provenance: Command, versions, commit, machine.

    Raises:
        ValueError: there are too few groups, or a fold was made with other settings.
    """
    name, seed = pair
    parts = folds_of(split, recipe.data_of(name).folds or 2, seed)
    found = []
    for number, part in enumerate(parts):
        place, fold_settings = folder / f"fold{number}", {**settings, "fold": number}
        run = load_run(place, fold_settings)
        if run is None:
            logger.info("%s: fold %d of %d", folder.name, number + 1, len(parts))
            model, training, notes = trained(recipe, name, seed, part)
            grades = graded(recipe, name, model, part.score)
            run = run_of(pair, fold_settings, grades, training, notes, provenance, by_group=True)
            save_run(run, place)
        found.append(run)
    return pooled(found, settings)


def pooled(runs: Sequence[IntentRun], settings: Mapping[str, Any]) -> IntentRun:
    """The answers of all folds as one run. Its grades are those of all rows together, not means over folds.

    Args:
        runs: The runs of the folds, each with the counts of its persons.
        settings: Settings of the whole run.
    """
    first = runs[0]
    by_group: dict[str, dict[str, Any]] = {}
    hides = [hide for hide in first.by_group if all(hide in run.by_group for run in runs)]
    grades, confusion = {}, {}
    for hide in hides:
        labels = sorted({label for run in runs for label in run.by_group[hide]["labels"]})
        place = {label: i for i, label in enumerate(labels)}
        counts = {}
        for run in runs:
            of_run = [place[label] for label in run.by_group[hide]["labels"]]  # place in the run -> place in all
            for group, cells in run.by_group[hide]["counts"].items():
                counts[group] = [[of_run[truth], of_run[said], number] for truth, said, number in cells]
        by_group[hide] = {"labels": labels, "counts": counts}
        table = tables_of({first.name: [replace(first, by_group=by_group)]}, hide)[first.name].sum((0, 1))
        grades[hide] = {measure: float(value) for measure, value in measures_of(table).items()}
        confusion[hide] = {"labels": labels, "counts": table.astype(int).tolist()}
    return IntentRun(
        name=first.name,
        seed=first.seed,
        settings=settings,
        grades=grades[""],
        hidden={hide: grades[hide] for hide in hides if hide},
        rows=sum(run.rows for run in runs),
        without_input={hide: sum(run.without_input[hide] for run in runs) for hide in hides},
        confusion=confusion[""],
        training=_together([run.training for run in runs]),
        notes=first.notes,
        provenance=first.provenance,
        by_group=by_group,
    )


def _together(training: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum of the seconds of all folds, and the mean of everything else."""
    found = {key: math.fsum(one[key] for one in training) for key in training[0]}
    return {key: value if key == "seconds" else value / len(training) for key, value in found.items()}
