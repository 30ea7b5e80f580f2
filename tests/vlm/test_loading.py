"""Reading folders: dense ones, sparse ones, damaged ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as hf

from moiety.moe.routers import ROUTERS
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import load, settings_of, sparse_class
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES, sparse, spread_experts

LLAVA = FAMILIES["llava-qwen2"]


def test_a_dense_folder_loads_with_our_class_and_computes_the_same(tmp_path: Path) -> None:
    dense = LLAVA.build()
    dense.save_pretrained(tmp_path / "stock")
    ours = load(tmp_path / "stock")
    batch = LLAVA.batch("tIt", "t")
    assert settings_of(ours) is None
    torch.testing.assert_close(ours(**batch).logits, dense(**batch).logits, rtol=0, atol=0)
    torch.testing.assert_close(
        ours(**batch, modality_ids=torch.zeros_like(batch["input_ids"])).logits, dense(**batch).logits, rtol=0, atol=0
    )
    ours.save_pretrained(tmp_path / "ours")
    again = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    assert type(again) is type(ours)
    assert again.config.moe["scheme"] == "dense"
    torch.testing.assert_close(again(**batch).logits, dense(**batch).logits, rtol=0, atol=0)


def damaged(folder: Path, how: str) -> Path:
    """A saved sparse model in which something is wrong."""
    from safetensors.torch import load_file, save_file

    sparse("llava-qwen2").save_pretrained(folder)
    weights = folder / "model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "pickled":
        torch.save({}, folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "shard":
        weights.unlink()
        sparse("llava-qwen2").save_pretrained(folder, max_shard_size="40KB")
        sorted(folder.glob("*.safetensors"))[1].unlink()
    elif how == "config":
        (folder / "config.json").write_text("{")
    elif how in ("missing", "unexpected", "mismatched"):
        tensors = load_file(weights)
        name = "model.language_model.layers.1.mlp.experts.down_proj"
        if how == "missing":
            del tensors[name]
        elif how == "unexpected":
            tensors["model.language_model.layers.1.mlp.experts.extra"] = torch.zeros(2)
        else:
            tensors[name] = tensors[name][:2].clone()
        save_file(tensors, weights, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("truncated", "cannot be read .*the folder is damaged, copy or make it again"),
        ("missing", r"does not hold exactly this model: 1 missing \(.*layers.1.mlp.experts.down_proj"),
        ("unexpected", r"1 unexpected \(model.language_model.layers.1.mlp.experts.extra\) tensors"),
        ("mismatched", r"1 mismatched \(.*experts.down_proj"),
        ("pickled", r"holds pickled weights \(pytorch_model.bin\). Unpickling can run any code"),
        ("shard", r"cannot be read .*the folder is damaged, copy or make it again"),
        ("config", "the config of .* cannot be read|no model at"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, how: str, text: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        load(damaged(tmp_path / "model", how))


def test_missing_experts_are_refused_by_the_auto_class_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="experts are never filled in at random"):
        hf.AutoModelForImageTextToText.from_pretrained(damaged(tmp_path / "model", "missing"))


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model folder at"):
        load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"has no config.json: it is no Hugging Face model folder"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(FileNotFoundError, match=r"holds no \*.safetensors weights"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is of type 'bert', which is no image-text-to-text model"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no model at nobody/nothing: neither a folder nor"):
        load("nobody/nothing")


def test_a_config_of_an_unregistered_family_is_named() -> None:
    with pytest.raises(ValueError, match=r"LlamaConfig is a config without a model: transformers .* 'llama'"):
        sparse_class(hf.LlamaConfig())


@pytest.mark.parametrize("scheme", list(ROUTERS))
def test_every_scheme_survives_a_round_trip(tmp_path: Path, scheme: str) -> None:
    settings = MoESettings(scheme=scheme, layers="all", expert_ffn=96 if scheme in ("dense_wide", "modality") else None)
    built = spread_experts(upcycle(LLAVA.build(), settings))
    built.save_pretrained(tmp_path)
    batch = LLAVA.batch("tIt", "t")
    again = load(tmp_path)
    assert settings_of(again) == settings_of(built)
    torch.testing.assert_close(again(**batch).logits, built(**batch).logits, rtol=0, atol=0)


def test_a_family_outside_the_suite_loads_in_a_fresh_process(tmp_path: Path) -> None:
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**text, "image_size": 8, "patch_size": 4, "model_type": "clip_vision_model"}
    torch.manual_seed(0)
    config = hf.VipLlavaConfig(
        text_config={**text, "vocab_size": 64, "model_type": "llama"},
        vision_config=vision,
        image_token_index=60,
        vision_feature_layers=[-2, -1],
    )
    built = upcycle(hf.VipLlavaForConditionalGeneration(config), MoESettings())
    built.save_pretrained(tmp_path)
    hf.models.auto.configuration_auto.CONFIG_MAPPING._extra_content.pop("moiety_vipllava")
    batch = LLAVA.batch("tIt")
    torch.testing.assert_close(load(tmp_path)(**batch).logits, built(**batch).logits, rtol=0, atol=0)


def test_the_route_of_a_dense_model_stays_when_it_becomes_sparse(tmp_path: Path) -> None:
    LLAVA.build().save_pretrained(tmp_path)
    model = upcycle(load(tmp_path, experts_implementation="eager"), MoESettings())
    assert model.experts_backend.name == "eager"
    with pytest.raises(ValueError, match=r"no experts_implementation 'fast'; known: batched_mm, eager"):
        load(tmp_path, experts_implementation="fast")
