"""Extractors that need no model: frames of rows, and when each frame was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moiety.intent.clips.registry import extractor_for
from moiety.intent.clips.signal_audio import PROSODY_NAMES
from moiety.intent.data.rows import ClipRow
from tests.intent.clips.clip_files import tone, write_clip, write_wav

BANDS = 24
ENERGY, PITCH, VOICING, CENTROID = (BANDS + PROSODY_NAMES.index(name) for name in PROSODY_NAMES)
WIDTH = 2 * (BANDS + len(PROSODY_NAMES))


def test_built_in_extractors_say_when(clip: Path, tmp_path: Path) -> None:
    row = ClipRow("a", clip)
    audio, video = extractor_for("audio", "prosody"), extractor_for("video", "motion")
    heard, seen = audio.extract(row), video.extract(row)
    assert heard is not None
    assert seen is not None
    assert heard[0].shape == (len(heard[1]), WIDTH)
    assert seen[0].shape == (len(seen[1]), 391)
    later = extractor_for("audio", "prosody").extract(replace(row, start_s=0.3))
    assert later is not None
    assert later[1][0] == pytest.approx(0.325), "seconds count from the start of the file"
    wav = write_wav(tmp_path / "other.wav", tone(0.2, hertz=400))
    other = audio.extract(replace(row, audio=wav))
    assert other is not None
    np.testing.assert_allclose(2 ** other[0][:, PITCH], 4, rtol=0.01)  # the wav stands in for the clip's own sound
    short = extractor_for("audio", {"extractor": "prosody", "max_frames": 3}).extract(row)
    assert short is not None
    np.testing.assert_array_equal(short[0], heard[0][:3])


def test_rows_without_a_stream_have_no_frames(tmp_path: Path) -> None:
    silent = ClipRow("a", write_clip(tmp_path / "s.mp4", sound=False))
    blind = ClipRow("b", write_clip(tmp_path / "b.mp4", pictures=False))
    assert extractor_for("audio", "prosody").extract(silent) is None
    assert extractor_for("video", "motion").extract(blind) is None
    for modality, name in (("audio", "prosody"), ("video", "motion")):
        assert extractor_for(modality, name).extract(ClipRow("c", text="words")) is None
