"""A cache of frames on the disk, so that the same extractor decodes no clip twice.

``CACHE/<sha256 of the fingerprint>/<sha256 of content and cut>.safetensors`` holds ``features (frames, dim)`` float16
and ``times (frames,)`` float32; ``extractor.json`` in the same folder holds the settings. Files appear whole, so
several processes may share a cache. Frames are rounded to float16 with and without a cache, so both give the same bits.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from moiety.intent.clips.extractor import Extractor, Features
from moiety.intent.clips.media import DECODING, MediaError, check_file
from moiety.intent.data.rows import ClipRow
from moiety.records.saving import whole_file, write_atomically

logger = logging.getLogger(__name__)

_LARGEST = float(np.finfo(np.float16).max)


def features_of(extractor: Extractor, row: ClipRow, cache: FeatureCache | None = None) -> Features | None:
    """The frames of one row, in the precision of the cache; from the cache if they are there.

    Returns:
        Features ``(frames, dim)`` float32 and times ``(frames,)`` float32; None where the row has no such stream.

    Raises:
        MediaError: the file cannot be used, or the frames are not finite. Nothing is stored then.
    """
    source = extractor.source(row)
    if source is None:
        return None
    path = cache.path(extractor, source, row) if cache is not None else None
    known = read_features(path) if path is not None else None
    if known is None:
        known = _rounded(extractor.extract(row), row)
        if cache is not None and path is not None:
            cache.keep(path, known, extractor)
    features, times = known
    return (features.astype(np.float32), times) if len(features) else None


class FeatureCache:
    """A folder of frames.

    Args:
        folder: The folder; it is made when the first frames are kept.

    Raises:
        NotADirectoryError: there is a file with this name.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._told = False
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"the feature cache {self.folder} is a file; give a folder")

    def path(self, extractor: Extractor, source: Path | str, row: ClipRow) -> Path:
        """The place in the cache for the frames of a file or of a text.

        Raises:
            MediaError: there is no such file, or it is empty.
        """
        kind = hashlib.sha256(extractor.fingerprint.encode()).hexdigest()
        return self.folder / kind / f"{content_key(source, row)}.safetensors"

    def keep(self, path: Path, known: Features, extractor: Extractor) -> None:
        """Store frames. If the disk refuses, work goes on without the cache, and the log says so once."""
        features, times = known
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            about = path.parent / "extractor.json"
            if not about.is_file():
                write_atomically(about, json.dumps(extractor.settings(), indent=1, sort_keys=True) + "\n")
            with whole_file(path) as fresh:
                fresh.write_bytes(save({"features": features, "times": times}))
        except OSError as error:
            if not self._told:
                logger.warning("features are not kept in %s: %s", self.folder, error)
            self._told = True


def content_key(source: Path | str, row: ClipRow) -> str:
    """Hash of the content that is read: every byte of a file and the cut, or a text.

    Raises:
        MediaError: there is no such file, or it is empty.
    """
    if isinstance(source, str):
        return hashlib.sha256(f"text {source}".encode()).hexdigest()
    try:
        check_file(source)
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except MediaError as error:
        raise MediaError(f"{source.name}: {error}") from error
    except OSError as error:
        raise MediaError(f"{source.name}: it cannot be read ({error})") from error
    return hashlib.sha256(f"file {digest} {row.start_s!r} {row.end_s!r} {DECODING}".encode()).hexdigest()


def read_features(path: Path) -> Features | None:
    """The frames in a file of the cache; None if there is no such file, or if it is damaged (which is logged)."""
    try:
        found = load(path.read_bytes())
        features, times = found["features"], found["times"]
        if features.ndim != 2 or features.dtype != np.float16 or len(times) not in (0, len(features)):
            raise ValueError(f"features {features.dtype} {features.shape}, times {times.shape}")
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        logger.warning("%s in the feature cache is damaged (%s); its clip is read again", path, error)
        return None
    return features, times


def _rounded(found: Features | None, row: ClipRow) -> Features:
    """The frames as float16; an absent stream has no frames."""
    if found is None:
        return np.zeros((0, 0), np.float16), np.zeros(0, np.float32)
    features, times = found
    if not np.isfinite(features).all():
        wrong = (~np.isfinite(features).all(1)).sum()
        raise MediaError(f"the extractor made {wrong} of {len(features)} frames of {row.key} that are not finite")
    return np.clip(features, -_LARGEST, _LARGEST).astype(np.float16), times.astype(np.float32)
