"""A comparison as tables: Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from moiety.intent.compare.outcome import IntentComparison
from moiety.intent.recipe import MEASURES
from moiety.records.pages import finite, pipe_table
from moiety.stats.intervals import Estimate

SHOWN = {
    "acc": "ACC",
    "f1": "F1",
    "prec": "P",
    "rec": "R",
    "weighted_f1": "WF1",
    "weighted_prec": "WP",
}
"""Measure -> its name in the tables, as papers have it."""
IN_WORDS = {
    "acc": "accuracy",
    "f1": "F1 (mean over classes)",
    "prec": "precision (mean over classes)",
    "rec": "recall (mean over classes)",
    "weighted_f1": "weighted F1",
    "weighted_prec": "weighted precision",
}
"""Measure -> its name in a sentence."""


def percent(estimate: Estimate | None) -> str:
    """A score in percent, with its interval if it has one.

    Example:
        >>> percent(Estimate(0.705, 0.69, 0.72, 5)), percent(Estimate(0.5, math.nan, math.nan, 1)), percent(None)
        ('70.50 [69.00, 72.00]', '50.00', '')
    """
    if estimate is None:
        return ""
    interval = f" [{100 * estimate.low:.2f}, {100 * estimate.high:.2f}]" if estimate.has_interval else ""
    return f"{100 * estimate.mean:.2f}{interval}"


def markdown(comparison: IntentComparison) -> str:
    """Scores, contrasts, missing modalities and cost as Markdown."""
    parts = [pipe_table(plan_table(comparison))]
    if comparison.runs:
        parts = [pipe_table(score_table(comparison)), pipe_table(hidden_table(comparison), 2)]
        parts += [pipe_table(lines, 4)] if len(lines := contrast_table(comparison)) > 1 else []
        parts += [pipe_table(cost_table(comparison))]
    return "\n\n".join([*parts, caption(comparison), *notes(comparison)]) + "\n"


def plan_table(comparison: IntentComparison) -> list[list[str]]:
    """Header and lines: what will be trained, one line for each name."""
    lines = [["name", "method", "seeds", "changed settings"]]
    for name in comparison.names:
        recipe, variant = comparison.recipe, comparison.recipe.compare.variants.get(name)
        changes = {} if variant is None else {**variant.model, **variant.data}
        seeds = [str(seed) for other, seed in comparison.planned if other == name]
        shown = ", ".join(f"{key}={value}" for key, value in changes.items())
        numbers = "none needed" if comparison.is_floor(name) else " ".join(seeds)
        lines.append([name, recipe.method_of(name), numbers, shown])
    return lines


def caption(comparison: IntentComparison) -> str:
    """What the numbers are, and on how many runs they rest."""
    number = len(comparison.planned)
    if not comparison.runs:
        return f"{number} run{'s' * (number != 1)} planned, none made yet."
    seeds = len(comparison.seeds)
    meaning = f"mean over up to {seeds} seeds with Student's 95 % interval" if seeds > 1 else "one seed, no interval"
    if comparison.rests_on_persons:
        meaning = f"mean over up to {seeds} seed{'s' * (seeds != 1)} with the 95 % interval over persons"
    waiting = [f"{name} seed {seed}" for name, seed in comparison.missing]
    shown = ", ".join(waiting[:8]) + (f" and {len(waiting) - 8} more" if len(waiting) > 8 else "")
    rows = comparison.context.get("rows", {})
    return (
        f"Scores in percent: {meaning}. {len(comparison.runs)} of {len(comparison.planned)} runs are finished"
        + (f"; these are not: {shown}" if waiting else "")
        + f". {_rows_sentence(comparison, rows)} ACC is accuracy. F1, P (precision) and R (recall) are "
        "means over classes; WF1 and WP weigh the classes by their rows."
    )


def _rows_sentence(comparison: IntentComparison, rows: Mapping[str, int]) -> str:
    data = comparison.recipe.data
    if data.folds is not None:
        number = f"{rows.get('score', 0):,} rows (split {data.train!r})"
        return f"Each of {number} is scored in one fold and used for training in the others."
    return (
        f"{rows.get('train', 0):,} rows are learned from, {rows.get('score', 0):,} are scored (split {data.score!r})."
    )


def notes(comparison: IntentComparison) -> list[str]:
    """Notes for the reader: what the seeds cannot show, how epochs were chosen, and what each variant changes."""
    variants = comparison.recipe.compare.variants
    found = [comparison.limit] if comparison.limit else []
    persons = comparison.context.get("rows", {}).get("groups", 0)
    if persons and not comparison.rests_on_persons and len(comparison.seeds) > 1:
        found.append(
            f"Every seed scores the same {persons} groups of rows (persons). Intervals and verdicts therefore say how "
            "much training varies, not how other persons would score; set data.folds to ask that."
        )
    found += list(dict.fromkeys(f"{note[0].upper()}{note[1:]}." for run in comparison.runs for note in run.notes))
    found += [f"{name}: {variants[name].note}" for name in comparison.names if name in variants and variants[name].note]
    left_out = {hide: max(run.without_input.get(hide, 0) for run in comparison.runs) for hide in _hides(comparison)}
    found += [
        f"With {hide or 'nothing'} hidden, up to {count} rows have nothing that can be read; they are not scored."
        for hide, count in left_out.items()
        if count
    ]
    return found


def _hides(comparison: IntentComparison) -> list[str]:
    return ["", *comparison.recipe.compare.hide] if comparison.runs else []


def score_table(comparison: IntentComparison, narrow: bool = False) -> list[list[str]]:
    """Header and lines: one line for each name, one column for each measure; narrow: only those of the recipe."""
    shown = [*comparison.recipe.compare.measures]
    if not narrow:
        shown += [measure for measure in MEASURES if measure not in shown]
        shown += sorted({measure for run in comparison.runs for measure in run.grades} - set(shown))
    lines = [["method", "seeds", *(SHOWN.get(measure, measure) for measure in shown)]]
    for name in comparison.names:
        seeds = sum(run.name == name for run in comparison.runs)
        number = "none" if comparison.is_floor(name) and seeds else str(seeds)
        lines.append([name, number, *(percent(comparison.estimate(name, measure)) for measure in shown)])
    return lines


def hidden_table(comparison: IntentComparison) -> list[list[str]]:
    """Header and lines: the scores with modalities hidden at the time of scoring."""
    hides = comparison.recipe.compare.hide
    lines = [["method", "measure", "all given", *(f"{hide} hidden" for hide in hides)]]
    for measure in comparison.recipe.compare.measures:
        for name in comparison.names:
            cells = [percent(comparison.estimate(name, measure, hide)) for hide in ("", *hides)]
            if any(cells):
                lines.append([name, SHOWN[measure], *cells])
    return lines


def contrast_table(comparison: IntentComparison) -> list[list[str]]:
    """Header and lines: one line for each contrast and measure; a contrast without a result says so."""
    found = comparison.contrasts()
    lines = [["contrast", "measure", "verdict", "numbers"]]
    lines += [[entry.name, SHOWN[entry.question_type], entry.verdict, entry.numbers] for entry in found]
    waiting = [name for name in comparison.asked_contrasts if name not in {entry.name for entry in found}]
    return lines + [[name, "", "no result yet: its methods have no finished seed in common", ""] for name in waiting]


def cost_table(comparison: IntentComparison) -> list[list[str]]:
    """Header and lines: size of the model and cost of training, one line for each name."""
    lines = [["method", "parameters", "seconds per run", "epochs", "best epoch"]]
    for name in comparison.names:
        cells = [
            _number(comparison.mean_of(name, key), form)
            for key, form in (("parameters", ",.0f"), ("seconds", ".1f"), ("epochs", ".1f"), ("best_epoch", ".1f"))
        ]
        lines.append([name, *cells])
    return lines


def csv_text(comparison: IntentComparison) -> str:
    """For other programs: one line for each name, measure and hidden modality; numbers are not rounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "hidden", "measure", "num_seeds", "mean", "low", "high"])
    for name in comparison.names:
        for hide in _hides(comparison):
            grades = {m for run in comparison.runs for m in (run.hidden.get(hide, {}) if hide else run.grades)}
            for measure in sorted(grades):
                estimate = comparison.estimate(name, measure, hide)
                if estimate is not None:
                    ends = [estimate.low, estimate.high] if estimate.has_interval else [None, None]
                    writer.writerow([name, hide, measure, estimate.num_values, estimate.mean, *ends])
    return out.getvalue()


def json_text(comparison: IntentComparison) -> str:
    """All records, contrasts and the context as JSON; an absent interval is null."""
    contrasts: list[dict[str, Any]] = [
        asdict(entry) | {"verdict": entry.verdict, "limit": entry.limit} for entry in comparison.contrasts()
    ]
    tree = {
        "name": comparison.recipe.name,
        "methods": list(comparison.names),
        "contrasts": contrasts,
        "runs": [asdict(run) for run in comparison.runs],
        "missing": [list(pair) for pair in comparison.missing],
        "context": dict(comparison.context),
    }
    return json.dumps(finite(tree), indent=1, ensure_ascii=False) + "\n"


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
