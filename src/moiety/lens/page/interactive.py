"""The interactive page: one HTML file that contains script, numbers and pictures, and loads nothing."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from moiety.lens.page.data import page_tree
from moiety.lens.trace.file import SavedTrace
from moiety.records.pages import stylesheet
from moiety.records.saving import write_atomically

SCRIPTS = ("data.js", "draw.js", "picture.js", "words.js", "charts.js", "panel.js", "main.js")
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
Section = tuple[str, str, Path]


def write_report(
    path: str | Path,
    traces: Sequence[SavedTrace],
    *,
    only: Collection[str] | None = None,
    pictures: Sequence[Section] = (),
    table: str = "",
) -> Path:
    """Write the page.

    Args:
        path: Where it goes.
        traces: One trace, or two that stand side by side.
        only: Ids of the questions to show; None: the first ones, as many as fit.
        pictures: Heading, explanation and PNG of further sections.
        table: HTML of a table of numbers.

    Raises:
        ValueError: see :func:`moiety.lens.page.data.page_tree`.
    """
    room = resources.files("moiety.lens.page") / "web"

    def read(name: str) -> str:
        return (room / name).read_text(encoding="utf-8")

    page = Template(read("report.html")).substitute(
        title=html.escape(f"Who read what: {' | '.join(trace.scheme for trace in traces)}"),
        style=stylesheet("palette.css") + read("report.css"),
        data=json_for_page(page_tree(traces, only)),
        sections="".join(map(_section, pictures)),
        table=f"<details><summary>All numbers of the question</summary>{table}</details>" if table else "",
        script="\n".join(map(read, SCRIPTS)),
    )
    write_atomically(Path(path), page)
    return Path(path)


def json_for_page(tree: Any) -> str:
    """JSON that is safe inside a script element: no text in it can end the element or begin another one.

    Example:
        >>> json_for_page("</script>é")
        '"\\\\u003c/script\\\\u003e\\\\u00e9"'
    """
    text = json.dumps(tree, ensure_ascii=True, separators=(",", ":"))
    for sign, escaped in ESCAPES.items():
        text = text.replace(sign, escaped)
    return text


def _section(section: Section) -> str:
    head, text, picture = section
    inside = base64.b64encode(picture.read_bytes()).decode()
    return (
        f'<section class="card"><h2>{html.escape(head)}</h2><p class="soft">{html.escape(text)}</p>'
        f'<div class="scroll"><img class="plate" alt="{html.escape(head)}" src="data:image/png;base64,{inside}"></div>'
        "</section>"
    )
