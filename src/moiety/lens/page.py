"""One HTML file that needs nothing beside it: pictures inside, no script, no request."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moiety.groups import ExpertGroups
from moiety.lens.palette import colours_of, is_dark, label_of

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
img { max-width: 100%; height: auto } p.note { color: #666 }
table { border-collapse: collapse; font-size: 13px } td, th { padding: 2px 10px; text-align: right }
th { border-bottom: 1px solid #999 } td:nth-child(-n+3), th:nth-child(-n+3) { text-align: left }
span.expert { padding: 1px 8px; border-radius: 3px; margin-right: 6px }
"""
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
        title: Its head.
        facts: Name -> text, shown below the head.
        groups: Gives the legend of experts; None: no legend.
        pictures: Head, explanation and PNG of each section; the PNG is copied into the page.
        table: HTML of the numbers, see :func:`routing_table` and :func:`html_table`.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p><b>{html.escape(name)}:</b> {html.escape(text)}</p>" for name, text in facts.items()]
    if groups is not None:
        parts.append(f"<p>{_legend(groups)}</p>")
    for head, text, picture in pictures:
        inside = base64.b64encode(picture.read_bytes()).decode()
        parts.append(
            f'<h2>{html.escape(head)}</h2><p class="note">{html.escape(text)}</p>'
            f'<img alt="{html.escape(head)}" src="data:image/png;base64,{inside}">'
        )
    parts.append(f"<h2>Numbers</h2>{table}")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    path.write_text(
        f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>\n", "utf-8"
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
    return html_table(heads, cells)


def html_table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    lines = ["<tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells]
    return f"<table>{''.join(lines)}</table>"
