"""The answers of a classifier as plain rows, for a file or a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moiety.intent.classifier import IntentClassifier
from moiety.intent.data.dataset import Split
from moiety.intent.data.rows import ClipRow, read_clip_rows
from moiety.intent.data.samples import IntentSample, SampleError, has_input
from moiety.intent.data.sources import ROWS_FILES, read_source, source_at
from moiety.records.saving import write_atomically

TOP = 3


def answers(
    model: IntentClassifier, samples: Sequence[IntentSample], *, with_frames: bool = False, hide: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One row for each sample: ``key``, ``label``, ``probability``, ``top``, ``oos_score``, ``modalities``.

    Args:
        model: A fitted classifier.
        samples: Each has at least one modality that the model reads.
        with_frames: Add ``shares`` and ``anchors``, see :meth:`moiety.intent.IntentClassifier.explain`.
        hide: Modalities hidden in every sample.

    Returns:
        Rows. ``label`` is what ``predict`` answers, and may be the out-of-scope label. ``top`` holds the likeliest
        classes with their probabilities, and ``probability`` is that of the first. ``oos_score`` is higher for samples
        that look further out of scope.

    Raises:
        SampleError: some samples have nothing that the model reads; the text counts them and names the first ones.
    """
    kept = tuple(name for name in model.dims_ if name not in hide)
    empty = [sample.key for sample in samples if not has_input(sample, kept)]
    if empty:
        raise SampleError(
            f"{len(empty)} of {len(samples)} samples have none of {', '.join(kept) or 'the modalities'}: "
            f"{', '.join(empty[:5])}; give one of these modalities, or leave the samples out"
        )
    probabilities = model.predict_proba(samples, hide=hide)
    said = model.predict(samples, hide=hide)
    scores = model.oos_score(samples, hide=hide)
    rows = []
    for number, sample in enumerate(samples):
        order = np.argsort(-probabilities[number], kind="stable")[:TOP]
        top = [{"label": str(model.classes_[i]), "probability": float(probabilities[number, i])} for i in order]
        rows.append(
            {
                "key": sample.key,
                "label": str(said[number]),
                "probability": top[0]["probability"],
                "top": top,
                "oos_score": float(scores[number]),
                "modalities": [name for name in kept if has_input(sample, (name,))],
            }
        )
    if with_frames:
        for row, told in zip(rows, model.explain(samples, hide), strict=True):
            tree = told.to_dict()
            row |= {"shares": tree["shares"], "anchors": tree["anchors"]}
    return rows


def samples_at(
    model: IntentClassifier,
    path: str | Path,
    *,
    text: str | None = None,
    split: str | None = None,
    settings: Sequence[str] = (),
    **options: Any,
) -> Split:
    """The samples of a clip, a rows file or a data folder, made in the same way as those that the model learned from.

    Args:
        model: A fitted classifier.
        path: One clip (any media file), a rows file (``.jsonl``, ``.csv``), or a data folder.
        text: The words that are spoken, if `path` is one clip.
        split: The split of the rows file or data folder that is read; None: all rows.
        settings: Dotted overrides of the data section, if `path` is a data folder.
        **options: ``cache``, ``on_error``, ``on_progress``, if clips are read.

    Returns:
        Samples and their labels; the label is "" where the data has none.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it cannot be read, or an option does not fit it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"nothing at {path}; give a clip, a rows file (.jsonl, .csv) or a data folder")
    is_rows = path.suffix.lower() in ROWS_FILES
    if text is not None and (path.is_dir() or is_rows):
        raise ValueError(f"text belongs to one clip, and {path} holds many; give the words in each row of the file")
    if path.is_dir():
        data = source_at(path, settings)
        dataset = read_source(data)
        splits = [dataset[split]] if split else list(dataset.splits.values())
        return Split([s for part in splits for s in part.samples], [x for part in splits for x in part.labels])
    if settings:
        raise ValueError(
            f"settings {', '.join(settings)} belong to a data folder, and {path} holds clips, which are read as in "
            "training; leave them out"
        )
    rows = read_clip_rows(path) if is_rows else [ClipRow(path.stem, clip=path, text=text)]
    kept = [row for row in rows if split in (None, row.split)]
    if not kept:
        known = ", ".join(sorted({row.split for row in rows if row.split})) or "none"
        raise ValueError(f"{path} holds no row of split {split!r}; its splits are: {known}")
    reading = model.read_clips(kept, **options)
    return Split(reading.samples, [row.label or "" for row in reading.rows])


def write_answers(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Write answers as JSON lines, whole or not at all.

    Args:
        rows: Rows of :func:`answers`.
        path: The file. An earlier file is replaced, and missing folders are made.
    """
    write_atomically(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
