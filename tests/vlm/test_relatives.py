"""Families that are registered on the way: what a person does with one of them, on tiny random models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import config_of, load
from moiety.vlm.parameters import count_parameters
from moiety.vlm.parts import freeze, part_of
from moiety.vlm.towers import touch_tower, unread_parameters
from moiety.vlm.upcycle import upcycle, upcycle_folder
from tests.tiny import RELATIVES, asymmetric, spread_experts, two_ranks

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


@every_relative
@pytest.mark.parametrize("scheme", ["dense", "moiie", "asymoe"])
def test_a_step_of_training_without_pictures_reaches_every_parameter(name: str, scheme: str) -> None:
    """As on a rank whose rows have no picture; the other ranks wait for all gradients, of the tower too."""
    settings = asymmetric() if scheme == "asymoe" else MoESettings(scheme=scheme, layers="all")
    model = spread_experts(upcycle(RELATIVES[name].build(), settings, in_place=True)).train()
    batch = RELATIVES[name].batch("tt", "t", labels=True)
    with two_ranks():
        loss = model(**batch).loss
    loss.backward()
    learns = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
    assert [key for key, weight in learns.items() if weight.grad is None] == []
    tower = {key for key in learns if part_of(key) in ("vision_tower", "projector")}
    assert tower
    assert not [key for key in tower if learns[key].grad.any()]
    torch.testing.assert_close(model(**batch).loss, loss, rtol=0, atol=0)


@every_relative
def test_a_batch_of_texts_is_a_step_where_the_projector_learns_alone(name: str) -> None:
    model = upcycle(RELATIVES[name].build(), MoESettings(scheme="dense"), in_place=True).train()
    assert freeze(model, ["projector"])["projector"] > 0
    model(**RELATIVES[name].batch("tt", labels=True)).loss.backward()
    grads = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert all(grad is not None and not grad.any() for grad in grads)


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
