"""Pieces of reports: Markdown tables, plain JSON, and an HTML page that needs no script, no font, no request."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path

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


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of HTML parts; `title` is shown by the browser alone."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)} · moiety</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def html_list(sentences: Sequence[tuple[str, bool]]) -> str:
    """A list of (sentence, whether it shows something)."""
    lines = [f"<li class={'clear' if clear else 'open'}>{html.escape(text)}</li>" for text, clear in sentences]
    return "<ul>" + "\n".join(lines) + "</ul>"


def html_table(lines: Sequence[Sequence[str]], controls: Sequence[str] = ()) -> str:
    """A table; its first line is the head, and rows whose name ends in one of `controls` are drawn lightly."""
    header, *rest = lines
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    rows = []
    for line in rest:
        control = line[0].endswith(tuple(controls))
        inner = "".join(f"<td>{html.escape(cell)}</td>" for cell in line)
        rows.append(f"<tr class={'control' if control else 'scheme'}>{inner}</tr>")
    body = "\n".join(rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def html_figure(text: str, path: Path) -> str:
    """A PNG with its caption, inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    escaped = html.escape(text)
    return (
        f'<figure><img alt="{escaped}" src="data:image/png;base64,{data}"><figcaption>{escaped}</figcaption></figure>'
    )


def pipe_table(lines: Sequence[Sequence[str]], num_texts: int = 1) -> str:
    """A Markdown table whose first `num_texts` columns are words and whose other columns are numbers.

    Example:
        >>> print(pipe_table([["name", "score"], ["amess", "0.7"]]))
        | name | score |
        | --- | ---: |
        | amess | 0.7 |
    """
    header, *rest = lines
    rule = ["---"] * num_texts + ["---:"] * (len(header) - num_texts)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rest))


def finite(tree: object) -> object:
    """The same nested values with null for every number that JSON does not know.

    Example:
        >>> finite({"low": math.nan, "mean": [0.5]})
        {'low': None, 'mean': [0.5]}
    """
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
