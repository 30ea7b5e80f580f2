"""The record of one finished run of a comparison. It is whole or absent, and is only used for the same settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from moiety.recipe.section import differences
from moiety.records.json_reader import parse_json
from moiety.records.saving import write_atomically

RESULT = "result.json"
SHOWN = 5
Record = TypeVar("Record")


def save_run_file(record: Any, folder: Path) -> None:
    """Write a dataclass as ``result.json`` into `folder`."""
    write_atomically(folder / RESULT, json.dumps(asdict(record), indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def load_run_file(
    folder: Path,
    kind: Callable[..., Record],
    whole: Callable[[Mapping[str, Any]], Any],
    settings: Mapping[str, Any] | None = None,
    aligned: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Record | None:
    """The record in `folder`; None when the run has not finished.

    Args:
        folder: Folder of the run.
        kind: Dataclass of the record; has a field ``settings``.
        whole: Fills in the defaults of settings, so that settings that were added later make no difference.
        settings: The settings that the run would have now. None: return the record without a check.
        aligned: (then, now) -> now without the settings that did not exist when the record was written. None: all
            count.

    Raises:
        ValueError: the record was made with other settings, or the file is not a record.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        tree = parse_json(path.read_text(encoding="utf-8"))
        record = kind(**tree)
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not the result of a run ({error}); delete it to repeat the run") from error
    now = settings if aligned is None or settings is None else aligned(tree["settings"], settings)
    changes = [] if now is None else differences(whole(tree["settings"]), whole(now))
    if changes:
        more = f"; and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
        raise ValueError(
            f"{path} was made with other settings: {'; '.join(changes[:SHOWN])}{more}. "
            "Choose another `output`, or delete that folder to repeat the run"
        )
    return record
