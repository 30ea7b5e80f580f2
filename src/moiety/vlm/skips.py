"""Lists of rows that are left out. ``moiety data check --fix-list`` writes a list; ``data.skip`` of a recipe names it.

A line names a row by file, line and fingerprint, because several rows may share an id. So a list leaves out the bad
rows and no others, and it notices if a file was changed after the list was written.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moiety.recipe.recipe import DataSettings
from moiety.records.text_files import read_text
from moiety.vlm.problems import Problem, place_of
from moiety.vlm.row_files import Entry, Unreadable, entries, fingerprint

HEAD = "# rows to pass over: file:line, fingerprint, id; written by `moiety data check --fix-list`"
_LINE = re.compile(r"(?P<file>.+?):(?P<line>\d+)(?::(?P<column>\d+))?\t(?P<print>[0-9a-f]{16})(?:\t.*)?")


@dataclass(frozen=True)
class Skips:
    """Rows that no stage reads.

    Args:
        path: The list they come from.
        places: Resolved file, line, column -> fingerprint.
        ids: Ids of a list that was written by hand, one id on each line.
    """

    path: str = ""
    places: Mapping[tuple[str, int, int], str] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()

    def holds(self, entry: Entry, file: str, name: str) -> bool:
        """Whether the list names this entry of `file`, whose row is called `name`.

        Raises:
            ValueError: the list names the place of this entry, but the list was made for another row.
        """
        if isinstance(entry.value, Unreadable) and entry.value.whole:
            return False
        if name and name in self.ids:
            return True
        expected = self.places.get((_resolved(file), entry.line, entry.column)) if self.places else None
        if expected is not None and expected != fingerprint(entry.value):
            place = place_of(file, entry.line, entry.column)
            raise ValueError(
                f"{self.path} passes over {place}, but another row stands there now; write the list again with "
                "`moiety data check RECIPE --fix-list FILE`"
            )
        return expected is not None

    def refuse_shared(self, passed: Sequence[tuple[str, str]]) -> None:
        """Refuse ids that left out several rows. `passed` holds id and place of every row that was left out.

        Raises:
            ValueError: an id of the list names more than one row.
        """
        rows: dict[str, dict[str, None]] = defaultdict(dict)
        for name, place in passed:
            if name in self.ids:
                rows[name][place] = None  # a file that is read twice holds each row once
        for name, places in rows.items():
            if len(places) > 1:
                some = ", ".join(list(places)[:2])
                raise ValueError(
                    f"{self.path} names {name!r}, the id of {len(places)} rows ({some}, …); name rows by file and "
                    "line: write the list again with `moiety data check RECIPE --fix-list FILE`"
                )


NO_SKIPS = Skips()


def read_skips(path: str | Path) -> Skips:
    """Read the list at `path`.

    Raises:
        FileNotFoundError: there is no such file.
        TextFileError: the file is not text.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no list of row ids at {path}; write one with `moiety data check RECIPE --fix-list FILE`"
        )
    places, ids = {}, set()
    for line in read_text(path).splitlines():
        found = _LINE.fullmatch(line)
        if found:
            file = _resolved(Path(path).parent / found["file"])
            places[file, int(found["line"]), int(found["column"] or 0)] = found["print"]
        elif line.strip() and line != HEAD:
            ids.add(line.strip())
    return Skips(str(path), places, frozenset(ids))


def skips_of(settings: DataSettings) -> Skips:
    """The list that ``data.skip`` of a recipe names, or an empty list if the recipe names none."""
    return read_skips(Path(settings.root) / settings.skip) if settings.skip else NO_SKIPS


def write_skips(path: str | Path, problems: Iterable[Problem]) -> int:
    """Write the rows of `problems` and return their number. A problem of a whole file has no row and is not written."""
    rows = {problem.where: problem for problem in problems if not problem.whole}
    lines, folder = [HEAD], Path(path).parent.resolve()
    for file in dict.fromkeys(where[0] for where in rows):
        name = Path(os.path.relpath(_resolved(file), folder)).as_posix()
        for entry in entries(file):
            problem = rows.get((file, entry.line, entry.column))
            if problem is not None:
                place = place_of(name, entry.line, entry.column)
                lines.append(f"{place}\t{fingerprint(entry.value)}\t{ascii(problem.id)[1:-1][:80]}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(rows)


def _resolved(file: str | Path) -> str:
    return os.path.realpath(file)
