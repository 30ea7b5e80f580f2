"""Reads clips: extractors turn the words, pictures and sound of each row into a sample; every problem is listed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moiety.devices import device_named
from moiety.groups import nearest_name
from moiety.intent.clips.extractor import Extractor
from moiety.intent.clips.feature_cache import FeatureCache, features_of
from moiety.intent.clips.media import MediaError
from moiety.intent.clips.registry import extractor_for
from moiety.intent.data.dataset import IntentDataset, Split
from moiety.intent.data.encoders import HASHING
from moiety.intent.data.rows import ClipRow, RowsError, listed, read_clip_rows
from moiety.intent.data.samples import IntentSample

logger = logging.getLogger(__name__)

ON_ERROR = ("raise", "skip", "mask")
"""What to do with a clip that cannot be used: raise after all were tried; skip the row; leave that modality out."""
ALL = "train"
"""Split of the rows that name none."""

Problem = tuple[str, str]
"""Key of a row, and the reason why it cannot be used."""
Rows = str | Path | Sequence[ClipRow | Mapping[str, Any]]
Spec = str | Mapping[str, Any] | Extractor | None


class ClipError(ValueError):
    """Some clips cannot be used.

    Args:
        problems: Key and reason for each.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(
            f"{listed(self.problems)}; mend them, or pass on_error='skip' to leave these rows out, or 'mask' to leave "
            "only that modality out"
        )


@dataclass(frozen=True, eq=False)
class ClipReading:
    """The result of reading rows.

    Args:
        rows: The rows that can be used, in the given order.
        samples: The sample of each of these rows.
        problems: Key and reason for everything that could not be used; empty if there were no problems.
    """

    rows: list[ClipRow]
    samples: list[IntentSample]
    problems: list[Problem]

    @property
    def labels(self) -> list[Any]:
        """The label of each sample; None where the row has none."""
        return [row.label for row in self.rows]

    @property
    def dataset(self) -> IntentDataset:
        """The samples and labels by split; rows without a split are in ``train``.

        Raises:
            RowsError: some rows name a group and others do not.
        """
        bare = [row.key for row in self.rows if row.group is None]
        if 0 < len(bare) < len(self.rows):
            told = f"{len(bare)} of {len(self.rows)} rows name no group: {', '.join(bare[:5])}"
            reason = f"{told}; name groups in all rows, or in none"
            raise RowsError("rows", [("group", reason)])
        splits: dict[str, Split] = {}
        for row, sample in zip(self.rows, self.samples, strict=True):
            split = splits.setdefault(row.split or ALL, Split([], []))
            split.samples.append(sample)
            split.labels.append(row.label)  # type: ignore[arg-type]
            if row.group is not None:
                split.groups.append(row.group)
        return IntentDataset("clips", splits)


def read_clips(
    rows: Rows,
    *,
    audio: Spec = "prosody",
    video: Spec = "motion",
    text: Spec = HASHING,
    cache: str | Path | None = None,
    on_error: str = "raise",
    on_progress: Callable[[int, int], None] | None = None,
    device: str = "cpu",
) -> ClipReading:
    """Read clips and make a sample of each row.

    Args:
        rows: A ``.jsonl`` or ``.csv`` file as :func:`moiety.intent.data.rows.read_clip_rows` takes it; or a list of
            rows, or of mappings of their fields.
        audio: Extractor of the sound, as :func:`moiety.intent.clips.registry.extractor_for` takes it; None: sound is
            not used.
        video: Extractor of the pictures, likewise.
        text: ``hashing``: samples hold the words, and setting ``text_encoder`` of the classifier reads them. A Hugging
            Face id or folder: samples hold the frames of that model. None: words are not used.
        cache: Folder that keeps the frames; None: they are not kept.
        on_error: ``raise``: try all rows, then raise one error with every problem. ``skip``: leave out the rows with a
            problem. ``mask``: leave out that modality of the row, and rows that have none left.
        on_progress: Called with (rows done, rows in all) after each row.
        device: Where Hugging Face models run.

    Raises:
        FileNotFoundError: there is no rows file.
        RowsError: rows cannot be read, or keys are repeated.
        ClipError: clips cannot be used, and `on_error` is ``raise``.
        ValueError: an extractor or `on_error` is unknown.

    Example:
        ``read_clips("rows.jsonl", cache="features").dataset["train"].samples``
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"unknown on_error {on_error!r}; {nearest_name(str(on_error), ON_ERROR)}")
    device = device_named(device)
    specs = {"text": None if text == HASHING else text, "video": video, "audio": audio}
    extractors = {
        name: extractor_for(name, spec, device=device) if isinstance(spec, str | Mapping) else spec
        for name, spec in specs.items()
        if spec is not None
    }
    if not extractors and text is None:
        raise ValueError("text, video and audio are all None; give at least one extractor")
    return clip_samples(
        checked_rows(rows), extractors, words=text is not None, cache=cache, on_error=on_error, on_progress=on_progress
    )


def checked_rows(rows: Rows) -> list[ClipRow]:
    """The rows of a file or a list, checked: no two have the same key.

    Raises:
        FileNotFoundError: there is no such file.
        RowsError: rows cannot be read, or keys are repeated.
        TypeError: `rows` is neither a path nor a list.
    """
    if isinstance(rows, str | Path):
        return read_clip_rows(rows)
    if isinstance(rows, ClipRow | Mapping) or not isinstance(rows, Sequence):
        raise TypeError(f"rows are {type(rows).__name__}; give the path of a rows file, or a list of rows")
    found: list[ClipRow] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, given in enumerate(rows):
        name = f"row {number}"
        if not isinstance(given, ClipRow | Mapping):
            problems.append((name, f"{type(given).__name__}, expected a ClipRow or a mapping of its fields"))
            continue
        try:
            row = given if isinstance(given, ClipRow) else ClipRow.of(given, Path())
        except ValueError as error:
            problems.append((name, str(error)))
            continue
        if row.key in seen:
            problems.append((name, f"key {row.key!r} is given twice"))
        seen.add(row.key)
        found.append(row)
    if problems:
        raise RowsError("rows", problems)
    return found


def clip_samples(
    rows: Sequence[ClipRow],
    extractors: Mapping[str, Extractor],
    *,
    words: bool = True,
    cache: str | Path | None = None,
    on_error: str = "raise",
    on_progress: Callable[[int, int], None] | None = None,
) -> ClipReading:
    """Make a sample of each row, with the given extractors. Everything else is as in :func:`read_clips`.

    Args:
        rows: Rows whose keys differ.
        extractors: Modality -> its extractor; modalities that are not named are not read.
        words: Whether samples hold the text of their row.
        cache: See :func:`read_clips`.
        on_error: See :func:`read_clips`.
        on_progress: See :func:`read_clips`.

    Raises:
        ClipError: clips cannot be used and `on_error` is ``raise``.
    """
    store = None if cache is None else FeatureCache(cache)
    kept, samples, problems = [], [], []
    for done, row in enumerate(rows, 1):
        sample, wrong = _sample(row, extractors, words, store)
        usable = not wrong or on_error == "mask"
        if usable and not _any_input(sample):
            wrong = [f"{reason}; the row then has no modality left" for reason in wrong] or [
                f"it has none of {_wanted(extractors, words)}"
            ]
            usable = False
        problems += [(row.key, reason) for reason in wrong]
        if usable:
            kept.append(row)
            samples.append(sample)
        if on_progress is not None:
            on_progress(done, len(rows))
    if problems and on_error == "raise":
        raise ClipError(problems)
    if problems:
        logger.warning("%d of %d rows are left out. %s", len(rows) - len(kept), len(rows), listed(problems))
    return ClipReading(kept, samples, problems)


def _sample(
    row: ClipRow, extractors: Mapping[str, Extractor], words: bool, store: FeatureCache | None
) -> tuple[IntentSample, list[str]]:
    """The sample of a row, and its problems; modalities that fail are absent."""
    frames: dict[str, np.ndarray] = {}
    times: dict[str, np.ndarray] = {}
    reasons: dict[str, list[str]] = {}
    for name, extractor in extractors.items():
        try:
            found = features_of(extractor, row, store)
        except MediaError as error:
            reasons.setdefault(str(error), []).append(name)
            continue
        if found is not None:
            frames[name] = found[0]
            if len(found[1]):
                times[name] = found[1]
    sample = IntentSample(
        row.key,
        text=row.text if words else None,
        text_features=frames.get("text"),
        video=frames.get("video"),
        audio=frames.get("audio"),
        text_marks="text" in frames,
        times=times,
        extractors={name: extractors[name].fingerprint for name in frames},
    )
    return sample, [f"{' and '.join(names)}: {reason}" for reason, names in reasons.items()]


def _any_input(sample: IntentSample) -> bool:
    parts = (sample.text_features, sample.video, sample.audio)
    return bool(sample.text) or any(part is not None for part in parts)


def _wanted(extractors: Mapping[str, Extractor], words: bool) -> str:
    return ", ".join(dict.fromkeys([*(["text"] if words else []), *extractors]))
