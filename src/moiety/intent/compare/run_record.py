"""The record of one run (one method, one seed), as a file that is either whole or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moiety.intent.settings import IntentSettings
from moiety.recipe.section import with_defaults
from moiety.records.run_files import load_run_file, save_run_file

RUNS = "runs"


def run_folder(output: str | Path, name: str, seed: int | None) -> Path:
    """Folder of one run, below the folder of its comparison; a floor has no seed.

    Example:
        >>> run_folder("out", "amess", 2).as_posix(), run_folder("out", "majority", None).as_posix()
        ('out/runs/amess-seed2', 'out/runs/majority')
    """
    return Path(output) / RUNS / (name if seed is None else f"{name}-seed{seed}")


@dataclass(frozen=True)
class IntentRun:
    """One method trained and scored with one seed.

    Args:
        name: Name in the table.
        seed: Seed of weights, order of rows, dropout and rows set aside; 0 for a floor, which needs none.
        settings: Everything that the result depends on. A record that was made with other settings is not used again.
        grades: Measure -> value in 0..1, with all modalities given.
        hidden: Hidden modalities, joined with + -> grades; only where rows are left.
        rows: Number of rows that were graded.
        without_input: Hidden modalities ("" for none) -> number of rows that were left out, because they have nothing
            that can be read.
        confusion: ``labels`` and ``counts``.
        training: ``seconds``, ``parameters``, ``epochs``, ``best_epoch``.
        notes: What a reader of the scores should know.
        provenance: Command, versions, commit, machine.
        by_group: For a run in folds: hidden modalities ("" for none) -> ``labels`` and the ``counts`` of each person.
    """

    name: str
    seed: int
    settings: Mapping[str, Any]
    grades: Mapping[str, float]
    hidden: Mapping[str, Mapping[str, float]]
    rows: int
    without_input: Mapping[str, int]
    confusion: Mapping[str, Any]
    training: Mapping[str, float]
    notes: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    by_group: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def save_run(run: IntentRun, folder: Path) -> None:
    """Write the record as ``result.json``, whole or not at all.

    Args:
        run: The record.
        folder: Folder of the run; an earlier record in it is replaced.

    Raises:
        OSError: the folder cannot be written; an earlier record then stays.
    """
    save_run_file(run, folder)


def load_run(folder: Path, settings: Mapping[str, Any] | None = None) -> IntentRun | None:
    """The record in `folder`; None when the run has not finished.

    Args:
        folder: Folder of the run.
        settings: Settings with which the run would be made now; None: they are not compared.

    Raises:
        ValueError: the record was made with other settings, or the file is not a record.
    """
    return load_run_file(folder, IntentRun, _whole, settings)


def _whole(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with all defaults: fields that were added later did not change earlier results."""
    tree = dict(json.loads(json.dumps(settings)))
    return tree | {"model": with_defaults(IntentSettings, tree.get("model", {}))}
