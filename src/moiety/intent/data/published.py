"""Data sets of the field: MIntRec, MIntRec2.0 and Hazumi, as their folders lie on the disk."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from moiety.groups import nearest_name
from moiety.intent.data.pickles import read_feature_pickle
from moiety.intent.data.samples import IntentSample
from moiety.records.json_reader import parse_json
from moiety.records.text_files import TextFileError, read_text

SPLITS = ("train", "dev", "test")


class IntentDataError(ValueError):
    """A data folder cannot be used; the text names file and line."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Args:
        samples: The utterances.
        labels: One string a sample.
        groups: Who speaks in each sample, where the data says so; empty otherwise.
    """

    samples: list[IntentSample]
    labels: list[str]
    groups: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class IntentDataset:
    """A data set by split.

    Args:
        name: Kind of the data.
        splits: Name of a split -> its rows.
    """

    name: str
    splits: Mapping[str, Split]

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise KeyError(f"{self.name} has no split {split!r}; {nearest_name(split, self.splits)}")
        return self.splits[split]


@dataclass(frozen=True)
class Columns:
    """Which columns of an official tsv name what.

    Args:
        key: Columns that name a row together.
        form: How their values become the key of the feature files, a format string.
        text: Column of the transcript.
        label: Column of the label.
    """

    key: tuple[str, ...]
    form: str
    text: str
    label: str


MINTREC = Columns(("season", "episode", "clip"), "{}_{}_{}", "text", "label")
MINTREC2 = Columns(("Dialogue_id", "Utterance_id"), "dia{}_utt{}", "Text", "Label")


def read_tsv(path: Path) -> tuple[list[IntentSample], list[str]]:
    """Samples with text alone, and labels, of one official tsv; fields are never quoted.

    Raises:
        FileNotFoundError: there is no such file.
        IntentDataError: its columns are of neither benchmark, a line is short, or a key stands twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; expected train.tsv, dev.tsv and test.tsv there")
    text = _text_of(path)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    except csv.Error as error:
        raise IntentDataError(f"{path} is no table of tab-separated lines ({error})") from error
    head = lines[0] if lines else []
    kinds = [kind for kind in (MINTREC, MINTREC2) if {*kind.key, kind.text, kind.label} <= set(head)]
    if not kinds:
        raise IntentDataError(
            f"{path} has columns {head}; expected those of MIntRec ({MINTREC}) or MIntRec2.0 ({MINTREC2})"
        )
    kind, place = kinds[0], {name: head.index(name) for name in head}
    samples, labels, seen = [], [], set()
    for number, line in enumerate(lines[1:], 2):
        if len(line) < len(head):
            raise IntentDataError(f"{path}:{number}: {len(line)} fields, the head has {len(head)}")
        key = kind.form.format(*(line[place[name]] for name in kind.key))
        if key in seen:
            raise IntentDataError(f"{path}:{number}: key {key} stands twice")
        seen.add(key)
        samples.append(IntentSample(key, text=line[place[kind.text]]))
        labels.append(line[place[kind.label]])
    return samples, labels


FEATURES = {
    "video": ("video_data/video_feats.pkl", "video_data/swin_roi_binary.pkl", "video_data/swin_feats.pkl"),
    "audio": ("audio_data/audio_feats.pkl", "audio_data/wavlm_feats_binary.pkl", "audio_data/wavlm_feats.pkl"),
}


def read_mintrec(folder: str | Path, *, on_missing: str = "stop") -> IntentDataset:
    """MIntRec or MIntRec2.0 from its folder, with video and audio features where their files are there.

    Args:
        folder: Holds the three tsv files, or ``in-scope`` and ``out-of-scope`` folders that do.
        on_missing: What a row without features does where the file exists: ``stop``, or ``mask`` for absent.

    Raises:
        FileNotFoundError: a tsv is missing.
        IntentDataError: a tsv is damaged, or rows have no features; all are counted.
    """
    folder = Path(folder)
    parts = [folder]
    if (folder / "in-scope").is_dir():
        outside = folder / "out-of-scope" / "MIntRec2.0-OOD"
        parts = [folder / "in-scope", *([outside] if outside.is_dir() else [])]
    splits: dict[str, Split] = {name: Split([], []) for name in SPLITS}
    for part in parts:
        features = {name: _features(part, files) for name, files in FEATURES.items()}
        for name in SPLITS:
            samples, labels = read_tsv(part / f"{name}.tsv")
            splits[name].samples.extend(_joined(samples, features, part, on_missing))
            splits[name].labels.extend(labels)
    return IntentDataset("mintrec", splits)


def _features(part: Path, files: Sequence[str]) -> dict[str, np.ndarray] | None:
    found = [part / name for name in files if (part / name).is_file()]
    return read_feature_pickle(found[0]) if found else None


def _joined(
    samples: Sequence[IntentSample], features: Mapping[str, Any], part: Path, on_missing: str
) -> list[IntentSample]:
    for name, table in features.items():
        missing = [sample.key for sample in samples if table is not None and sample.key not in table]
        if missing and on_missing != "mask":
            raise IntentDataError(
                f"{part}: {len(missing)} of {len(samples)} rows have no {name} features, first {missing[0]}; "
                "complete the file, or pass on_missing='mask' to treat them as absent"
            )
    return [
        replace(sample, **{name: table.get(sample.key) for name, table in features.items() if table is not None})
        for sample in samples
    ]


_HAZUMI_FEATURES = ("text_bert", "text_pos", "video", "audio")
HAZUMI_TARGETS = {"da": "da_labels", "ui_ternary": ("low", "middle", "high"), "tc_ternary": ("low", "middle", "high")}


def read_hazumi(folder: str | Path, *, target: str = "da", view: str = "exchange", history: int = 8) -> IntentDataset:
    """Hazumi features, split by person.

    The words of the system are never an input: they give its act away.

    Args:
        folder: Holds ``features.npz``, ``rows.jsonl`` and ``columns.json``.
        target: ``da``, ``ui_ternary`` or ``tc_ternary``.
        view: ``exchange``: one frame a modality. ``history``: the last `history` exchanges of the dialogue as frames,
            newest first. ``tokens``: audio as 32 descriptors, video as 12 landmarks.
        history: Exchanges in view ``history``.

    Raises:
        FileNotFoundError: a file is missing.
        IntentDataError: a file is damaged, lacks arrays, or has other rows than the next; the text says what would do.
        ValueError: unknown target or view.
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
        reason = type(error).__name__  # numpy's own text advises to run what is in the file
        raise IntentDataError(f"{path} is no whole npz file of plain arrays ({reason}); fetch it again") from error
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise IntentDataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(there) or 'nothing'}. Expected one array a "
            "modality, a row an exchange: text_bert and text_pos (text), video, audio, and the target "
            f"{target}; where nothing is known of a modality, zeros count as absent"
        )
    return arrays


def _hazumi_rows(path: Path) -> list[Mapping[str, Any]]:
    rows = []
    for number, line in enumerate(_text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise IntentDataError(f"{path}:{number}: no JSON ({error.msg} at letter {error.pos + 1})") from error
        if not isinstance(row, Mapping) or not {"row", "dialogue"} <= set(row):
            raise IntentDataError(f"{path}:{number}: expected an object with row and dialogue, and person and split")
        rows.append(row)
    return rows


def _named_labels(path: Path, name: str) -> Sequence[str]:
    try:
        labels = parse_json(_text_of(path))[name]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise IntentDataError(f"{path} names no {name}; expected an object that lists the labels there") from error
    return list(labels)


def _check_lengths(
    folder: Path, arrays: Mapping[str, np.ndarray], rows: Sequence[Any], target: str, labels: Sequence[str]
) -> None:
    wrong = [f"{name} {len(array)}" for name, array in arrays.items() if len(array) != len(rows)]
    if wrong:
        raise IntentDataError(f"{folder}: rows.jsonl has {len(rows)} rows, but features.npz has of {', '.join(wrong)}")
    codes = np.unique(arrays[target]).tolist()
    if codes and not 0 <= min(codes) <= max(codes) < len(labels):
        raise IntentDataError(f"{folder}: {target} holds codes {codes}, but there are {len(labels)} labels (0 up)")


def _text_of(path: Path) -> str:
    try:
        return read_text(path)
    except TextFileError as error:
        raise IntentDataError(str(error)) from error


def _windows(rows: Sequence[Mapping[str, Any]], length: int) -> list[list[int]]:
    """The rows each row sees: itself and those before it in the same dialogue, newest first."""
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
