"""An extractor by its name or settings: the same one again, or a refusal that says why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moiety.intent.clips.registry import extractor_for


@pytest.mark.parametrize(("modality", "name"), [("audio", "prosody"), ("video", "motion")])
def test_settings_make_the_same_extractor_again(modality: str, name: str) -> None:
    first = extractor_for(modality, {"extractor": name, "max_frames": 77})
    again = extractor_for(modality, json.loads(json.dumps(first.settings())))
    assert again.fingerprint == first.fingerprint
    assert json.loads(first.fingerprint) == first.settings()
    assert extractor_for(modality, name).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("modality", "spec", "message"),
    [
        ("smell", "prosody", "unknown modality 'smell'; known: audio, text, video"),
        ("video", "prosody", "extractor 'prosody' is for audio, not for video; give motion, a Hugging Face id or"),
        ("text", "motion", "extractor 'motion' is for video, not for text; give a Hugging Face id or folder"),
        ("text", "hashing", "hashing extracts nothing from a clip: words stay words"),
        ("audio", {"rate": 8000}, "the extractor of audio is None, expected a name, a folder or a Hugging Face id"),
        ("audio", {"extractor": "prosody", "hop": 1}, "extractor 'prosody' has no option 'hop'; known: hop_s"),
        ("audio", {"extractor": "prosody", "hop_s": 0, "rate": 1}, "rate: Input should be .*; hop_s: Input should be"),
        ("audio", {"extractor": "prosody", "rate": "16 kHz"}, "extractor 'prosody': rate: Input should be a valid int"),
        ("audio", {"extractor": "prosody", "version": 0}, "has version 0, this moiety makes version 1; fit again"),
        ("video", {"extractor": "motion", "fps": float("nan")}, "extractor 'motion': fps: Input should be"),
        ("audio", "nobody/nothing", "no model in the Hugging Face id 'nobody/nothing'"),
    ],
)  # fmt: skip
def test_what_is_no_extractor(modality: str, spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extractor_for(modality, spec)
