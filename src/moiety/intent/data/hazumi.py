"""Reading Hazumi from its folder: recorded video calls with labels of dialogue acts and impressions."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moiety.groups import nearest_name
from moiety.intent.data.dataset import IntentDataError, IntentDataset, Split, text_of
from moiety.intent.data.samples import IntentSample
from moiety.records.json_reader import parse_json

_HAZUMI_FEATURES = ("text_bert", "text_pos", "video", "audio")
HAZUMI_TARGETS = {"da": "da_labels", "ui_ternary": ("low", "middle", "high"), "tc_ternary": ("low", "middle", "high")}


def read_hazumi(folder: str | Path, *, target: str = "da", view: str = "exchange", history: int = 8) -> IntentDataset:
    """The features of Hazumi, split by person.

    The words of the dialogue system are never an input, because they would give its dialogue act away.

    Args:
        folder: Folder with ``features.npz``, ``rows.jsonl`` and ``columns.json``.
        target: What is recognised: ``da``, ``ui_ternary`` or ``tc_ternary``.
        view: ``exchange``: one frame for each modality. ``history``: the last `history` exchanges of the dialogue as
            frames, the newest first. ``tokens``: audio as 32 descriptors, video as 12 landmarks.
        history: Number of exchanges in view ``history``.

    Raises:
        FileNotFoundError: a file is missing.
        IntentDataError: a file is damaged, lacks arrays, or has another number of rows than the others; the text says
            what is expected.
        ValueError: the target or the view is unknown.
    """
    folder = Path(folder)
    for name in ("features.npz", "rows.jsonl", "columns.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {name} in {folder}; expected features.npz, rows.jsonl and columns.json there")
    if target not in HAZUMI_TARGETS:
        raise ValueError(f"unknown target {target!r}; {nearest_name(target, HAZUMI_TARGETS)}")
    if view not in ("exchange", "history", "tokens"):
        raise ValueError(f"unknown view {view!r}; {nearest_name(view, ('exchange', 'history', 'tokens'))}")
    arrays, rows = _hazumi_arrays(folder / "features.npz", target), _hazumi_rows(folder / "rows.jsonl")
    names = HAZUMI_TARGETS[target]
    labels = _named_labels(folder / "columns.json", names) if isinstance(names, str) else names
    _check_lengths(folder, arrays, rows, target, labels)
    frames = {
        "text": np.concatenate([arrays["text_bert"].astype(np.float32), arrays["text_pos"]], axis=1),
        "video": arrays["video"],
        "audio": arrays["audio"],
    }
    windows = _windows(rows, history if view == "history" else 1)
    splits: dict[str, Split] = {}
    for number, row in enumerate(rows):
        split = splits.setdefault(row.get("split", "train"), Split([], []))
        split.samples.append(_hazumi_sample(row, frames, windows[number], view))
        split.labels.append(labels[int(arrays[target][number])])
        split.groups.append(str(row.get("person", row["dialogue"])))
    return IntentDataset("hazumi", splits)


def _hazumi_arrays(path: Path, target: str) -> dict[str, np.ndarray]:
    wanted = (*_HAZUMI_FEATURES, target)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            there = list(file.files)
            arrays = {name: np.ascontiguousarray(file[name]) for name in wanted if name in there}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = type(error).__name__  # the text of numpy advises to allow pickles, which could run code
        raise IntentDataError(f"{path} is no whole npz file of plain arrays ({reason}); fetch it again") from error
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise IntentDataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(there) or 'nothing'}. Expected arrays with one "
            "row for each exchange: text_bert and text_pos (text), video, audio, and the target "
            f"{target}; where a modality is not known, write zeros, which count as absent"
        )
    return arrays


def _hazumi_rows(path: Path) -> list[Mapping[str, Any]]:
    rows = []
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise IntentDataError(f"{path}:{number}: no JSON ({error.msg} at letter {error.pos + 1})") from error
        if not isinstance(row, Mapping) or not {"row", "dialogue"} <= set(row):
            raise IntentDataError(
                f"{path}:{number}: expected an object with row and dialogue, and if known person and split"
            )
        rows.append(row)
    return rows


def _named_labels(path: Path, name: str) -> Sequence[str]:
    try:
        labels = parse_json(text_of(path))[name]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise IntentDataError(f"{path} names no {name}; expected an object that lists the labels there") from error
    return list(labels)


def _check_lengths(
    folder: Path, arrays: Mapping[str, np.ndarray], rows: Sequence[Any], target: str, labels: Sequence[str]
) -> None:
    wrong = [f"{name} {len(array)}" for name, array in arrays.items() if len(array) != len(rows)]
    if wrong:
        raise IntentDataError(
            f"{folder}: rows.jsonl has {len(rows)} rows, but features.npz has {', '.join(wrong)}; give equally many"
        )
    codes = np.unique(arrays[target]).tolist()
    if codes and not 0 <= min(codes) <= max(codes) < len(labels):
        raise IntentDataError(
            f"{folder}: {target} holds codes {codes}, expected 0 to {len(labels) - 1} for {len(labels)} labels"
        )


def _windows(rows: Sequence[Mapping[str, Any]], length: int) -> list[list[int]]:
    """For each row the numbers of the rows in its view: itself and those before it in its dialogue, newest first."""
    windows: list[list[int]] = []
    for number, row in enumerate(rows):
        earlier = windows[-1][: length - 1] if number and rows[number - 1]["dialogue"] == row["dialogue"] else []
        windows.append([number, *earlier])
    return windows


def _hazumi_sample(
    row: Mapping[str, Any], frames: Mapping[str, np.ndarray], window: list[int], view: str
) -> IntentSample:
    taken = {name: array[window] for name, array in frames.items()}
    if view == "tokens":
        video = taken["video"][0]
        units = np.broadcast_to(video[48:], (12, len(video) - 48))
        taken["video"] = np.concatenate([video[:48].reshape(12, 4), units], axis=1)
        taken["audio"] = taken["audio"][0].reshape(32, 12)
    present = {name: None if not array.any() else array for name, array in taken.items()}
    return IntentSample(
        f"row {row['row']}", text_features=present["text"], video=present["video"], audio=present["audio"]
    )
