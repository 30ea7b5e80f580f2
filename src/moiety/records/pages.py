"""Parts of reports: Markdown tables, JSON, and HTML pages that need no script, no font and no request."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
LONG = 40
"""Cells of more letters are sentences: they are wrapped."""
_INTERVAL = re.compile(r"(.*\S) ([\[(].*[\])])", re.DOTALL)


@cache
def stylesheet(name: str) -> str:
    """One of the stylesheets that all pages share: ``palette.css`` (colours, light and dark) or ``page.css``."""
    return (resources.files("moiety.records") / "web" / name).read_text(encoding="utf-8")


def document(title: str, parts: Iterable[str]) -> str:
    """A whole HTML page made of `parts`. Only the browser's tab shows `title`."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(title)} · moiety</title>"
        f"<style>\n{stylesheet('palette.css')}{stylesheet('page.css')}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def opening(title: str, made: str, result: str, limits: str) -> str:
    """The beginning of a report: its title, what was done, the result, and what the result does not show."""
    lines = [f'<p class="{kind}">{html.escape(text)}</p>' for kind, text in
             (("made", made), ("result", result), ("limits", limits)) if text]  # fmt: skip
    return f'<h1>{html.escape(title)}</h1>\n<div class="lede">{"".join(lines)}</div>'


def report(title: str, said: Sequence[str], sections: Iterable[str], context: Mapping[str, object]) -> str:
    """A whole report: first what was done and the result, then the sections, and at the end how it was made.

    Args:
        title: Its title.
        said: What was done, the result, and what the result does not show; see :func:`opening`.
        sections: HTML parts between the first sentences and the settings.
        context: Settings, versions and command, shown folded as JSON.
    """
    made, result, limits = said
    settings = html.escape(json.dumps(dict(context), indent=1, ensure_ascii=False))
    parts = [
        opening(title, made, result, limits),
        *sections,
        html_heading("How it was made"),
        html_fold("All settings, versions and the command, as JSON", f"<pre>{settings}</pre>"),
    ]
    return document(title, parts)


def html_contrasts(
    how_tested: str, contrasts: Mapping[str, Mapping[str, float]], lines: Sequence[Sequence[str]]
) -> list[str]:
    """The section of a report that answers the recipe's contrasts. It is empty if the recipe has none.

    Args:
        how_tested: How the contrasts were tested, in sentences.
        contrasts: Name -> weights of its members.
        lines: Table of answers; the first line is the head.
    """
    if not contrasts:
        return []
    meaning = [
        f"{name}: {', '.join(f'{weight:+g} × {member}' for member, weight in weights.items())}"
        for name, weights in contrasts.items()
    ]
    note = f"{how_tested} {'; '.join(meaning)}."
    return [html_heading("What the recipe asks"), html_note(note), html_table(lines, num_texts=4)]


def html_heading(text: str) -> str:
    """The heading of a section."""
    return f"<h2>{html.escape(text)}</h2>"


def html_note(text: str) -> str:
    """A paragraph that explains the numbers beside it."""
    return f'<p class="note">{html.escape(text)}</p>'


def html_command(text: str) -> str:
    """A command that a reader may type. A long line is wrapped and never cut."""
    return f'<pre class="command">{html.escape(text)}</pre>'


def html_list(sentences: Sequence[tuple[str, bool]]) -> str:
    """A list of (sentence, whether the sentence has a verdict)."""
    lines = [f"<li class={'clear' if clear else 'open'}>{html.escape(text)}</li>" for text, clear in sentences]
    return "<ul>" + "\n".join(lines) + "</ul>"


def html_terms(meanings: Iterable[tuple[str, str]]) -> str:
    """A list of words and their meanings."""
    lines = [f"<dt>{html.escape(word)}</dt><dd>{html.escape(meaning)}</dd>" for word, meaning in meanings]
    return f"<dl>{''.join(lines)}</dl>"


def html_fold(summary: str, *parts: str) -> str:
    """Parts that are hidden below a summary line. A click on the line shows them."""
    return f"<details><summary>{html.escape(summary)}</summary>\n" + "\n".join(parts) + "</details>"


def html_table(lines: Sequence[Sequence[str]], controls: Sequence[str] = (), num_texts: int = 1) -> str:
    """A table. If the page is narrower than the table, the table scrolls. An interval stands below its number.

    Args:
        lines: Cells; the first line is the head.
        controls: A row whose name ends in one of these is drawn in a lighter colour.
        num_texts: Number of columns at the left that hold words.
    """
    header, *rest = lines
    words = ['class="word"' if number < num_texts else "" for number in range(len(header))]
    heads = "".join(_tag("th", word, html.escape(cell)) for word, cell in zip(words, header, strict=True))
    rows = []
    for line in rest:
        control = line[0].endswith(tuple(controls))
        inner = "".join(
            _tag("td", 'class="word long"' if len(cell) > LONG else word, _cell(cell))
            for word, cell in zip(words, line, strict=True)
        )
        rows.append(f"<tr class={'control' if control else 'scheme'}>{inner}</tr>")
    body = "\n".join(rows)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<div class="wide" role="group" aria-label="table of {html.escape(header[0])}" tabindex="0">{table}</div>'


def _tag(name: str, attributes: str, inner: str) -> str:
    return f"<{name}{' ' * bool(attributes)}{attributes}>{inner}</{name}>"


def _cell(text: str) -> str:
    """The HTML of a cell. An interval or a text in brackets gets a line of its own."""
    parts = _INTERVAL.fullmatch(text) if len(text) <= LONG else None
    if parts is None:
        return html.escape(text)
    return f"{html.escape(parts[1])} <small>{html.escape(parts[2])}</small>"


def html_figure(text: str, path: Path) -> str:
    """A PNG with its caption, inside the page."""
    data, escaped = base64.b64encode(path.read_bytes()).decode(), html.escape(text)
    return (
        f'<figure><img alt="{escaped}" src="data:image/png;base64,{data}"><figcaption>{escaped}</figcaption></figure>'
    )


def html_clip(text: str, path: Path, still: bytes = b"") -> str:
    """An mp4 file with its caption, inside the page. It shows a PNG until the reader plays it."""
    data, shown = (base64.b64encode(content).decode() for content in (path.read_bytes(), still))
    poster = f' poster="data:image/png;base64,{shown}"' if still else ""
    video = f'<video controls preload="none"{poster} src="data:video/mp4;base64,{data}"></video>'
    return f"<figure>{video}<figcaption>{html.escape(text)}</figcaption></figure>"


def counted(number: int, noun: str) -> str:
    """A number with the noun that it counts. Numbers up to twelve are written as words.

    Example:
        >>> counted(4, "scheme"), counted(1, "seed"), counted(2400, "question")
        ('four schemes', 'one seed', '2,400 questions')
    """
    return f"{NUMBERS[number] if number < len(NUMBERS) else f'{number:,}'} {noun}{'s' * (number != 1)}"


def listed(names: Sequence[str]) -> str:
    """Names joined as in a sentence.

    Example:
        >>> listed(["a", "b", "c"]), listed(["a"])
        ('a, b and c', 'a')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """The range from the smallest to the largest value; one number if both are equal when rounded.

    Example:
        >>> spread([77.6, 77.31, 77.4]), spread([50.0, 50.01])
        ('77.3 to 77.6', '50.0')
    """
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


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
    """The same nested values, with None in place of every number that JSON cannot hold.

    Example:
        >>> finite({"low": math.nan, "mean": [0.5]})
        {'low': None, 'mean': [0.5]}
    """
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
