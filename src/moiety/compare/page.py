"""The comparison as one HTML file that needs nothing else: no script, no font, no request."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from moiety.compare.summary import Comparison
from moiety.compare.table import caption, conflict_table, contrast_table, cost_table, notes, score_table
from moiety.permutation import shown_p

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
       background: #fff; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #555; }
tr.control td { color: #666; } img { max-width: 100%; height: auto; } ul { padding-left: 1.2rem; }
.clear { font-weight: 600; } .note { color: #555; font-size: .9rem; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .8rem; }
figure { margin: 1rem 0; } figcaption { color: #555; font-size: .9rem; }
"""


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
        _table(score_table(comparison)),
        *(_figure(text, path) for text, path in pictures.items() if path.exists()),
        *_contrasts(comparison),
        *_section("Evidence against memory", conflict_table(comparison)),
        "<h2>Differences to " + html.escape(comparison.reference) + "</h2>",
        *_differences(comparison),
        "<h2>Is the picture used?</h2>",
        '<p class="note">Above: the lower end of the interval exceeds every floor and the blank-image control.</p>',
        _list([(standing.sentence, standing.sees) for standing in comparison.standings()]),
        "<h2>Parameters and cost</h2>",
        _table(cost_table(comparison)),
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes(comparison)),
        "<h2>Settings</h2>",
        f"<pre>{html.escape(json.dumps(dict(comparison.context), indent=1, ensure_ascii=False))}</pre>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped} · moiety</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


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
        _table(contrast_table(comparison)),
    ]


def _section(title: str, lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"<h2>{html.escape(title)}</h2>", _table(lines)] if len(lines) > 1 else []


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
    return [f'<p class="note">{note}</p>', _list(sentences)]


def _list(sentences: Sequence[tuple[str, bool]]) -> str:
    lines = [f"<li class={'clear' if clear else 'open'}>{html.escape(text)}</li>" for text, clear in sentences]
    return "<ul>" + "\n".join(lines) + "</ul>"


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *rest = lines
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    rows = []
    for line in rest:
        control = line[0].endswith("blank image") or line[0] in ("majority", "question-only", "chance")
        inner = "".join(f"<td>{html.escape(cell)}</td>" for cell in line)
        rows.append(f"<tr class={'control' if control else 'scheme'}>{inner}</tr>")
    body = "\n".join(rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _figure(text: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    escaped = html.escape(text)
    return (
        f'<figure><img alt="{escaped}" src="data:image/png;base64,{data}"><figcaption>{escaped}</figcaption></figure>'
    )
