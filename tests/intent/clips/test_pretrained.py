"""Frozen Hugging Face models as extractors: what they make, and how one is told from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from moiety.intent.clips.registry import extractor_for
from moiety.intent.data.encoders import frozen_model
from moiety.intent.data.rows import ClipRow
from tests.intent.clips.clip_files import FPS, RATE, picture, tone, write_wav

TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "image_size": 32, "patch_size": 16}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny random models, as save_pretrained writes them."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    hearing = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
               "conv_dim": (8,) * 3, "conv_stride": (8, 8, 5), "conv_kernel": (10, 8, 5), "num_feat_extract_layers": 3,
               "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}  # fmt: skip
    for name in ("WavLM", "Wav2Vec2", "Hubert"):
        config = getattr(transformers, f"{name}Config")(**hearing)
        getattr(transformers, f"{name}Model")(config).save_pretrained(folder / name)
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder / name)
    transformers.ViTModel(transformers.ViTConfig(**TOWER)).save_pretrained(folder / "ViT")
    transformers.ViTModel(transformers.ViTConfig(**TOWER), add_pooling_layer=False).save_pretrained(folder / "bare")
    swin = transformers.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2],
                                   window_size=4)  # fmt: skip
    transformers.SwinModel(swin).save_pretrained(folder / "Swin")
    words = {**TOWER, "vocab_size": 60, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    both = transformers.CLIPConfig(vision_config=TOWER, text_config=words)
    transformers.CLIPModel(both).save_pretrained(folder / "CLIP")
    transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TOWER)).save_pretrained(folder / "SigLIP")
    for name in ("ViT", "bare", "Swin", "CLIP", "SigLIP"):
        transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / name)
    config = transformers.BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=32, max_position_embeddings=20)  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder / "BERT")
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmno", *(f"##{x}" for x in "abcdefghijklmno")]
    (folder / "vocab.txt").write_text("\n".join(letters))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "BERT")
    return folder


@pytest.mark.parametrize("name", ["WavLM", "Wav2Vec2", "Hubert"])
def test_models_that_hear(models: Path, clip: Path, name: str) -> None:
    extractor = extractor_for("audio", str(models / name))
    found = extractor.extract(ClipRow("a", clip))
    assert found is not None
    features, times = found
    assert features.shape == (len(times), 16)
    np.testing.assert_allclose(np.diff(times), 0.02, atol=1e-6)
    assert 0 < times[0] < 0.02
    assert 0.55 < times[-1] < 0.66
    short = extractor_for("audio", {"extractor": str(models / name), "max_frames": 5}).extract(ClipRow("a", clip))
    assert short is not None
    assert len(short[0]) == 5
    # another layer is another extractor with other numbers
    first = extractor_for("audio", {"extractor": str(models / name), "layer": 1})
    other = first.extract(ClipRow("a", clip))
    assert other is not None
    assert first.fingerprint != extractor.fingerprint
    assert abs(other[0] - features).max() > 1e-3


def test_a_moment_of_sound_is_enough(models: Path, tmp_path: Path) -> None:
    row = ClipRow("a", write_wav(tmp_path / "a.wav", tone(0.001)))
    found = extractor_for("audio", str(models / "WavLM")).extract(row)
    assert found is not None
    assert len(found[0]) >= 1


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.09, 0.1, 0.2])
def test_silence_behind_a_short_sound_takes_no_part_in_its_scale(models: Path, tmp_path: Path, seconds: float) -> None:
    """Mean 0 and deviation 1 are those of the sound; padded first, 0.02 s would come out more than twice as loud."""
    row = ClipRow("a", write_wav(tmp_path / "a.wav", 0.1 + tone(seconds), kind="FLOAT"))
    found = extractor_for("audio", str(models / "Wav2Vec2")).extract(row)
    wave = (0.1 + tone(seconds)).astype(np.float64)
    scaled = np.zeros(max(len(wave), RATE // 10), np.float32)
    scaled[: len(wave)] = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    model = transformers.Wav2Vec2Model.from_pretrained(models / "Wav2Vec2").eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(scaled)[None]).last_hidden_state[0].numpy()
    assert found is not None
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["ViT", "bare", "Swin", "CLIP", "SigLIP"])
def test_models_that_see(models: Path, clip: Path, name: str) -> None:
    extractor = extractor_for("video", {"extractor": str(models / name), "fps": FPS})
    found = extractor.extract(ClipRow("a", clip))
    assert found is not None
    features, times = found
    assert features.shape == (15, 16)
    np.testing.assert_allclose(times, np.arange(15) / FPS, atol=1e-6)
    assert extractor.settings()["pooling"] == ("mean" if name == "bare" else "pooled")
    # one frame speaks of one picture: batches do not mix them
    extractor.batch_size = 4  # type: ignore[attr-defined]
    apart = extractor.extract(ClipRow("a", clip))
    assert apart is not None
    np.testing.assert_allclose(apart[0], features, atol=1e-5)  # 4e-7 seen
    assert abs(features[0] - features[-1]).max() > 1e-3


def test_a_pooled_frame_is_what_the_model_says_of_the_picture(models: Path, clip: Path) -> None:
    found = extractor_for("video", {"extractor": str(models / "CLIP"), "fps": 1.0}).extract(ClipRow("a", clip))
    model = transformers.CLIPVisionModel.from_pretrained(models / "CLIP").eval()
    processor = transformers.ViTImageProcessorPil.from_pretrained(models / "CLIP")
    with torch.no_grad():
        expected = model(**processor(images=[picture(0)], return_tensors="pt")).pooler_output.numpy()
    assert found is not None
    np.testing.assert_allclose(found[0], expected, atol=0.1)  # 0.02 seen: the clip went through a lossy codec
    for pooling in ("mean", "cls"):
        other = extractor_for("video", {"extractor": str(models / "CLIP"), "fps": 1.0, "pooling": pooling})
        assert abs(other.extract(ClipRow("a", clip))[0] - found[0]).max() > 0.1  # type: ignore[index]


def test_models_that_read(models: Path) -> None:
    extractor = extractor_for("text", {"extractor": str(models / "BERT"), "max_pieces": 6})
    found = extractor.extract(ClipRow("a", text="a big life"))
    assert found is not None
    assert found[0].shape == (6, 16)
    assert not len(found[1])
    assert extractor.extract(ClipRow("b", clip=Path("b.mp4"))) is None


@pytest.mark.parametrize(("modality", "name"), [("audio", "WavLM"), ("video", "bare"), ("text", "BERT")])
def test_a_model_is_known_by_its_weights(models: Path, modality: str, name: str) -> None:
    """Loaded again it is the same, also where unused weights are drawn at random; with one other number it is not."""
    settings = extractor_for(modality, str(models / name)).settings()
    frozen_model.cache_clear()
    torch.manual_seed(5)
    again = extractor_for(modality, json.loads(json.dumps(settings)))
    assert again.settings() == settings
    with pytest.raises(ValueError, match=r"is not the one .* used before: weights_sha256 differ \(before: 0; now:"):
        extractor_for(modality, {**settings, "weights_sha256": "0"})


def test_weights_that_would_be_random_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks 2 weights \(pooler.dense.bias, pooler.dense.weight\), which would be"):
        extractor_for("video", {"extractor": str(models / "bare"), "pooling": "pooled"})
    from safetensors.torch import load_file, save_file

    for name, modality in (("WavLM", "audio"), ("ViT", "video"), ("BERT", "text")):
        folder = tmp_path / name
        folder.mkdir()
        for path in (models / name).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        weights = load_file(folder / "model.safetensors")
        lost = next(key for key in weights if "layer" in key and key.endswith("weight"))
        save_file({key: weights[key] for key in weights if key != lost}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="lacks 1 weights"):
            extractor_for(modality, str(folder))


def test_models_of_another_kind(models: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, Any, str]] = [
        (
            "audio",
            str(models / "ViT"),
            "takes pixel_values, not sound; give a model such as wav2vec2, HuBERT, WavLM or",
        ),
        ("video", str(models / "WavLM"), "takes input_values, not pictures; give a model such as CLIP, SigLIP"),
        ("text", str(models / "ViT"), "no text encoder in the folder"),
        ("audio", {"extractor": str(models / "WavLM"), "layer": 9}, "layer 9 does not exist, the model has 2"),
        ("video", {"extractor": str(models / "ViT"), "layer": 9}, "has no option 'layer'; known: fps"),
        ("audio", str(tmp_path), "no model in the folder"),
    ]
    for modality, spec, message in cases:
        with pytest.raises(ValueError, match=message):
            extractor_for(modality, spec)
    bare = tmp_path / "bare"
    transformers.ViTModel(transformers.ViTConfig(**TOWER)).save_pretrained(bare)
    with pytest.raises(ValueError, match=r"has no ImageProcessor .*its preprocessor_config.json must lie beside"):
        extractor_for("video", str(bare))
