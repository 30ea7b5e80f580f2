"""How results look: rich tables for people, JSON for programs. Results go to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def screen() -> Console:
    """A console on stdout that takes every text as it is; a pipe has no width, so it gets one that cuts no table."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False, emoji=False)


def show(*renderables: Any) -> None:
    """Print tables and texts, one below the other; a table that the screen would cut is printed as blocks."""
    console = screen()
    for renderable in renderables:
        console.print(fitting(renderable, console))


def fitting(renderable: Any, console: Console) -> Any:
    """A table as it is where its longest words fit the console, else a block of ``head: cell`` lines for each row.

    Rich shortens what does not fit, and a number or a name that lost its end is worth nothing. Other things come back
    as they are.
    """
    from rich.protocol import rich_cast
    from rich.table import Table

    drawn = rich_cast(renderable)
    if not isinstance(drawn, Table):
        return renderable
    for column in drawn.columns:
        column.overflow = "fold"
    least = drawn.__rich_measure__(console, console.options.update(max_width=10_000)).minimum
    return drawn if least <= console.width else "\n".join(_blocks(drawn))


def _blocks(drawn: Table) -> list[str]:
    """The cells of a table, one a line."""
    heads, columns = [str(column.header) for column in drawn.columns], [list(column.cells) for column in drawn.columns]
    wide = max(map(len, heads), default=0)
    lines = [str(drawn.title)] if drawn.title else []
    for row in zip(*columns, strict=True):
        pairs = [(head, str(value)) for head, value in zip(heads, row, strict=True) if str(value)]
        lines += ["", *(f"  {head:<{wide}}  {value.replace(chr(10), ', ')}" for head, value in pairs)]
    return [*lines, "", *([str(drawn.caption)] if drawn.caption else [])]


def show_json(value: Any) -> None:
    """Print `value` as JSON; paths and other plain objects become their text."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str | None = None) -> Table:
    """A table whose number columns stand to the right.

    Args:
        title: Line above the table.
        columns: Heads, in order; a head that begins with ``#`` (dropped) holds numbers.
        rows: Cells; integers get thousands separators, floats four digits, None a dash.
        note: Line below the table.
    """
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", caption=note, caption_justify="left")
    for column in columns:
        drawn.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left")
    for row in rows:
        drawn.add_row(*(cell(value) for value in row))
    return drawn


def cell(value: Any) -> str:
    """One value as a reader wants it.

    Example:
        >>> cell(5470394432), cell(0.25), cell(None), cell(True)
        ('5,470,394,432', '0.25', '–', 'yes')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
