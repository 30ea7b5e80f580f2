"""Layouts: the ways in which the files of a benchmark may lie in a folder, and the error if none is found."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.release import Readable, Release, ReleasePictures
from moiety.vlm.images import Pictures
from moiety.vlm.rows import Row

SITE, LLAVA, HUB = "its own release", "LLaVA's bundle", "the hub"
_SHARD = re.compile(r"^(.*)-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class Questions:
    """What was read from a folder.

    Args:
        rows: The questions in their official order.
        pictures: Returns the pictures by the names that the rows use. It is called when a run begins.
        part: Which part of the benchmark is there, if the rows do not tell; empty: all of it.
        notes: What a reader of the score has to know, one sentence each.
    """

    rows: list[Row]
    pictures: Callable[[], Pictures]
    part: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One way in which the questions lie in a folder.

    Args:
        whose: Who publishes this layout: one of :data:`SITE`, :data:`LLAVA` and :data:`HUB`.
        needs: Files that have to be there, see :class:`moiety.evaluate.benchmarks.files.release.Release`; of patterns
        that
            stand together one has to match.
        read: Folder -> questions. It is called if all needed files exist.
        files: The needs in words; empty: the patterns themselves.
        beside: Where pictures lie and what else is read, in words.
    """

    whose: str
    needs: tuple[str | tuple[str, ...], ...]
    read: Callable[[Release], Questions]
    files: str = ""
    beside: str = ""

    @property
    def in_words(self) -> str:
        """Its files and what lies beside them."""
        files = self.files or " and ".join(_first(need).removeprefix("./") for need in self.needs)
        return f"{files}; {self.beside}" if self.beside else files

    def missing(self, release: Release) -> list[str]:
        """The needed files that are missing, in words."""
        return [
            _first(need).removeprefix("./")
            for need in self.needs
            if not release.has(*((need,) if isinstance(need, str) else need))
        ]


def _first(need: str | tuple[str, ...]) -> str:
    return need if isinstance(need, str) else need[0]


def questions_in(folder: Path, layouts: Sequence[Layout]) -> Questions:
    """The questions of the first layout whose files are all there.

    Raises:
        FileNotFoundError: no layout is complete. The text names the missing files and the accepted layouts.
    """
    told = in_words(layouts)
    try:
        release = Release(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; expected there, any one of:{told}") from error
    begun = ""
    for layout in layouts:
        missing = layout.missing(release)
        if not missing:
            return layout.read(release)
        if len(missing) < len(layout.needs) and not begun:
            begun = f"{folder} lacks {' and '.join(missing)} ({layout.whose} is there in part)"
    missed = f"{begun or f'no questions in {folder}'}{release.told_of_broken}"
    raise FileNotFoundError(f"{missed}; expected there, any one of:{told}")


def in_words(layouts: Sequence[Layout]) -> str:
    """All layouts, each on a line of its own."""
    return "".join(f"\n  {whose}: {files}" for whose, files in by_publisher(layouts).items())


def by_publisher(layouts: Sequence[Layout]) -> dict[str, str]:
    """Publisher -> its layouts in words."""
    told: dict[str, list[str]] = {}
    for layout in layouts:
        told.setdefault(layout.whose, []).append(layout.in_words)
    return {whose: ", or ".join(dict.fromkeys(words)) for whose, words in told.items()}


def beside(release: Release, *places: str) -> Callable[[], Pictures]:
    """Pictures in the folder, in its subfolders `places`, and in archives of these."""
    return lambda: ReleasePictures(release, places)


# -- the hub -----------------------------------------------------------------------------------------------------------
def hub_patterns(split: str, *configs: str) -> tuple[str, ...]:
    """Where parquet files of a split lie: in ``CONFIG/``, or in ``data/`` and in the folder itself.

    If a configuration begins with ``!``, only its folder is read, because its files have the same names as others.
    """
    names = (f"{split}-*.parquet", f"{split}/*.parquet", f"{split}.parquet")
    places = [config.removeprefix("!") for config in configs]
    if not any(config.startswith("!") for config in configs):
        places += ["data", "default", "."]
    return tuple(f"{place}/{name}" for place in places for name in names)


def hub_layout(split: str, read: Callable[[HubTable], Questions], *configs: str) -> Layout:
    """Questions with their pictures in the parquet files of one split of a hub repository.

    Args:
        split: Name of the split, for instance ``test``; ``{a,b}`` for one of several.
        read: The table -> questions; what its files lack of the whole is added to their part.
        configs: Folders of the split, where it does not lie in ``data``; see :func:`hub_patterns`.
    """

    def whole(release: Release) -> Questions:
        table = hub_table(release, split, *configs)
        assert table is not None, "the need is met"
        found = read(table)
        parts = [part for part in (found.part, table.part) if part]
        return Questions(found.rows, found.pictures, ", ".join(parts), found.notes)

    return Layout(HUB, (hub_patterns(split, *configs),), whole)


def hub_table(release: Release, split: str, *configs: str) -> HubTable | None:
    """The parquet files of a split, from the first place that has any; None if there are none."""
    for pattern in hub_patterns(split, *configs):
        found = [file for file in release.all(pattern) if isinstance(file, Path)]
        if found:
            files = {release.relative(file): file for file in found}
            return HubTable(files, part=_shards_there(list(files.values())))
    return None


def _shards_there(files: Sequence[Readable]) -> str:
    """Which files are there and how many there should be; empty if none is missing."""
    numbers: dict[tuple[str, int], list[int]] = {}
    for file in files:
        match = _SHARD.match(file.name)
        if match:
            numbers.setdefault((match.group(1), int(match.group(3))), []).append(int(match.group(2)))
    told = [
        f"{len(set(there))} of {total} files of {name}"
        for (name, total), there in numbers.items()
        if len(set(there)) < total
    ]
    return ", ".join(told)


# -- parts -------------------------------------------------------------------------------------------------------------
def parts_by(key: Callable[[Row], str], whole: Sequence[str]) -> Callable[[Sequence[Row]], str]:
    """Make a function that names the part of a benchmark that rows belong to; it is empty if all of `whole` are there.

    Example:
        >>> told = parts_by(lambda row: str(row.type), ["a", "b"])
        >>> told([Row("1", (), type="a")]), told([Row("1", (), type="a"), Row("2", (), type="b")])
        ('a', '')
    """

    def told(rows: Sequence[Row]) -> str:
        present = list(dict.fromkeys(key(row) for row in rows))
        if set(whole) <= set(present):
            return ""
        return listed(present, len(whole))

    return told


def listed(names: Sequence[str], whole: int) -> str:
    """Names of parts; a long list is shortened."""
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{len(names)} of {whole}: {shown}, ..."


def first_of(entry: Mapping[str, object], *keys: str) -> object:
    """The value of the first of `keys` that an entry has; None if it has none of them."""
    return next((entry[key] for key in keys if entry.get(key) is not None), None)
