"""The comparison as one HTML file that needs nothing else: no script, no font, no request."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from moiety.compare.summary import Comparison
from moiety.compare.table import caption, conflict_table, contrast_table, cost_table, notes, score_table
from moiety.permutation import shown_p
from moiety.reporting import document, html_figure, html_list, html_table

CONTROLS = ("blank image", "majority", "question-only", "chance")
"""Ends of the names of rows that are no scheme."""


def report_page(comparison: Comparison, pictures: Mapping[str, Path]) -> str:
    """HTML of the whole report.

    Args:
        comparison: What is reported.
        pictures: Caption -> PNG file; files that do not exist are left out.
    """
    escaped = html.escape(comparison.name)
    parts = [
        f"<h1>{escaped}</h1>",
        f'<p class="note">{html.escape(caption(comparison))}</p>',
        html_table(score_table(comparison), CONTROLS),
        *(html_figure(text, path) for text, path in pictures.items() if path.exists()),
        *_contrasts(comparison),
        *_section("Evidence against memory", conflict_table(comparison)),
        "<h2>Differences to " + html.escape(comparison.reference) + "</h2>",
        *_differences(comparison),
        "<h2>Is the picture used?</h2>",
        '<p class="note">Above: the lower end of the interval exceeds every floor and the blank-image control.</p>',
        html_list([(standing.sentence, standing.sees) for standing in comparison.standings()]),
        "<h2>Parameters and cost</h2>",
        html_table(cost_table(comparison)),
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes(comparison)),
        "<h2>Settings</h2>",
        f"<pre>{html.escape(json.dumps(dict(comparison.context), indent=1, ensure_ascii=False))}</pre>",
    ]
    return document(comparison.name, parts)


def _contrasts(comparison: Comparison) -> list[str]:
    """The recipe's own questions and their answers, first of everything that is tested."""
    if not comparison.asked.contrasts:
        return []
    asked = {name: comparison.asked.weights(name) for name in comparison.asked.contrasts}
    meaning = [
        f"{name}: {', '.join(f'{weight:+g} × {scheme}' for scheme, weight in weights.items())}"
        for name, weights in asked.items()
    ]
    note = (
        "Verdicts read the exact two-sided sign-flip test over paired seeds at 0.05, after Holm's correction over the "
        "types that a contrast is tested on. The interval is Student's. " + "; ".join(meaning) + "."
    )
    return [
        "<h2>What the recipe asks</h2>",
        f'<p class="note">{html.escape(note)}</p>',
        html_table(contrast_table(comparison)),
    ]


def _section(title: str, lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"<h2>{html.escape(title)}</h2>", html_table(lines)] if len(lines) > 1 else []


def _differences(comparison: Comparison) -> list[str]:
    found = comparison.differences()
    if not found:
        return ["<p>Nothing to compare yet.</p>"]
    tested = sum(difference.estimate.has_interval for difference in found)
    note = (
        "Paired by seed: both runs of a pair share data, data order and dense base. All seeds share one dense base, so "
        "the intervals speak about the sparse stages only."
    )
    if tested:
        most = max((difference.test for difference in found), key=lambda test: test.num_values)
        note += (
            f" Verdicts read the interval: with {tested} comparisons at 95 %, about {0.05 * tested:.2f} would look "
            "different by chance alone if nothing differed. p is the exact two-sided sign-flip test, which "
            f"{most.num_values} seeds cannot bring below {shown_p(most.smallest)}; corrected is Holm's p over all of "
            "them."
        )
    sentences = [(difference.sentence, " is " in difference.verdict) for difference in found]
    return [f'<p class="note">{note}</p>', html_list(sentences)]
