"""The law suite that every family passes: what holds for one model over a Hugging Face class holds for all."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText

from moiety.groups import Modality
from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import groups_of, load, moe_layers
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES, IMAGE, PAD, Family, asymmetric, sparse

ASYMOE = {f"{name}+asymoe": name for name in ("llava-llama", "gemma3", "qwen3_vl")}
"""Families that pass the suite with scheme asymoe as well; ``test_asymoe.py`` has the others."""
NAMES = [*sorted(FAMILIES), *ASYMOE]
ROWS = [("tIt", "tt"), ("tt", "t"), ("I",), ("tItIt", "I", "t", "tI")]
every_family = pytest.mark.parametrize("name", NAMES)


@functools.cache
def shared_model(name: str) -> Any:
    """One sparse model a family; tests that change it take a copy."""
    return sparse(ASYMOE[name], asymmetric()) if name in ASYMOE else sparse(name)


def family_of(name: str) -> Family:
    return FAMILIES[ASYMOE.get(name, name)]


def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


def checkpoint(model: Any, **options: Any) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(**options)


@every_family
def test_upcycled_equals_dense_at_step_zero(name: str) -> None:
    # I01; worst case measured: 4.8e-7 (paligemma)
    family = family_of(name)
    dense = family.build()
    copied = {"scheme": "asymoe", "asymoe": {"size_plan": "full"}} if name in ASYMOE else {}
    model = upcycle(dense, MoESettings(layers="all", **copied))
    assert model.config.provenance["upcycled"]["receipt"]["promised"]
    for rows in ROWS:
        batch = family.batch(*rows)
        real = batch["attention_mask"].bool()
        torch.testing.assert_close(logits_of(model, batch)[real], logits_of(dense, batch)[real], rtol=1e-5, atol=1e-5)
    assert type(dense).__name__ == family.model, "the dense model was left alone"


@every_family
def test_every_token_is_routed_inside_its_modality(name: str) -> None:
    family, model = family_of(name), shared_model(name)
    batch = family.batch("tItIt", "tt", "I", side="left")
    with recording() as trace:
        logits_of(model, batch)
    groups = groups_of(model)
    ids = batch["input_ids"].flatten()
    padding = batch["attention_mask"].flatten() == 0
    assert sorted(trace.by_layer()) == [0, 1]
    for _, routing in trace.entries:
        for group, own in (("vision", ids == IMAGE), ("text", (ids != IMAGE) & ~padding)):
            assert own.any()
            assert set(routing.index[own].flatten().tolist()) <= set(groups.visible(group))
            assert (routing.modality_group[own] == groups.names.index(group)).all()
        assert (routing.index[padding] == groups.num_experts).all()
        assert (routing.weights[padding] == 0).all()
        assert (routing.modality_group[padding] == int(Modality.PADDING)).all()


@every_family
def test_saved_and_loaded_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    # I11, trap 1: logits are compared, not parameters alone
    family, model = family_of(name), shared_model(name)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    batch = family.batch("tIt", "tt", "tII")
    # products of unaligned memory, where loaded tensors may lie, round differently; asymoe measured: 3.6e-7
    atol = 1e-5 if name in ASYMOE else 0
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(model, batch), rtol=0, atol=atol)
    tied = set(model.all_tied_weights_keys)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(model.state_dict()) - tied, "names on disk are names in memory"
    assert loaded.config.moe == model.config.moe
    half = load(tmp_path, dtype=torch.bfloat16)
    precise = {key for key, parameter in half.named_parameters() if parameter.dtype != torch.bfloat16}
    kept = (".router.score.", "_alpha", "_log_scale", ".log_scale")
    assert all(any(part in key for part in kept) for key in precise), "float32 is kept for gates and scales alone"
    assert bool(precise) == (name in ASYMOE)
    pixels = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    assert torch.isfinite(logits_of(half, pixels)).all()
    half.save_pretrained(tmp_path / "half")
    assert load(tmp_path / "half").dtype == torch.bfloat16, "D22: read in the type it was trained in"


MODES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.9, "top_k": 20},
    "beam": {"do_sample": False, "num_beams": 2},
}


@every_family
@pytest.mark.parametrize("mode", MODES)
def test_generation_does_not_depend_on_cache_or_on_who_gives_the_ids(name: str, mode: str) -> None:
    # I05, D02, D10: left-padded rows with different numbers of pictures
    family, model = family_of(name), shared_model(name)
    batch = family.batch("tItI", "tt", "tI", side="left")
    ids = (batch["input_ids"] == IMAGE).long()
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "pad_token_id": PAD, **MODES[mode]}
    texts = []
    for extra in ({}, {"use_cache": False}, {"modality_ids": ids}, {"modality_ids": ids, "use_cache": False}):
        torch.manual_seed(7)
        texts.append(model.generate(**batch, **options, **extra))
    assert texts[0].shape[1] == batch["input_ids"].shape[1] + 3
    for text in texts[1:]:
        assert torch.equal(text, texts[0])
    if mode == "greedy":
        single = model.generate(**family.batch("tItI"), **options)
        assert torch.equal(single[0, -3:], texts[0][0, -3:]), "a batch gives what a single row gives"


@every_family
def test_padding_changes_nothing(name: str) -> None:
    # I06, I07
    family, model = family_of(name), shared_model(name)
    single = logits_of(model, family.batch("tIt"))[0]
    for side in ("left", "right"):
        batch = family.batch("tIt", "tItIttt", side=side)
        real = batch["attention_mask"][0].bool()
        padded = logits_of(model, batch)[0, real]
        torch.testing.assert_close(padded, single, rtol=1e-5, atol=1e-5)
        batch["input_ids"][0, ~real] = 17
        torch.testing.assert_close(logits_of(model, batch)[0, real], padded, rtol=0, atol=0)
        batch["modality_ids"] = (batch["input_ids"] == IMAGE).long().masked_fill(batch["attention_mask"] == 0, 1)
        torch.testing.assert_close(logits_of(model, batch)[0, real], padded, rtol=0, atol=0)


@every_family
def test_checkpointing_with_two_forwards_in_flight(name: str) -> None:
    # I13, trap 5; the trace of a step must not be disturbed by a second forward before the backward
    family = family_of(name)
    batches = [family.batch("tIt", "tt", labels=True), family.batch("ttI", "tII", labels=True, seed=1)]
    grads = []
    for on in (False, True):
        model = copy.deepcopy(shared_model(name)).train()
        if on:
            checkpoint(model)
        sum(model(**batch).loss for batch in batches).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for parameter in grads[0]:
        assert grads[0][parameter] is not None, f"{parameter} learns but got no gradient"
        torch.testing.assert_close(grads[1][parameter], grads[0][parameter], rtol=0, atol=0, msg=parameter)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert bool(frozen) == name.startswith("llava"), "only LLaVA reads its tower before the end"


@every_family
def test_ids_never_reach_attention(name: str) -> None:
    # trap 12, in dense and in sparse layers
    family = family_of(name)
    settings = asymmetric() if name in ASYMOE else MoESettings()
    model = sparse(ASYMOE.get(name, name), settings.model_copy(update={"layers": "odd"}))
    seen: list[set[str]] = []
    attentions = [module for key, module in model.named_modules() if key.endswith(".self_attn") and "layers" in key]
    for attention in attentions:
        attention.register_forward_pre_hook(lambda _, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    logits_of(model, family.batch("tIt"))
    assert len(seen) >= 2
    assert not any({"modality_ids", "evidence_mask"} & kwargs for kwargs in seen)
    assert [layer.layer_index for layer in moe_layers(model)] == [1]
