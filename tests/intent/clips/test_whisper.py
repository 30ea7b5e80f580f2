"""Whisper hears: out of a CTranslate2 file with the same numbers, and as an extractor of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from moiety.intent.clips.registry import extractor_for
from moiety.intent.clips.whisper_weights import whisper_from_ctranslate2
from moiety.intent.data.rows import ClipRow
from tests.intent.clips.clip_files import tone, write_wav
from tests.intent.clips.whisper_files import tiny_whisper, variables_of, write_ctranslate2


@pytest.fixture(scope="module")
def whisper() -> Any:
    return tiny_whisper()


@pytest.fixture(scope="module")
def folder(whisper: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("whisper")
    whisper.save_pretrained(path)
    transformers.WhisperFeatureExtractor(feature_size=80).save_pretrained(path)
    return str(path)


def test_the_converted_model_says_the_same(whisper: Any, tmp_path: Path) -> None:
    found = whisper_from_ctranslate2(write_ctranslate2(tmp_path / "model.bin", variables_of(whisper)))
    mel, words = torch.randn(1, 80, 3000), torch.tensor([[3, 7, 5]])
    with torch.no_grad():
        given, made = (
            model(mel, decoder_input_ids=words, output_hidden_states=True).last_hidden_state
            for model in (whisper, found)
        )
    assert torch.equal(given, made), "encoder and decoder both take part"


def test_half_precision_is_read(whisper: Any, tmp_path: Path) -> None:
    half = {name: value.astype(np.float16) if value.ndim else value for name, value in variables_of(whisper).items()}
    found = whisper_from_ctranslate2(write_ctranslate2(tmp_path / "model.bin", half))
    for name, value in whisper.state_dict().items():
        assert torch.equal(found.state_dict()[name], value.half().float()), name


def test_other_files_are_refused(whisper: Any, tmp_path: Path) -> None:
    path, held = tmp_path / "model.bin", variables_of(whisper)
    linear = "encoder/layer_0/ffn/linear_0/weight"
    cases = [
        ({"version": 9}, held, "has version 9 of the CTranslate2 format; versions 5 and 6 are read"),
        ({"kind": "TransformerSpec"}, held, "holds a TransformerSpec, expected a WhisperSpec"),
        ({}, {**held, linear: held[linear].astype(np.int8)}, f"is quantised \\({linear} is int8\\)"),
        ({"type_id": 7}, held, "has numbers of kind 7, known are 0 to 4"),
        ({}, {**held, "decoder/layer_2/ffn/linear_0/bias": np.zeros(24, np.float32)}, "lacks decoder/layer_2"),
    ]
    for options, variables, message in cases:
        write_ctranslate2(path, variables, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            whisper_from_ctranslate2(path)
    path.write_bytes(write_ctranslate2(path, held).read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"is no whole CTranslate2 file .*fetch it again"):
        whisper_from_ctranslate2(path)


def test_frames_are_those_of_the_sound(folder: str, whisper: Any, tmp_path: Path) -> None:
    row = ClipRow("a", write_wav(tmp_path / "a.wav", tone(0.63)))
    extractor = extractor_for("audio", folder)
    found = extractor.extract(row)
    assert found is not None
    frames, times = found
    assert frames.shape == (32, 16), "50 frames a second; the silence behind the sound is dropped"
    np.testing.assert_allclose(times, (np.arange(32) + 0.5) * 0.02, atol=1e-6)
    short = extractor_for("audio", {"extractor": folder, "max_frames": 5}).extract(row)
    assert short is not None
    assert len(short[0]) == 5
    first = extractor_for("audio", {"extractor": folder, "layer": 1})
    other = first.extract(row)
    assert other is not None
    assert first.fingerprint != extractor.fingerprint
    assert abs(other[0] - frames).max() > 1e-3
    again = extractor_for("audio", extractor.settings())
    assert again.fingerprint == extractor.fingerprint


def test_what_whisper_cannot_do_is_refused(folder: str) -> None:
    for options, message in (
        ({"layer": 9}, "layer 9 does not exist, the model has 2"),
        ({"max_frames": 1501}, "max_frames is 1501, and Whisper hears at most 1500 frames"),
    ):
        with pytest.raises(ValueError, match=message):
            extractor_for("audio", {"extractor": folder, **options})
