"""The files of a comparison that people read: tables, pictures, and one HTML page that needs no other file."""

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
    """The method whose pictures the report shows: that of section model, or else the first that depends on a seed."""
    done = {run.name for run in comparison.runs}
    names = [comparison.recipe.model.method, *comparison.names]
    return next((name for name in names if name in done and not comparison.is_floor(name)), None)


def pictures_of(comparison: IntentComparison) -> dict[str, Path]:
    """Caption -> PNG, in the order of the report.

    Args:
        comparison: A comparison, finished or not. Pictures that are not drawn yet are left out.
    """
    first, folder = first_method(comparison), comparison.folder
    drawn = "persons drawn with replacement" if comparison.rests_on_persons else "Student's, over seeds"
    found = {f"Means over seeds with 95 % intervals ({drawn}). Grey lines are floors.": folder / SCORES}
    if first is not None:
        seed = comparison.recipe.seeds[0]
        found |= {
            f"{first}, all seeds together: each line is a true label, each column an answer.": folder / CONFUSION,
            f"{first}, seed {seed}: the scored rows as the input of the last layer. The axes are the two directions in "
            "which they vary most (principal components).": run_folder(folder, first, seed) / EMBEDDING,
        }
    return {caption: path for caption, path in found.items() if path.exists()}


def report_page(comparison: IntentComparison) -> str:
    """The report as one HTML page that needs no other file. Scores are in percent, pictures are inside.

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
        html_heading("How to read these numbers"),
        *map(html_note, notes(comparison)),
    ]
    said = (made(comparison), result(comparison), limits(comparison))
    return report(title_of(comparison), said, sections, comparison.context)


def _hidden(comparison: IntentComparison) -> list[str]:
    """The scores with modalities hidden, where the recipe asks for them."""
    if not comparison.recipe.compare.hide:
        return []
    note = "No model is trained again. Each model answers all rows once more, with these modalities hidden."
    return [
        html_heading("When a modality is missing"),
        html_note(note),
        html_table(hidden_table(comparison), FLOORS, num_texts=2),
    ]


def _contrasts(comparison: IntentComparison) -> list[str]:
    """The contrasts that the recipe asks for, and their verdicts."""
    asked = {name: comparison.recipe.compare.weights(name) for name in comparison.asked_contrasts}
    return html_contrasts(comparison.how_tested, asked, contrast_table(comparison))
