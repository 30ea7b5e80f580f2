"""The files a person reads after a comparison: tables, pictures, and one HTML page that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from moiety.intent.compare.outcome import IntentComparison
from moiety.intent.compare.pictures import CONFUSION, EMBEDDING, SCORES, draw_confusion, draw_scores
from moiety.intent.compare.run_record import run_folder
from moiety.intent.compare.sentences import limits, made, result, title_of
from moiety.intent.compare.tables import (
    caption,
    contrast_table,
    cost_table,
    csv_text,
    hidden_table,
    json_text,
    markdown,
    notes,
    score_table,
)
from moiety.intent.recipe import FLOORS
from moiety.records.pages import html_contrasts, html_figure, html_heading, html_note, html_table, report
from moiety.records.saving import write_atomically


def write_tables(comparison: IntentComparison) -> None:
    """Write the tables into the comparison's folder; each file is whole at any time."""
    write_atomically(comparison.folder / "table.md", markdown(comparison))
    write_atomically(comparison.folder / "table.csv", csv_text(comparison))
    write_atomically(comparison.folder / "results.json", json_text(comparison))


def write_outcome(comparison: IntentComparison) -> None:
    """Write tables, pictures and the page, which shows them, into the comparison's folder."""
    write_tables(comparison)
    folder = comparison.folder
    if comparison.runs:
        draw_scores(comparison, folder / SCORES)
    first = first_method(comparison)
    confusion = None if first is None else comparison.confusion(first)
    if confusion is not None:
        draw_confusion(*confusion, folder / CONFUSION)
    write_atomically(comparison.report, report_page(comparison))


def first_method(comparison: IntentComparison) -> str | None:
    """Whose pictures stand in the report: the recipe's own method, or the first line that was trained with a seed."""
    done = {run.name for run in comparison.runs}
    names = [comparison.recipe.model.method, *comparison.names]
    return next((name for name in names if name in done and not comparison.is_floor(name)), None)


def pictures_of(comparison: IntentComparison) -> dict[str, Path]:
    """Caption -> PNG, in the order of the report.

    Args:
        comparison: A comparison, finished or not; pictures that are not drawn yet are left out.
    """
    first, folder = first_method(comparison), comparison.folder
    found = {"Mean over seeds with Student's 95 % intervals; grey lines are floors.": folder / SCORES}
    if first is not None:
        seed = comparison.recipe.seeds[0]
        found |= {
            f"{first}, all seeds together: true label down, answer across.": folder / CONFUSION,
            f"{first}, seed {seed}: the rows that score, as the head sees them, on their two directions of largest "
            "spread.": run_folder(folder, first, seed) / EMBEDDING,
        }
    return {caption: path for caption, path in found.items() if path.exists()}


def report_page(comparison: IntentComparison) -> str:
    """The whole report as one HTML page that needs nothing beside it; scores in percent, pictures inside.

    Args:
        comparison: A comparison, finished or not.

    Raises:
        OSError: a picture that is there cannot be read.
    """
    first, *further = [html_figure(text, path) for text, path in pictures_of(comparison).items()] or [""]
    sections = [
        first,
        html_heading("Scores"),
        html_table(score_table(comparison), FLOORS),
        html_note(caption(comparison)),
        *_contrasts(comparison),
        *_hidden(comparison),
        *further,
        html_heading("Cost"),
        html_table(cost_table(comparison), FLOORS),
        html_heading("To know when reading these numbers"),
        *map(html_note, notes(comparison)),
    ]
    said = (made(comparison), result(comparison), limits(comparison))
    return report(title_of(comparison), said, sections, comparison.context)


def _hidden(comparison: IntentComparison) -> list[str]:
    """What is left when modalities are taken away, where the recipe asks."""
    if not comparison.recipe.compare.hide:
        return []
    note = "Nothing is trained anew: each model answers again with modalities taken away from the rows."
    return [
        html_heading("When a modality is missing"),
        html_note(note),
        html_table(hidden_table(comparison), FLOORS, num_texts=2),
    ]


def _contrasts(comparison: IntentComparison) -> list[str]:
    """The recipe's own questions and their answers."""
    asked = {name: comparison.recipe.compare.weights(name) for name in comparison.asked_contrasts}
    return html_contrasts(comparison.how_tested, asked, contrast_table(comparison))
