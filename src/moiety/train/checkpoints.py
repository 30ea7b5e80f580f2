"""Checkpoints that are complete or absent. They are written to another folder, renamed, and checked before use.

A checkpoint is a folder ``checkpoint-<step>`` with weights, optimizer, schedule, random states and a seal,
``moiety_checkpoint.json``: the size of every file and the counters of the run. The seal is written last, so a folder
without it, or with a file of another size, is not a checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from moiety.records.json_reader import parse_json

logger = logging.getLogger(__name__)

SEAL = "moiety_checkpoint.json"
ASIDE = ".writing"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be resumed from."""


def seal(aside: Path, final: Path, counters: Mapping[str, Any]) -> None:
    """Make the folder `aside` a checkpoint at `final`: flush every file, write the seal, rename.

    Args:
        aside: Complete folder on the same file system as `final`.
        final: Where the checkpoint will stand. An older one in this place is replaced.
        counters: Totals of the run that a resumed run continues from.
    """
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    sizes = {str(path.relative_to(aside)): path.stat().st_size for path in files}
    record = aside / SEAL
    record.write_text(json.dumps({"files": sizes, "counters": dict(counters)}, indent=1), encoding="utf-8")
    for path in (*files, record):
        flush(path)
    if final.exists():
        shutil.rmtree(final)
    aside.rename(final)
    flush(final.parent)


def flush(path: Path) -> None:
    """Wait until the file or folder `path` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def problem_of(checkpoint: Path) -> str | None:
    """Why `checkpoint` is not complete; None if it is complete."""
    try:
        sizes = parse_json((checkpoint / SEAL).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"no {SEAL}"
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"{SEAL} is not readable"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} were written"
    return None


def checkpoints_in(folder: Path) -> list[Path]:
    """Folders called ``checkpoint-<step>`` in `folder`, oldest first. They may be incomplete."""
    found = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*"))
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match and path.is_dir())]


def last_whole(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`. An incomplete one is skipped, with a line in the log."""
    for path in reversed(checkpoints_in(folder)):
        problem = problem_of(path)
        if problem is None:
            return path
        logger.warning("checkpoint %s is torn (%s) and ignored", path, problem)
    return None


def drop_older(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints of `folder`."""
    for path in checkpoints_in(folder)[:-keep]:
        shutil.rmtree(path)


def counters_of(checkpoint: Path) -> dict[str, Any]:
    """Totals that :func:`seal` stored; empty for a folder without a readable seal."""
    if problem_of(checkpoint) is not None:
        return {}
    return dict(parse_json((checkpoint / SEAL).read_text(encoding="utf-8"))["counters"])


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load the weights of `folder` into `model`. The names of the tensors must be exactly those of the model.

    Tensors that the model ties to a stored one need not be stored themselves.

    Raises:
        CheckpointError: there are no weights, they cannot be read, or a tensor is missing, unexpected or of another
            shape.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"no weights (*.safetensors) in {folder}")
    tensors = {}
    for file in files:
        try:
            tensors.update(load_file(file))
        except SafetensorError as error:
            raise CheckpointError(
                f"{file} is corrupt: {error}. Delete {folder} to resume from an earlier one"
            ) from error
    own = model.state_dict()
    stored = {own[name].data_ptr() for name in tensors if name in own}
    missing = [name for name, tensor in own.items() if name not in tensors and tensor.data_ptr() not in stored]
    left_over = [name for name in tensors if name not in own]
    reshaped = [f"{n} {tuple(t.shape)}" for n, t in tensors.items() if n in own and t.shape != own[n].shape]
    if missing or left_over or reshaped:
        raise CheckpointError(
            f"{folder} does not fit the model: {_some('missing', missing)}{_some('unexpected', left_over)}"
            f"{_some('other shape', reshaped)}it was written by another model or recipe; "
            "resume with the recipe that wrote it, or start afresh"
        )
    model.load_state_dict(tensors, strict=False)


def _some(what: str, names: list[str]) -> str:
    """``3 missing (a, b, …); ``, or an empty text if there are no `names`."""
    if not names:
        return ""
    return f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}); "
