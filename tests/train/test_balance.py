"""Selection biases in training: they move with the steps, rest in evaluation and in frozen routers, and are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy import encoded, row, scratch_folder, sparse_model, write_world

from moiety.recipe.recipe import TrainSettings
from moiety.train import MoietyTrainer, training_arguments
from moiety.vlm.contracts import cache_in
from moiety.vlm.model import load, moe_layers
from tests.tiny import CACHE

ROWS = [row("a", "red.png", "Which colour?", "red"), row("b", None, "Repeat the word blue.", "blue blue")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


def biases(model: Any) -> list[torch.Tensor]:
    return [layer.router.selection.bias.clone() for layer in moe_layers(model)]


def trainer_of(world: Path, model: Any, work: Path) -> MoietyTrainer:
    rows, collator = encoded(world, scratch_folder(world), ROWS)
    settings = TrainSettings(per_device_train_batch_size=1, gradient_accumulation_steps=2, max_steps=3, save_steps=100)
    args = training_arguments(settings, work, seed=0)
    return MoietyTrainer(model, args, train_dataset=rows, eval_dataset=rows, data_collator=collator)


def test_biases_move_once_a_step_and_rest_otherwise(world: Path, tmp_path: Path) -> None:
    model = sparse_model(world, balance="bias", bias_rate=0.5)
    trainer = trainer_of(world, model, tmp_path)
    trainer.evaluate()
    assert not any(bias.any() for bias in biases(model))
    trainer.train()
    trained = biases(model)
    assert all(bias.any() for bias in trained)
    assert all(bool((bias.abs() <= 1.5).all()) for bias in trained)  # three steps of 0.5, whatever the micro-batches
    assert all(bool((bias % 0.5 == 0).all()) for bias in trained)
    trainer.evaluate()
    assert all(map(torch.equal, biases(model), trained))


def test_a_frozen_router_keeps_its_biases(world: Path, tmp_path: Path) -> None:
    model = sparse_model(world, balance="bias", bias_rate=0.5)
    for layer in moe_layers(model):
        layer.router.requires_grad_(False)
    trainer_of(world, model, tmp_path).train()
    assert not any(bias.any() for bias in biases(model))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_bias_is_the_loaded_bias(world: Path, tmp_path: Path, dtype: str) -> None:
    sparse_model(world, balance="both").save_pretrained(tmp_path / "made")
    model = load(tmp_path / "made", dtype=dtype)  # a cast of the whole model would also round its rotary positions
    for layer in moe_layers(model):
        layer.router.selection.bias.normal_(std=2.0)
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert all(map(torch.equal, biases(again), biases(model)))
    assert all(bias.dtype == torch.float32 for bias in biases(again))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        full = again(input_ids=ids)
        assert torch.equal(full.logits, model(input_ids=ids).logits)
        first = again(input_ids=ids[:, :3], use_cache=True)
        second = again(input_ids=ids[:, 3:], **{CACHE: cache_in(first)})
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    torch.testing.assert_close(second.logits[:, -1], full.logits[:, -1], atol=tolerance, rtol=tolerance)
