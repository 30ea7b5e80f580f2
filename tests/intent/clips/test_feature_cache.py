"""The cache of frames: it saves work, never changes a number, and is never read half-written (P22)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moiety.intent.clips.built_in import Prosody, ProsodySettings
from moiety.intent.clips.extractor import Features
from moiety.intent.clips.feature_cache import FeatureCache, features_of, read_features
from moiety.intent.clips.media import MediaError
from moiety.intent.clips.registry import extractor_for
from moiety.intent.data.rows import ClipRow
from tests.intent.clips.clip_files import tone, write_clip, write_wav


class Counted(Prosody):
    """Prosody that counts its work; `change` spoils what it makes."""

    def __init__(self, change: Callable[[np.ndarray], np.ndarray] = lambda features: features, **options: Any) -> None:
        super().__init__(ProsodySettings(**options))
        self.calls, self.change = 0, change

    def extract(self, row: ClipRow) -> Features | None:
        self.calls += 1
        found = super().extract(row)
        return None if found is None else (self.change(found[0]), found[1])


@pytest.fixture
def row(tmp_path: Path) -> ClipRow:
    return ClipRow("a", audio=write_wav(tmp_path / "a.wav", tone(0.3)))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_known_is_not_made_again_and_is_the_same_bit_for_bit(tmp_path: Path, row: ClipRow) -> None:
    extractor, cache = Counted(), FeatureCache(tmp_path / "cache")
    alone = features_of(extractor, row)
    first = features_of(extractor, row, cache)
    assert extractor.calls == 2
    again = features_of(extractor, row, FeatureCache(tmp_path / "cache"))
    assert extractor.calls == 2
    assert alone is not None
    for other in (first, again):
        assert other is not None
        for one, two in zip(alone, other, strict=True):
            assert one.dtype == two.dtype == np.float32
            assert (one == two).all()
    exact = Prosody(ProsodySettings()).extract(row)
    assert exact is not None
    np.testing.assert_allclose(alone[0], exact[0], rtol=2**-11, atol=2**-24)  # half a step of float16


@pytest.mark.parametrize("change", ["an option", "one byte", "the start", "the end"])
def test_everything_that_matters_misses(tmp_path: Path, row: ClipRow, change: str) -> None:
    cache = FeatureCache(tmp_path / "cache")
    features_of(Counted(), row, cache)
    extractor = Counted(hop_s=0.05) if change == "an option" else Counted()
    if change == "one byte":
        assert row.audio is not None
        data = bytearray(row.audio.read_bytes())
        data[2000] ^= 1
        row.audio.write_bytes(data)
    cuts: dict[str, Any] = {"the start": {"start_s": 0.1}, "the end": {"end_s": 0.2}}
    features_of(extractor, replace(row, **cuts.get(change, {})), cache)
    assert extractor.calls == 1
    assert len(files(tmp_path / "cache")) == (4 if change == "an option" else 3)


def test_what_does_not_matter_hits(tmp_path: Path, row: ClipRow) -> None:
    """Another name of the same bytes, another key, label or text."""
    cache, extractor = FeatureCache(tmp_path / "cache"), Counted()
    features_of(extractor, row, cache)
    assert row.audio is not None
    moved = row.audio.rename(tmp_path / "moved.wav")
    features_of(extractor, ClipRow("b", audio=moved, text="other words", label="x"), cache)
    assert extractor.calls == 1


def test_an_absent_stream_is_known_too(tmp_path: Path) -> None:
    silent = ClipRow("a", write_clip(tmp_path / "a.mp4", sound=False))
    extractor, cache = Counted(), FeatureCache(tmp_path / "cache")
    assert features_of(extractor, silent, cache) is None
    assert features_of(extractor, silent, cache) is None
    assert extractor.calls == 1
    assert features_of(extractor, ClipRow("b", text="words"), cache) is None
    assert extractor.calls == 1


def test_a_folder_tells_of_its_extractor(tmp_path: Path, row: ClipRow) -> None:
    extractor = extractor_for("audio", "prosody")
    features_of(extractor, row, FeatureCache(tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    assert json.loads((folder / "extractor.json").read_text()) == extractor.settings()
    (path,) = folder.glob("*.safetensors")
    assert load_file(path)["features"].dtype == np.float16


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "another tensor", "float64", "no times", "one dimension"])
def test_damaged_files_are_made_again(
    tmp_path: Path, row: ClipRow, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    first = features_of(Counted(), row, cache)
    assert first is not None
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    half, times = first[0].astype(np.float16), first[1]
    tensors = {
        "another tensor": {"feature": half, "times": times},
        "float64": {"features": half.astype(np.float64), "times": times},
        "no times": {"features": half, "times": times[:3]},
        "one dimension": {"features": half[0], "times": times},
    }
    if damage in tensors:
        save_file(tensors[damage], path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:-40], "empty": b"", "text": b"not tensors at all"}[damage])
    with caplog.at_level(logging.WARNING):
        extractor = Counted()
        again = features_of(extractor, row, cache)
    assert extractor.calls == 1
    assert "in the feature cache is damaged" in caplog.text
    assert again is not None
    assert (again[0] == first[0]).all()
    assert read_features(path) is not None, "the good one took its place"


def test_a_failed_write_leaves_nothing_and_stops_nothing(
    tmp_path: Path, row: ClipRow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moiety.records.saving.os.fsync", full)
    cache = FeatureCache(tmp_path / "cache")
    for _ in range(2):
        assert features_of(Counted(), row, cache) is not None
    assert files(tmp_path / "cache") == []
    assert caplog.text.count("features are not kept in") == 1
    assert "No space left" in caplog.text


def test_frames_that_are_not_finite_are_refused_and_not_kept(tmp_path: Path, row: ClipRow) -> None:
    def spoiled(features: np.ndarray) -> np.ndarray:
        features[2:4, 1] = np.nan
        return features

    with pytest.raises(MediaError, match="the extractor made 2 of 11 frames of a that are not finite"):
        features_of(Counted(spoiled), row, FeatureCache(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    huge = features_of(Counted(lambda features: features + np.float32(1e6)), row)
    assert huge is not None
    assert huge[0].max() == 65504, "the largest that float16 holds"


def test_a_disk_that_fails_is_named(tmp_path: Path, row: ClipRow, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("moiety.intent.clips.feature_cache.hashlib.file_digest", broken)
    with pytest.raises(MediaError, match=r"a.wav: it cannot be read \(\[Errno 5\] Input/output error\)"):
        features_of(Counted(), row, FeatureCache(tmp_path / "cache"))
    monkeypatch.undo()
    with pytest.raises(MediaError, match=r"none.wav: there is no such file in"):
        features_of(Counted(), replace(row, audio=tmp_path / "none.wav"), FeatureCache(tmp_path / "cache"))


def test_a_file_in_place_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(NotADirectoryError, match=r"the feature cache .*cache is a file; give a folder"):
        FeatureCache(tmp_path / "cache")
