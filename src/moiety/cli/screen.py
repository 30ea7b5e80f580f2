"""Prints results on stdout: as tables for people, or as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from moiety.cli.letters import knows_all_letters

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def screen() -> Console:
    """A console on stdout that changes no text. A pipe has no width, so it gets one in which tables fit."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False, emoji=False)


def show(*renderables: Any) -> None:
    """Print tables and texts below each other. No name that a user has to type is cut or broken.

    A table that is too wide for the screen is printed as blocks. The terminal wraps texts, titles and notes.
    """
    from rich.protocol import rich_cast
    from rich.table import Table

    console = screen()
    for renderable in renderables:
        drawn = rich_cast(renderable)
        if not isinstance(drawn, Table):
            console.print(renderable, soft_wrap=isinstance(renderable, str))
            continue
        title, note, drawn.title, drawn.caption = drawn.title, drawn.caption, None, None
        if title:
            console.print(title, style="table.title", soft_wrap=True)
        if fit(drawn, console):
            console.print(drawn)
        else:
            console.print("\n".join(blocks(drawn)), soft_wrap=True)
        if note:
            console.print(note, style="table.caption", soft_wrap=True)


def fit(drawn: Table, console: Console) -> bool:
    """Give a table widths under which it fits; False if there are none.

    No word is broken, and a cell of a number column is never wrapped, so that a number and its interval stay together.
    Left alone, rich takes the space from the widest column first, and shortens the names that stand there.
    """
    from rich.cells import cell_len
    from rich.measure import Measurement

    texts = [[str(column.header), *map(str, column.cells)] for column in drawn.columns]
    whole = [max(cell_len(line) for text in column for line in text.split("\n")) for column in texts]
    whole_cells = [column.justify == "right" for column in drawn.columns]
    least = [
        max(cell_len(piece) for place, text in enumerate(column) for piece in _pieces(text, whole=keep and place > 0))
        for column, keep in zip(texts, whole_cells, strict=True)
    ]
    frame = Measurement.get(console, console.options.update(max_width=100_000), drawn).maximum - sum(whole)
    room = console.width - frame - sum(least)
    if room < 0:
        return False
    for place in sorted(range(len(texts)), key=lambda place: whole[place] - least[place]):
        more = min(room, whole[place] - least[place])  # columns of short texts first: sentences are wrapped
        drawn.columns[place].width = least[place] + more
        room -= more
    return True


def _pieces(text: str, *, whole: bool) -> list[str]:
    """The pieces of a cell that must not be broken: its words, or its lines if `whole`."""
    return (text.split("\n") if whole else text.split()) or [""]


def blocks(drawn: Table) -> list[str]:
    """A block of ``head  cell`` lines for each row; empty cells are left out.

    Example:
        >>> blocks(table("", ("scheme", "#total"), [("moiie", 335936)]))
        ['', 'scheme  moiie', 'total   335,936']
    """
    heads, columns = [str(column.header) for column in drawn.columns], [list(column.cells) for column in drawn.columns]
    wide = max(map(len, heads), default=0)
    lines = []
    for row in zip(*columns, strict=True):
        pairs = [(head, str(value)) for head, value in zip(heads, row, strict=True) if str(value)]
        lines += ["", *(f"{head:<{wide}}  {value.replace(chr(10), ', ')}" for head, value in pairs)]
    return lines


def show_json(value: Any) -> None:
    """Print `value` as JSON. Paths and other objects that JSON does not know are printed as text."""
    plain = not knows_all_letters(sys.stdout.encoding)
    print(json.dumps(value, indent=2, default=str, ensure_ascii=plain))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str | None = None) -> Table:
    """A table whose number columns are aligned to the right.

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
    """One value as text for a reader.

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
