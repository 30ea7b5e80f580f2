"""The files a person reads after a comparison: tables, pictures, and one HTML page that needs nothing else."""

from __future__ import annotations

import html
import json
from pathlib import Path

from moiety.intent.outcome import IntentComparison
from moiety.intent.pictures import CONFUSION, EMBEDDING, SCORES, draw_confusion, draw_scores
from moiety.intent.recipe import FLOORS
from moiety.intent.run_record import run_folder
from moiety.intent.tables import (
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
from moiety.reporting import document, html_figure, html_table
from moiety.saving import write_atomically


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
    name = html.escape(comparison.recipe.name)
    limits = [f'<p class="note">{html.escape(note)}</p>' for note in notes(comparison)]
    parts = [
        f"<h1>{name}</h1>",
        f'<p class="note">{html.escape(caption(comparison))} A-MESS here means A-MESS as reconstructed by moiety.</p>',
        html_table(score_table(comparison), FLOORS),
        *(html_figure(text, path) for text, path in pictures_of(comparison).items()),
        *_contrasts(comparison),
        "<h2>When a modality is missing</h2>",
        '<p class="note">Trained with everything; taken away when scored.</p>',
        html_table(hidden_table(comparison), FLOORS),
        "<h2>Cost</h2>",
        html_table(cost_table(comparison), FLOORS),
        "<h2>To know when reading these numbers</h2>",
        *limits,
        "<h2>Settings</h2>",
        f"<pre>{html.escape(json.dumps(dict(comparison.context), indent=1, ensure_ascii=False))}</pre>",
    ]
    return document(comparison.recipe.name, parts)


def _contrasts(comparison: IntentComparison) -> list[str]:
    """The recipe's own questions and their answers."""
    compare = comparison.recipe.compare
    if not comparison.asked_contrasts:
        return []
    meaning = [
        f"{name}: {', '.join(f'{weight:+g} × {member}' for member, weight in compare.weights(name).items())}"
        for name in comparison.asked_contrasts
    ]
    note = f"{comparison.how_tested} {'; '.join(meaning)}."
    return [
        "<h2>What the recipe asks</h2>",
        f'<p class="note">{html.escape(note)}</p>',
        html_table(contrast_table(comparison)),
    ]
