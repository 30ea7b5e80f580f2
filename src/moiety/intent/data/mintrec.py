"""Reading MIntRec and MIntRec2.0 from their folders."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from moiety.intent.data.dataset import IntentDataError, IntentDataset, Split, text_of
from moiety.intent.data.pickles import read_feature_pickle
from moiety.intent.data.samples import IntentSample

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Columns:
    """The columns of an official tsv file.

    Args:
        key: Columns that together identify a row.
        form: Format string that turns their values into the key of the feature files.
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
    """The samples, which have only text, and the labels of one official tsv file. Quotes are ordinary letters.

    Raises:
        FileNotFoundError: there is no such file.
        IntentDataError: the columns are those of neither benchmark, a line is short, or a key is given twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; expected train.tsv, dev.tsv and test.tsv there")
    text = text_of(path)
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
            raise IntentDataError(f"{path}:{number}: {len(line)} fields, the head has {len(head)}; mend this line")
        key = kind.form.format(*(line[place[name]] for name in kind.key))
        if key in seen:
            raise IntentDataError(f"{path}:{number}: key {key} is given twice; keep one of the rows")
        seen.add(key)
        samples.append(IntentSample(key, text=line[place[kind.text]]))
        labels.append(line[place[kind.label]])
    return samples, labels


FEATURES = {
    "video": ("video_data/video_feats.pkl", "video_data/swin_roi_binary.pkl", "video_data/swin_feats.pkl"),
    "audio": ("audio_data/audio_feats.pkl", "audio_data/wavlm_feats_binary.pkl", "audio_data/wavlm_feats.pkl"),
}


def read_mintrec(folder: str | Path, *, on_missing: str = "stop") -> IntentDataset:
    """MIntRec or MIntRec2.0 from its folder, with video and audio features if their files are there.

    Args:
        folder: Folder with the three tsv files, or with folders ``in-scope`` and ``out-of-scope`` that hold them.
        on_missing: What to do with a row that a feature file lacks. ``stop``: raise. ``mask``: that modality is absent.

    Raises:
        FileNotFoundError: a tsv file is missing.
        IntentDataError: a tsv file is damaged, or rows have no features; the text counts them.
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
