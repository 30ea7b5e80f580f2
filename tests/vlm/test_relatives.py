"""Families that are registered on the way: what a person does with one of them, on tiny random models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import config_of, load
from moiety.vlm.parameters import count_parameters
from moiety.vlm.towers import touch_tower, unread_parameters
from moiety.vlm.upcycle import upcycle_folder
from tests.tiny import RELATIVES, spread_experts

every_relative = pytest.mark.parametrize("name", sorted(RELATIVES))


@every_relative
def test_a_folder_is_counted_upcycled_and_read_again(name: str, tmp_path: Path) -> None:
    family, moe = RELATIVES[name], MoESettings(layers="all")
    family.build().save_pretrained(tmp_path / "dense")
    expected = count_parameters(tmp_path / "dense", moe)  # before anything has registered the family
    assert upcycle_folder(tmp_path / "dense", tmp_path / "sparse", moe).relative_difference < 1e-6
    assert count_parameters(tmp_path / "sparse") == expected
    assert config_of(tmp_path / "sparse").model_type == f"moiety_{name}"
    model, batch = spread_experts(load(tmp_path / "sparse")), family.batch("tIt", "tt", side="left")
    model.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "again")(**batch).logits, model(**batch).logits)


@every_relative
def test_ranks_without_pictures_reach_what_the_others_train(name: str) -> None:
    model = RELATIVES[name].build()
    seen = unread_parameters(model.base_model)
    model(**RELATIVES[name].batch("tIt", labels=True)).loss.backward()
    learns = {key for key, weight in model.named_parameters() if weight.grad is not None and "language" not in key}
    unread = {key for key, weight in model.named_parameters() if weight in seen}
    assert not learns & unread
    model.zero_grad(set_to_none=True)
    touch = touch_tower(model.base_model)
    assert touch.item() == 0.0
    touch.backward()
    touched = {key for key, weight in model.named_parameters() if weight.grad is not None}
    assert touched == learns - {"lm_head.weight"}


ORIGINAL = [
    {"model_type": "llava_llama"},
    {"model_type": "llava_qwen"},
    {"model_type": "llava", "mm_vision_tower": "x"},
]


@pytest.mark.parametrize("tree", ORIGINAL, ids=str)
def test_the_original_layout_is_told_where_the_converted_folder_is(tree: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tree))
    (tmp_path / "pytorch_model.bin").touch()
    for reads in (load, count_parameters, config_of):
        with pytest.raises(ValueError, match=r"original LLaVA layout .*; take the converted folder.*llava-hf/"):
            reads(tmp_path)
