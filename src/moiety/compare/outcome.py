"""What stands on both sides of the runs: the questions with their floors, and the files a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moiety.compare.page import report_page
from moiety.compare.plot import draw
from moiety.compare.summary import Comparison, Floors
from moiety.compare.table import csv_text, json_text, markdown
from moiety.config import Recipe
from moiety.evaluate.report import UNTYPED
from moiety.saving import write_atomically
from moiety.vlm.floors import majority_floor, question_only_floor
from moiety.vlm.rows import Row, load_rows

PLOT = "comparison.png"
PLOT_CAPTION = (
    "Accuracy per type of question with 95 % intervals; hollow: blank image; lines: floors without a picture."
)


def questions_of(recipe: Recipe) -> list[Row]:
    """Rows that score a model, the first ``evaluate.limit`` of them."""
    return load_rows([Path(recipe.data.root) / name for name in recipe.evaluate.data])[: recipe.evaluate.limit]


def floors_of(recipe: Recipe, questions: Sequence[Row]) -> dict[str, Floors]:
    """Type -> what training answers alone, or guessing, reach on `questions`."""
    files = dict.fromkeys(name for stage in recipe.stages for name in stage.data)
    types = {row.type for row in questions}
    train = [row for row in load_rows([Path(recipe.data.root) / name for name in files]) if row.type in types]
    majority, question_only = majority_floor(train, questions), question_only_floor(train, questions)
    chances: dict[str, list[float]] = {}
    for row in questions:
        if row.choices:
            chances.setdefault(row.type or UNTYPED, []).append(1 / len(row.choices))
    return {
        name: Floors(
            majority=majority[name],
            question_only=question_only[name],
            chance=sum(chances[name]) / len(chances[name]) if name in chances else None,
        )
        for name in majority
    }


def write_outcome(comparison: Comparison, pictures: Mapping[str, Path] | None = None) -> None:
    """Write table, plot and page into the comparison's folder; each file is whole at any time.

    Args:
        comparison: What is known by now.
        pictures: Caption -> PNG of further pictures for the page.
    """
    folder = comparison.folder
    write_atomically(folder / "table.md", markdown(comparison))
    write_atomically(folder / "table.csv", csv_text(comparison))
    write_atomically(folder / "results.json", json_text(comparison))
    if comparison.records:
        draw(comparison, folder / PLOT)
    write_atomically(comparison.report, report_page(comparison, {PLOT_CAPTION: folder / PLOT, **(pictures or {})}))
