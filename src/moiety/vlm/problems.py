"""Problems of rows: what is wrong, and in which file and line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHOWN = 20
_LETTERS = 40


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row, and where the row stands.

    Args:
        file: The file that holds the row.
        line: Line of the file, from 1; in a table, the number of the row.
        id: The id of the row; empty if it has none.
        text: What is wrong and what to do.
        column: Where the row begins in its line; 0 for the first row of a line.
        whole: Whether the rest of the file cannot be read. Then it does not help to leave out one row.
    """

    file: str
    line: int
    id: str
    text: str
    column: int = 0
    whole: bool = False

    @property
    def where(self) -> tuple[str, int, int]:
        """File, line and column. They differ between any two rows."""
        return self.file, self.line, self.column

    def __str__(self) -> str:
        return f"{place_of(*self.where)}: " + (f"row {shown(self.id)}: " if self.id else "") + self.text


class BadRows(ValueError):
    """Rows cannot be used. `problems` holds all problems; the text shows the first twenty."""

    def __init__(self, problems: Sequence[Problem], what: str = "rows cannot be read") -> None:
        self.problems = tuple(problems)
        lines = [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  ... and {len(self.problems) - _SHOWN} more")
        super().__init__("\n".join([f"{len(self.problems)} {what}:", *lines]))


def place_of(file: str, line: int, column: int = 0) -> str:
    """``file:line``, and ``:column`` where an earlier row begins in the same line.

    Example:
        >>> place_of("rows.jsonl", 3), place_of("rows.json", 1, 214)
        ('rows.jsonl:3', 'rows.json:1:214')
    """
    return f"{file}:{line}:{column}" if column else f"{file}:{line}"


def num_bad(problems: Iterable[Problem]) -> int:
    """How many rows have a problem."""
    return len({problem.where for problem in problems})


def shown(value: object, letters: int = _LETTERS) -> str:
    """A value for a message, as Python writes it. It is cut after `letters`, and unprintable characters are escaped.

    Example:
        >>> shown("a" * 50)
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…'"
    """
    if isinstance(value, str):
        return repr(value if len(value) <= letters else f"{value[:letters]}…")
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = repr(value)
    return text if len(text) <= 2 * letters else f"{text[: 2 * letters]}…"
