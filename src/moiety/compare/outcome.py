"""Before the runs: the questions and their floors. After the runs: the files that a person reads."""

from __future__ import annotations

import shlex
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from moiety.compare.page import report_page
from moiety.compare.plot import draw
from moiety.compare.summary import Comparison
from moiety.compare.table import csv_text, json_text, markdown
from moiety.compare.verdicts import Floors
from moiety.evaluate.question_floors import majority_floor, question_only_floor
from moiety.evaluate.report import UNTYPED, types_of
from moiety.evaluate.tasks import task_of
from moiety.recipe.recipe import Recipe
from moiety.records.saving import write_atomically
from moiety.vlm.rows import Row, load_rows

PLOT = "comparison.png"
PLOT_CAPTION = (
    "Accuracy by type of question, with 95 % intervals. Hollow: the same model with a blank image. Grey marks: what "
    "can be had without a picture."
)


def questions_of(recipe: Recipe) -> list[Row]:
    """The first ``evaluate.limit`` rows of the files that score a model."""
    return load_rows([Path(recipe.data.root) / name for name in recipe.evaluate.data])[: recipe.evaluate.limit]


def floors_of(recipe: Recipe, questions: Sequence[Row]) -> dict[str, Floors]:
    """Type as it is scored -> accuracies that need no picture; None where the training data lack the type."""
    files = dict.fromkeys(name for stage in recipe.stages for name in stage.data)
    types = {row.type for row in questions}
    train = [row for row in load_rows([Path(recipe.data.root) / name for name in files]) if row.type in types]
    names = types_of(questions)
    named = [replace(row, type=name) for row, name in zip(questions, names, strict=True)]
    train = [replace(row, type=_type_of(row, set(names))) for row in train]
    majority, question_only = majority_floor(train, named), question_only_floor(train, named)
    chances: dict[str, list[float]] = {}
    for row, name in zip(questions, names, strict=True):
        if row.choices:
            chances.setdefault(name, []).append(1 / len(row.choices))
    return {
        name: Floors(
            majority=majority.get(name),
            question_only=question_only.get(name),
            chance=sum(chances[name]) / len(chances[name]) if name in chances else None,
        )
        for name in dict.fromkeys(names)
    }


def _type_of(row: Row, scored: Container[str]) -> str:
    """The type of a training row, under the name that questions of that type are scored by."""
    name = row.type or UNTYPED
    return name if name in scored else f"{name} ({task_of(row).name})"


def write_outcome(
    comparison: Comparison, pictures: Mapping[str, Path] | None = None, commands: Mapping[str, str] | None = None
) -> None:
    """Write table, plot and page into the comparison's folder; each file is whole at any time.

    Args:
        comparison: The comparison as it is now.
        pictures: Caption -> PNG of further pictures for the page.
        commands: What a reader may do next -> the command, to be typed in that folder; added to those of every report.
    """
    folder = comparison.folder
    write_atomically(folder / "table.md", markdown(comparison))
    write_atomically(folder / "table.csv", csv_text(comparison))
    write_atomically(folder / "results.json", json_text(comparison))
    if comparison.records:
        draw(comparison, folder / PLOT)
    shown, further = (
        {PLOT_CAPTION: folder / PLOT, **(pictures or {})},
        {**next_commands(comparison), **(commands or {})},
    )
    write_atomically(comparison.report, report_page(comparison, shown, further))


def next_commands(comparison: Comparison, *, whole: bool = False) -> dict[str, str]:
    """What a reader may do with the model that was kept -> the command, to be typed in the comparison's folder.

    Args:
        comparison: A comparison of which some models were kept, or none.
        whole: Write the whole path of the model instead; then the command may be typed anywhere.
    """
    if comparison.model is None:
        return {}
    path = comparison.model if whole else comparison.model.relative_to(comparison.folder)
    model = shlex.quote(path.as_posix())
    return {
        "Talk to a trained model in a page, and see which expert reads what": f"moiety demo-app {model}",
        "Ask it about one picture of yours": f'moiety inspect {model} PICTURE "QUESTION"',
    }
