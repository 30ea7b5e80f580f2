"""Reading what the data section of a recipe names, and dividing it: rows that teach, choose the epoch, are scored."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from moiety.intent.data.dataset import IntentDataset, Split
from moiety.intent.data.hazumi import read_hazumi
from moiety.intent.data.mintrec import read_mintrec
from moiety.intent.data.samples import MODALITIES
from moiety.intent.recipe import IntentDataSettings
from moiety.recipe.reader import RecipeError, apply_override
from moiety.recipe.recipe import describe_errors

ROWS_FILES = (".jsonl", ".csv")
EXAMPLE = "data.target=ui_ternary"
_FILES_OF_KINDS = ("features.npz", "rows.jsonl", "columns.json", "train.tsv", "dev.tsv", "test.tsv")


def read_source(data: IntentDataSettings, on_progress: Callable[[int, int], None] | None = None) -> IntentDataset:
    """All splits of a data set.

    Args:
        data: Section of a recipe.
        on_progress: Called with (clips read, clips in all) where clips are read.

    Raises:
        FileNotFoundError: a file is missing; the text says which file is expected where.
        ValueError: files are damaged, or clips cannot be read and ``on_error`` is ``raise``; all of them are named.
    """
    if data.kind == "hazumi":
        return read_hazumi(data.path, target=data.target, view=data.view, history=data.history)
    if data.kind in ("mintrec", "mintrec2"):
        return read_mintrec(data.path, on_missing=data.on_missing)
    from moiety.intent.clips.reading import read_clips

    reading = read_clips(
        data.path,
        audio=data.audio,
        video=data.video,
        text=data.text,
        cache=data.cache,
        on_error=data.on_error,
        on_progress=on_progress,
    )
    bare = [row.key for row in reading.rows if row.label is None]
    if bare:
        raise RecipeError(
            f"{data.path}: {len(bare)} of {len(reading.rows)} rows have no label: {', '.join(bare[:5])}; "
            "rows that teach or are scored need one"
        )
    return reading.dataset


def source_at(path: str | Path, overrides: Sequence[str] = ()) -> IntentDataSettings:
    """The data section of a recipe for a folder or rows file of which only the path is given.

    Args:
        path: Folder of Hazumi, MIntRec or MIntRec2.0, or a rows file of clips.
        overrides: Dotted overrides of the data section of a recipe, for instance ``data.target=ui_ternary``; the
            section may be left out.

    Raises:
        FileNotFoundError: nothing is there.
        RecipeError: the path is none of these, or an override does not fit.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}; give a data folder, or a rows file (.jsonl, .csv)")
    tree: dict[str, Any] = {"data": {"kind": _kind_of(path), "path": str(path)}}
    for override in overrides:
        key = override.partition("=")[0].strip()
        section, dot, _ = key.partition(".")
        if dot and section != "data":
            raise RecipeError(f"override {override!r} is of section {section}, but data is read; give {EXAMPLE}")
        apply_override(tree, override if dot or not key else f"data.{override.lstrip()}", EXAMPLE)
    try:
        return IntentDataSettings.model_validate(tree["data"])
    except ValidationError as error:
        raise RecipeError(describe_errors(error, "data", IntentDataSettings)) from error


def _kind_of(path: Path) -> str:
    if path.is_file() and path.suffix.lower() in ROWS_FILES:
        return "clips"
    there = {name for name in _FILES_OF_KINDS if (path / name).is_file()}
    if "features.npz" in there or {"rows.jsonl", "columns.json"} <= there:
        return "hazumi"
    if (path / "in-scope").is_dir():
        return "mintrec2"
    if any(name.endswith(".tsv") for name in there):
        return "mintrec"
    raise RecipeError(
        f"{path} is no data set moiety knows: expected features.npz (Hazumi), train.tsv (MIntRec), in-scope/ "
        "(MIntRec2.0), or a rows file (.jsonl, .csv) of clips"
    )


@dataclass(frozen=True)
class Parts:
    """The rows of a data set, divided by their purpose.

    Args:
        train: Rows that teach a network.
        choose: Rows that choose its best epoch; None: the classifier sets rows aside itself.
        score: Rows that are scored.
        all_train: Rows that teach a floor, which chooses no epoch: `train`, and `choose` if it was set aside from it.
        notes: What a reader of the scores should know.
    """

    train: Split
    choose: Split | None
    score: Split
    all_train: Split
    notes: Sequence[str] = field(default_factory=tuple)


def parts_of(dataset: IntentDataset, data: IntentDataSettings, seed: int, fraction: float = 0.1) -> Parts:
    """Divide the rows of a data set: which teach, which choose the best epoch, which are scored.

    If no split is named to choose, a share of the training rows is set aside for that: whole groups (persons) where the
    data names them, drawn by the seed. The rows that are scored then take no part in any choice.

    Args:
        dataset: All splits.
        data: Names of the splits.
        seed: Seed that draws the groups.
        fraction: Share of the training rows that is set aside.

    Raises:
        KeyError: there is no such split.
        ValueError: a split is empty.
    """
    train, score = dataset[data.train], dataset[data.score]
    for name, split in ((data.train, train), (data.score, score)):
        if not len(split):
            raise ValueError(f"split {name!r} of {data.path} holds no rows; its splits: {', '.join(dataset.splits)}")
    known = known_persons(dataset, data)
    if data.choose is not None:
        same = data.choose == data.score
        note = f"the best epoch was chosen on {data.choose}, the rows that are scored: these numbers are optimistic"
        return Parts(train, dataset[data.choose], score, train, [note] * same + known)
    if not train.groups:
        note = f"the best epoch was chosen on {fraction:.0%} of the training rows, drawn by the seed"
        return Parts(train, None, score, train, [note, *known])
    taken = set_aside(train, seed, fraction)
    left = [i for i in range(len(train)) if i not in taken]
    note = f"the best epoch was chosen on {fraction:.0%} of the training rows, whole persons drawn by the seed"
    return Parts(rows_of(train, left), rows_of(train, sorted(taken)), score, train, [note, *known])


def known_persons(dataset: IntentDataset, data: IntentDataSettings) -> list[str]:
    """Notes on persons who are scored and also teach or choose; empty where there are none."""
    score, found = set(dataset[data.score].groups), []
    for name in dict.fromkeys((data.train, data.choose)):
        both = sorted(score & set(dataset[name].groups)) if name not in (None, data.score) else []
        if both:
            found.append(
                f"{len(both)} of {len(score)} groups of split {data.score} are also in split {name} "
                f"({', '.join(both[:5])}): these grades are for persons that the model knows; for new persons set "
                "data.folds"
            )
    return found


def set_aside(split: Split, seed: int, fraction: float) -> set[int]:
    """Numbers of the rows that are set aside: whole groups, about `fraction` of all rows; every label keeps rows.

    Raises:
        ValueError: no group can be set aside.
    """
    rows: dict[str, list[int]] = {}
    for number, group in enumerate(split.groups):
        rows.setdefault(group, []).append(number)
    left, taken = Counter(split.labels), set[int]()
    order = np.random.default_rng(seed).permutation(len(rows))
    names = list(rows)
    for place in order:
        members = rows[names[place]]
        counts = Counter(split.labels[i] for i in members)
        most = 1.5 * fraction if taken else 0.5  # of few persons, one is more than the share that is asked for
        if len(taken) + len(members) > most * len(split) or any(left[x] <= n for x, n in counts.items()):
            continue
        taken.update(members)
        left.subtract(counts)
        if len(taken) >= fraction * len(split):
            break
    if not taken:
        raise ValueError(
            f"none of {len(rows)} groups can be set aside to choose the best epoch; name a split as data.choose"
        )
    return taken


def rows_of(split: Split, numbers: Sequence[int]) -> Split:
    """The rows with these numbers, in this order."""
    groups = [split.groups[i] for i in numbers] if split.groups else []
    return Split([split.samples[i] for i in numbers], [split.labels[i] for i in numbers], groups)


def fingerprint(split: Split, with_groups: bool = False) -> str:
    """Short hash of keys, labels, words and every number of a split: all that a result depends on.

    Args:
        split: The rows.
        with_groups: Whether the result depends on the speakers too, as it does in folds of persons.
    """
    found = hashlib.sha256()
    for sample, label in zip(split.samples, split.labels, strict=True):
        found.update(f"{sample.key}\0{label}\0{sample.text}\0{sample.text_marks}\0".encode())
        for name in MODALITIES:
            array = sample.frames(name)
            if array is not None:
                found.update(f"{name}{array.shape}".encode())
                found.update(np.ascontiguousarray(array).data)
    if with_groups:
        found.update("\0".join(split.groups).encode())
    return found.hexdigest()[:16]
