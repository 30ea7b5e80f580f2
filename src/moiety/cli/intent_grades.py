"""``moiety intent evaluate``: which rows are graded, where the grades go, and how they look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moiety.cli.door import say
from moiety.cli.screen import table

if TYPE_CHECKING:
    from moiety.intent.compare.grading import Graded
    from moiety.intent.data.dataset import Split


def check_inputs(dims: Iterable[str], rows: Split, hidden: Sequence[str], data: Path) -> None:
    """Look for modalities that the model reads and that no row has, except those that are hidden on purpose.

    A data folder without such a modality is refused. For a rows file a message says so, and the work goes on.

    Raises:
        ValueError: a data folder lacks a modality; the text says which files would bring it.
    """
    from moiety.intent.data.mintrec import FEATURES
    from moiety.intent.data.samples import has_input

    asked = [name for name in dims if name not in hidden]
    absent = [name for name in asked if not any(has_input(sample, (name,)) for sample in rows.samples)]
    if not absent or absent == asked:
        return
    files = [f"{name}: one of {', '.join(FEATURES[name])}" for name in absent if name in FEATURES]
    is_mintrec = (data / "in-scope").is_dir() or (data / "train.tsv").is_file()
    expected = f" (expected {'; '.join(files)})" if files and is_mintrec else ""
    told = f"no row of {data} has {' or '.join(absent)}, which the model reads{expected}"
    if data.is_dir():
        raise ValueError(f"{told}; add it, or grade without it: --hide {','.join([*hidden, *absent])}")
    say(f"{told}; the grades are those without it")


def evaluation_folder(model: Path, data: Path, how: Sequence[str]) -> Path:
    """Folder for grades where none is named. The same question gets the same folder, every other one another.

    Args:
        model: Folder of the model. It is often called ``model``, so the name of the folder above it is used as well.
        data: The rows that are graded.
        how: Split, hidden modalities and settings.
    """
    import hashlib

    whole = model.resolve()
    asked = "\0".join([str(whole), str(data.resolve()), *how])
    name = "-".join([*whole.parts[-2:], data.resolve().stem]).strip("/")
    return Path("runs/intent/evaluate") / f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def default_split(data: Path, settings: Sequence[str] = ()) -> str | None:
    """The split that is graded where none is named: test, else dev; None: all rows."""
    from moiety.intent.data.rows import read_clip_rows
    from moiety.intent.data.sources import ROWS_FILES, read_source, source_at

    if data.suffix.lower() in ROWS_FILES:
        known = {row.split for row in read_clip_rows(data)}
    else:
        known = {name for name, rows in read_source(source_at(data, settings)).splits.items() if len(rows)}
    return next((name for name in ("test", "dev") if name in known), None)


def left_in(names: Sequence[str], hidden: Sequence[str]) -> str:
    """Name of a line of grades: the modalities that were not hidden, joined with +."""
    return "+".join(name for name in names if name not in hidden)


def count_of(graded: Graded) -> dict[str, float]:
    """Number of rows that were graded, and of rows that had nothing left to read."""
    return {"rows": len(graded.truth), "rows_without_input": graded.without_input}


def grade_table(title: str, trees: dict[str, dict[str, float]]) -> Any:
    """A table with one line for each set of modalities and one column for each measure, in percent."""
    measures = list(dict.fromkeys(name for tree in trees.values() for name in tree))
    counts = ("rows", "rows_without_input")
    lines = [
        [name, *(tree.get(key) if key in counts or key not in tree else f"{100 * tree[key]:.2f}" for key in measures)]
        for name, tree in trees.items()
    ]
    return table(title, ["modalities", *(f"#{name.replace('_', ' ')}" for name in measures)], lines)


def write_grades(folder: Path, trees: dict[str, dict[str, float]]) -> None:
    """Write ``grades.json`` beside the pictures."""
    import json

    from moiety.records.saving import write_atomically

    write_atomically(folder / "grades.json", json.dumps(trees, indent=1) + "\n")
    say(f"wrote {folder / 'grades.json'}")
