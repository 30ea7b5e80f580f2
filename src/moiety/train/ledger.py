"""The record of what a stage was made from. It is compared before the result of the stage is used again.

``moiety_stage.json`` holds the *identity* of a stage (everything its weights depend on), the resolved recipe, versions,
command and metrics. A finished stage with the same identity is not trained again. With another identity nothing is
overwritten, and the error says what changed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from moiety.recipe.recipe import DataSettings, ModelSettings, MoESettings, Recipe, StageSettings
from moiety.recipe.section import with_defaults
from moiety.records.json_reader import parse_json
from moiety.train.fingerprints import ABSENT, FileDigests, base_digests, picture_digests, without_later

logger = logging.getLogger(__name__)

RECORD = "moiety_stage.json"
UNFINISHED = ".unfinished"
# Settings that change how a run is watched or resumed, but not its weights.
_NEUTRAL = {"logging_steps", "save_steps", "save_total_limit", "dataloader_num_workers", "starved_share"}
LATER = ("base", "pictures")
"""Fields that an identity did not always have; a record without one of them stays valid."""


class StageChanged(RuntimeError):
    """A stage folder was made with other settings than those asked for now."""


@dataclass(frozen=True)
class StageResult:
    """One finished stage.

    Args:
        name: Name of the stage.
        folder: Hugging Face folder of the trained model.
        metrics: Numbers of the run: steps, losses, tokens, speed, memory, rows.
        reused: Whether the folder existed already and nothing was trained.
    """

    name: str
    folder: Path
    metrics: Mapping[str, Any]
    reused: bool = False


def work_folder(folder: Path) -> Path:
    """The folder of checkpoints and logs of a stage that is not finished."""
    return folder.with_name(folder.name + UNFINISHED)


def identity_of(
    stage: StageSettings,
    recipe: Recipe,
    seed: int,
    moe: MoESettings | None,
    source: str | Path,
    pictures: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything the weights of a stage depend on, as plain JSON values.

    Settings with their default value are left out, so that a new field does not change the identity of old stages.

    Args:
        stage: The stage.
        recipe: Its recipe; sections that do not touch training are left out.
        seed: Seed of order, routers and noise.
        moe: Settings of the sparse layers, None for a dense stage.
        source: Folder that the stage starts from.
        pictures: Hashes of its pictures, if they are known already.

    Raises:
        FileNotFoundError: a conversation file does not exist.
    """
    tree, digests, data = _given(stage), FileDigests(recipe.output), _given(recipe.data)
    if "cache_features" in data:  # features differ in their last digits from those of a whole batch, wherever they lie
        data["cache_features"] = True
    tree["train"] = {key: value for key, value in tree.get("train", {}).items() if key not in _NEUTRAL}
    return {
        "seed": seed,
        "model": _given(recipe.model),
        "moe": None if moe is None else _given(moe),
        "data": {key: value for key, value in data.items() if key not in ("root", "made_by")},
        "files": {name: _digest(Path(recipe.data.root) / name) for name in stage.data},
        "stage": tree,
        "start": fingerprint_of(source),
        "base": base_digests(source, digests),
        "pictures": picture_digests(recipe.data, stage.data, digests) if pictures is None else dict(pictures),
    }


def _given(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_defaults=True)


def whole_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with all defaults filled in, for comparison and for error texts."""
    whole = dict(json.loads(json.dumps(identity)))
    sections: dict[str, type[BaseModel]] = {
        "model": ModelSettings,
        "moe": MoESettings,
        "data": DataSettings,
        "stage": StageSettings,
    }
    for name, section in sections.items():
        if whole.get(name) is not None:
            whole[name] = with_defaults(section, whole[name])
    return whole


def fingerprint_of(folder: str | Path) -> str:
    """Short hash of the identity that a stage folder was made from. For any other folder, the hash of its config."""
    record = read_record(Path(folder))
    if record is not None:
        return _hash(json.dumps(record["identity"], sort_keys=True).encode())
    config = Path(folder) / "config.json"
    return _hash(config.read_bytes()) if config.is_file() else str(folder)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a stage; None if there is none.

    Raises:
        ValueError: the file is damaged, or moiety did not write it.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        _ = record["identity"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete {folder} and train this stage again") from error
    return dict(record)


def write_record(folder: Path, identity: Mapping[str, Any], recipe: Recipe, metrics: Mapping[str, Any] | None) -> None:
    """Write the record whole or not at all. `metrics` is None for a stage that has only begun."""
    record = {
        "identity": identity,
        "finished": None if metrics is None else time.strftime("%Y-%m-%dT%H:%M:%S"),
        "metrics": metrics,
        "versions": {name: _version(name) for name in ("moiety", "torch", "transformers")},
        "command": sys.argv,
        "recipe": recipe.model_dump(mode="json"),
    }
    aside = folder / (RECORD + ".writing")
    aside.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(aside, folder / RECORD)


def finished_stage(folder: Path, name: str, identity: Mapping[str, Any]) -> StageResult | None:
    """The stage in `folder`, if it is finished and was made from `identity`; otherwise None.

    Raises:
        StageChanged: the stage, or its unfinished run, was made from another identity.
        FileExistsError: `folder` is not empty and moiety did not make it.
    """
    for place in (folder, work_folder(folder)):
        record = read_record(place)
        if record is None:
            continue
        asked = without_later(record["identity"], identity, LATER)
        if whole_identity(record["identity"]) != whole_identity(asked):
            raise StageChanged(_what_changed(place, name, record["identity"], asked))
    record = read_record(folder)
    if record is not None and record["finished"]:
        return StageResult(name, folder, record["metrics"], reused=True)
    if record is None and folder.exists() and any(folder.iterdir()) and not work_folder(folder).is_dir():
        raise FileExistsError(
            f"{folder} exists, but no stage of moiety made it (no {RECORD}); choose another output or move it away"
        )
    return None


@contextmanager
def owned(folder: Path, name: str) -> Iterator[None]:
    """Lock the stage in `folder` against other processes, and delete files that a killed process left while writing.

    The system frees the lock of a process that died.

    Raises:
        RuntimeError: another process is training the stage.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0):
            for left in folder.parent.glob(f".{folder.name}.writing-*"):
                shutil.rmtree(left)
            if (read_record(folder) or {}).get("finished"):
                shutil.rmtree(work_folder(folder), ignore_errors=True)  # killed after the folders were exchanged
            yield
    except Timeout as error:
        raise RuntimeError(
            f"stage {name!r} in {folder} is being trained by another process; wait for it or choose another output"
        ) from error


def discard_stage(folder: Path) -> None:
    """Delete a stage and its unfinished run before it is trained again. A folder that moiety did not make is kept."""
    for place in (folder, work_folder(folder)):
        if (place / RECORD).is_file():
            logger.info("deleting %s to train it again", place)
            shutil.rmtree(place)


def _what_changed(place: Path, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = dict(_leaves(whole_identity(old))), dict(_leaves(whole_identity(new)))
    lines = [
        f"  {key}: {before.get(key, ABSENT)!r} -> {after.get(key, ABSENT)!r}"
        for key in sorted({*before, *after})
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]
    return (
        f"stage {name!r} in {place} was made with other settings or files:\n" + "\n".join(lines) + "\n"
        "Nothing was overwritten. Give another folder (output=...), put them back, or run again with --fresh "
        "to delete this stage and train it again"
    )


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values of a nested JSON value."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _digest(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"no conversation file at {path}; a recipe's files are relative to data.root")
    return _hash(path.read_bytes())


def text_digest(texts: Iterable[str]) -> str:
    """Short hash of texts in their order."""
    return _hash("\0".join(texts).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
