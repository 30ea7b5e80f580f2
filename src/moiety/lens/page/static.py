"""A page without script: one HTML file that contains its pictures and loads nothing."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moiety.groups import ExpertGroups
from moiety.lens.draw.palette import colours_of, is_dark, label_of
from moiety.records.pages import document, html_figure, html_fold, html_heading, html_table
from moiety.records.saving import write_atomically

COLUMNS = {
    "layer": "layer",
    "phase": "phase",
    "modality_group": "modality",
    "tokens": "tokens",
    "inter_share": "inter-modality share",
    "normalised_entropy": "entropy (1 = undecided)",
    "max_violation": "busiest expert over even",
    "top1": "mean top probability",
}


def write_page(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    groups: ExpertGroups | None,
    pictures: Sequence[tuple[str, str, Path]],
    table: str,
) -> Path:
    """Write the page.

    Args:
        path: Where it goes.
        title: Title of the page.
        facts: Name -> text, shown below the title.
        groups: Gives the legend of experts; None: no legend.
        pictures: Heading, explanation and PNG of each section; the PNG is copied into the page.
        table: HTML of the numbers, see :func:`routing_table` and :func:`moiety.records.pages.html_table`.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p><b>{html.escape(name)}:</b> {html.escape(text)}</p>" for name, text in facts.items()]
    if groups is not None:
        parts.append(f"<p>{_legend(groups)}</p>")
    for head, text, picture in pictures:
        parts += [html_heading(head), html_figure(text, picture)]
    write_atomically(
        path, document(title, [*parts, html_heading("Numbers"), html_fold("All numbers, by layer", table)])
    )
    return path


def _legend(groups: ExpertGroups) -> str:
    return "".join(
        f'<span class="expert" style="background:{colour};color:{"white" if is_dark(colour) else "black"}">'
        f"{html.escape(label_of(groups, expert))}</span>"
        for expert, colour in enumerate(colours_of(groups))
    )


def routing_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Records of :func:`moiety.lens.numbers.summary_rows` as a table."""
    shares = max((len(row["load_share"]) for row in rows), default=0)
    heads = [*COLUMNS.values(), *(f"load {expert}" for expert in range(shares))]
    cells = [[*(str(row[key]) for key in COLUMNS), *(f"{100 * share:.0f} %" for share in row["load_share"])]
             for row in rows]  # fmt: skip
    return html_table([heads, *cells], num_texts=3)
