"""Extractors: what prosody and motion measure, frozen models, and how one is told from another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from moiety.intent.clips.extractors import extractor_for
from moiety.intent.clips.signal_audio import PROSODY_NAMES, prosody
from moiety.intent.clips.signal_video import MOTION_NAMES, motion, thumbnail
from moiety.intent.data.features import frozen_model
from moiety.intent.data.rows import ClipRow
from tests.intent.clips.clip_files import FPS, RATE, picture, tone, write_clip, write_wav

BANDS = 24
ENERGY, PITCH, VOICING, CENTROID = (BANDS + PROSODY_NAMES.index(name) for name in PROSODY_NAMES)
WIDTH = 2 * (BANDS + len(PROSODY_NAMES))


def saw(hertz: float, seconds: float = 0.5) -> np.ndarray:
    return ((np.arange(round(seconds * RATE)) * hertz / RATE) % 1 - 0.5).astype(np.float32)


# -- prosody -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hertz", [65, 80, 100, 123.4, 200, 333, 400])
@pytest.mark.parametrize("wave", [tone, saw], ids=["tone", "saw"])
def test_pitch_is_found_without_octave_errors(wave: Any, hertz: float) -> None:
    features, _ = prosody(wave(0.5, hertz=hertz) if wave is tone else saw(hertz), RATE)
    found = 100 * 2 ** features[:, PITCH]
    np.testing.assert_allclose(found, hertz, rtol=0.012)  # 0.0084 seen, a pure tone of 80 Hz
    assert (features[:, VOICING] > 0.9).all()
    np.testing.assert_allclose(features[1:, WIDTH // 2 + PITCH], 0, atol=0.03)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    for wave in (noise, np.zeros(RATE, np.float32), np.full(RATE, 0.3, np.float32)):
        features, _ = prosody(wave, RATE)
        assert np.isfinite(features).all()
        assert (features[:, PITCH] == 0).all()
        assert (features[:, VOICING] < 0.5).all()  # 0.15 seen in noise


def test_louder_changes_loudness_and_nothing_else() -> None:
    quiet, loud = (prosody(saw(150) * gain, RATE)[0] for gain in (0.1, 1.0))
    np.testing.assert_allclose(loud[:, : ENERGY + 1].mean(0) - quiet[:, : ENERGY + 1].mean(0),
                               [2 * np.log(10)] * BANDS + [np.log(10)], atol=0.02)  # fmt: skip
    np.testing.assert_allclose(loud[:, PITCH : WIDTH // 2], quiet[:, PITCH : WIDTH // 2], atol=1e-3)


def test_a_rising_voice_rises_and_a_falling_one_falls() -> None:
    hertz = np.linspace(120, 240, RATE)
    rising = np.sin(2 * np.pi * np.cumsum(hertz) / RATE).astype(np.float32)
    for wave, sign in ((rising, 1), (rising[::-1], -1)):
        features, times = prosody(wave, RATE)
        change = sign * features[1:, WIDTH // 2 + PITCH]
        assert (change > 0.01).all()
        assert sign * (features[-1, PITCH] - features[0, PITCH]) == pytest.approx(change.sum(), rel=1e-4)
        expected = np.interp(times, np.arange(RATE) / RATE, hertz[::sign])
        np.testing.assert_allclose(100 * 2 ** features[:, PITCH], expected, rtol=0.02)  # 0.006 seen


def test_the_centroid_lies_at_a_tone_and_the_band_around_it_is_loudest() -> None:
    for hertz in (500, 1000, 3000, 6000):
        features, _ = prosody(tone(0.3, hertz=hertz), RATE)
        np.testing.assert_allclose(features[:, CENTROID], hertz / 1000, rtol=0.01)
        mel = 2595 * np.log10(1 + np.array([hertz, 8000.0]) / 700)
        assert abs(features[0, :BANDS].argmax() + 1 - (BANDS + 1) * mel[0] / mel[1]) < 1


def test_windows_and_their_seconds() -> None:
    features, times = prosody(saw(150, 1.0), RATE)
    assert features.shape == (39, WIDTH)
    np.testing.assert_allclose(times, 0.025 + 0.025 * np.arange(39), atol=1e-6)
    later, _ = prosody(saw(150, 1.0)[400:], RATE)
    np.testing.assert_allclose(later[1:], features[2:], atol=1e-4)
    short, middle = prosody(np.ones(3, np.float32), RATE)
    assert short.shape == (1, WIDTH)
    assert middle == pytest.approx([0.025])
    narrow, _ = prosody(saw(150, 0.2), 2_000, num_bands=100)
    assert np.isfinite(narrow).all(), "bands narrower than the resolution hold a bin all the same"


# -- motion ------------------------------------------------------------------------------------------------------------
def blob(x: float, y: float, dark: bool = False) -> np.ndarray:
    """A soft spot at x, y, in shares of width and height."""
    down, across = np.mgrid[:48, :64]
    grey = 200 * np.exp(-((across / 64 - x) ** 2 + (down / 48 - y) ** 2) / 0.02)
    return np.repeat((255 - grey if dark else grey).astype(np.uint8)[..., None], 3, 2)


def columns_of(features: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(MOTION_NAMES, features[:, -len(MOTION_NAMES) :].T, strict=True))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("across", "down"), [(0.4, 0), (-0.4, 0), (0, 0.3), (0, -0.3), (0.3, 0.3)])
def test_velocity_is_that_of_what_moves(across: float, down: float, dark: bool) -> None:
    times = np.arange(8) / 10
    found = columns_of(motion([blob(0.5 + across * (t - 0.35), 0.5 + down * (t - 0.35), dark) for t in times], times))
    np.testing.assert_allclose(found["velocity_x"][1:], across, atol=0.25 * 0.4)  # 0.07 seen
    np.testing.assert_allclose(found["velocity_y"][1:], down, atol=0.25 * 0.4)
    assert found["velocity_x"][0] == found["activity"][0] == 0


def test_changes_are_a_second_and_not_a_picture() -> None:
    pictures = [blob(0.3 + 0.02 * number, 0.5) for number in range(6)]
    fast, slow = (motion(pictures, np.arange(6) / rate) for rate in (20, 10))
    np.testing.assert_allclose(fast[:, :192], slow[:, :192])
    np.testing.assert_allclose(fast[:, 192:385], 2 * slow[:, 192:385], rtol=1e-5)
    np.testing.assert_allclose(fast[:, -6:-2], slow[:, -6:-2], atol=1e-6)
    np.testing.assert_allclose(fast[:, -2:], 2 * slow[:, -2:], rtol=1e-5)


def test_where_something_moves() -> None:
    times = np.arange(5) / 10
    for x, y in ((0.2, 0.5), (0.8, 0.5), (0.5, 0.2), (0.5, 0.8)):
        found = columns_of(motion([blob(x + 0.01 * number, y) for number in range(5)], times))
        assert abs(found["centre_x"][1:] - (2 * x - 1)).max() < 0.15
        assert abs(found["centre_y"][1:] - (2 * y - 1)).max() < 0.15
    still = motion([blob(0.5, 0.5)] * 4, times[:4])
    assert not still[:, 192:].any()
    assert motion([blob(0.5, 0.5)], times[:1]).shape == (1, 2 * 192 + 7)


def test_a_thumbnail_keeps_the_mean_and_takes_any_size() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    grey = image @ [0.299, 0.587, 0.114] / 255
    assert thumbnail(image, 12, 16).mean() == pytest.approx(grey.mean())
    np.testing.assert_allclose(thumbnail(image, 48, 64), grey)
    np.testing.assert_allclose(thumbnail(image, 12, 16)[3, 5], grey[12:16, 20:24].mean())
    assert thumbnail(image[:1, :1], 12, 16).shape == (12, 16), "a picture smaller than the grid repeats its pixels"
    ragged = thumbnail(image[:47, :61], 12, 16)
    assert ragged.min() >= 0
    assert ragged.max() <= 1


# -- extractors of rows ------------------------------------------------------------------------------------------------
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


# -- frozen models -----------------------------------------------------------------------------------------------------
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
        ("audio", str(models / "ViT"), "takes pixel_values, not sound; give a model such as wav2vec2, HuBERT or WavLM"),
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
