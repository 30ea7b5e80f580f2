"""Trains one method with one seed, and grades it with and without each modality."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from moiety.intent.classifier import IntentClassifier
from moiety.intent.compare.floors import FLOOR_METHODS
from moiety.intent.compare.grading import Graded, Model, grade
from moiety.intent.compare.run_record import IntentRun
from moiety.intent.data.dataset import Split
from moiety.intent.data.samples import has_input
from moiety.intent.data.sources import Parts, rows_of
from moiety.intent.recipe import FLOORS, IntentRecipe, hidden_names


def graded(recipe: IntentRecipe, name: str, model: Model, score: Split) -> dict[str, Graded]:
    """Hidden modalities ("" for none, which is first; then as in the recipe) -> grades; only where rows are left.

    Raises:
        ValueError: the model can read none of the rows.
    """
    oos_label = recipe.model.oos_label
    full = grade(model, score, oos_label=oos_label)
    if full is None:
        raise ValueError(
            f"{name}: no row of {recipe.data.score!r} has a modality that it reads; name a split that has one"
        )
    hidden = {hide: grade(model, score, hidden_names(hide), oos_label) for hide in recipe.compare.hide}
    return {"": full, **{hide: found for hide, found in hidden.items() if found is not None}}


def run_of(
    pair: tuple[str, int],
    settings: Mapping[str, Any],
    found: Mapping[str, Graded],
    training: Mapping[str, float],
    notes: Sequence[str],
    provenance: Mapping[str, Any],
    by_group: bool = False,
) -> IntentRun:
    """The record of a run.

    Args:
        pair: Name and seed.
        settings: Everything that the result depends on.
        found: The grades, as :func:`graded` returns them.
        training: The cost, as :func:`trained` returns it.
        notes: What a reader should know.
        provenance: Command, versions, commit, machine.
        by_group: Whether the counts of each person are kept too.
    """
    full = found[""]
    return IntentRun(
        name=pair[0],
        seed=pair[1],
        settings=settings,
        grades=full.grades,
        hidden={hide: one.grades for hide, one in found.items() if hide},
        rows=len(full.truth),
        without_input={hide: one.without_input for hide, one in found.items()},
        confusion=full.confusion(),
        training=training,
        notes=notes,
        provenance=provenance,
        by_group={hide: one.by_group() for hide, one in found.items()} if by_group else {},
    )


def trained(
    recipe: IntentRecipe, name: str, seed: int, parts: Parts
) -> tuple[Model, Mapping[str, float], Sequence[str]]:
    """A fitted model, the cost of its training, and notes for the reader."""
    settings, method, started = recipe.model_of(name), recipe.method_of(name), time.perf_counter()
    if method in FLOORS:
        rows = teaching(parts.all_train, settings.modalities, settings.oos_label)
        floor: Model = FLOOR_METHODS[method](settings).fit(rows.samples, rows.labels)
        return floor, {"seconds": time.perf_counter() - started}, []
    model = IntentClassifier(**settings.model_dump(exclude={"random_state"}), random_state=seed)
    rows = teaching(parts.train, settings.modalities)
    choose = None if parts.choose is None else teaching(parts.choose, settings.modalities)
    model.fit(rows.samples, rows.labels, *((choose.samples, choose.labels) if choose else (None, None)))
    training = {
        "seconds": time.perf_counter() - started,
        "parameters": float(sum(parameter.numel() for parameter in model.model_.parameters())),
        "epochs": float(len(model.history_)),
        "best_epoch": float(model.best_epoch_),
    }
    return model, training, parts.notes


def teaching(split: Split, modalities: Sequence[str] | None, without: str | None = None) -> Split:
    """The rows that have one of these modalities; rows with the label `without` are left out."""
    kept = [
        i
        for i, (sample, label) in enumerate(zip(split.samples, split.labels, strict=True))
        if has_input(sample, modalities) and (without is None or label != without)
    ]
    return rows_of(split, kept)
