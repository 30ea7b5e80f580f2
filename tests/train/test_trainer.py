"""The Trainer by itself: rates, frozen parts, determinism, refusals, silence."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import COLOURS, encoded, row, scratch_folder, sparse_model

from moiety.recipe.recipe import TrainSettings
from moiety.train import MoietyTrainer, training_arguments
from moiety.vlm.model import load
from moiety.vlm.parts import freeze, part_of

ROWS = [row(name, f"{name}.png", "Which colour?", name) for name in COLOURS]
EVERYTHING = ("vision_tower", "projector", "embeddings", "decoder", "router", "experts", "head")


def trainer_of(
    world: Path, work: Path, model: Any = None, rates: dict[str, float] | None = None, **settings: Any
) -> MoietyTrainer:
    model = sparse_model(world) if model is None else model
    dataset, collator = encoded(world, scratch_folder(world), ROWS)
    train = TrainSettings(**{"per_device_train_batch_size": 2, "max_steps": 2, "logging_steps": 1, **settings})
    args = training_arguments(train, work, quiet=True, save_strategy="no")
    return MoietyTrainer(model, args, train_dataset=dataset, data_collator=collator, learning_rates=rates)


def test_the_trainer_groups_by_length(world: Path, tmp_path: Path) -> None:
    trainer = trainer_of(world, tmp_path, train_sampling_strategy="group_by_length")
    rows = [*trainer.train_dataset, {key: value[:4] for key, value in trainer.train_dataset[0].items()}] * 2

    class Rows(list):
        @property
        def lengths(self) -> list[int]:
            return [len(entry["input_ids"]) for entry in self]

    trainer.train_dataset = Rows(rows)
    sizes = [batch["input_ids"].shape[1] for batch in trainer.get_train_dataloader()]
    assert sizes.count(4) == 1


def test_every_epoch_and_every_scheme_sees_the_same_rows(world: Path, tmp_path: Path) -> None:
    seen: dict[str, list[list[int]]] = {}

    class Watches(MoietyTrainer):
        def observe(self, inputs: Any, *rest: Any) -> None:
            seen[self.scheme].append(inputs["input_ids"].sum(-1).tolist())

    for scheme in ("moiie", "vanilla"):
        seen[scheme] = []
        plain = trainer_of(world, tmp_path, sparse_model(world, scheme=scheme))
        args = training_arguments(
            TrainSettings(per_device_train_batch_size=2, num_train_epochs=3), tmp_path, quiet=True, save_strategy="no"
        )
        watching = Watches(plain.model, args, train_dataset=plain.train_dataset, data_collator=plain.data_collator)
        watching.scheme = scheme
        watching.train()
    assert seen["moiie"] == seen["vanilla"]
    assert len(seen["moiie"]) == 6
    assert seen["moiie"][:2] != seen["moiie"][2:4]


def test_the_same_seed_gives_the_same_loss_bit_for_bit(world: Path, tmp_path: Path) -> None:
    logs = []
    for _ in range(2):
        trainer = trainer_of(world, tmp_path, sparse_model(world, router_jitter=0.1), max_steps=3)
        trainer.train()
        logs.append([line["loss"] for line in trainer.state.log_history[:3]])
    assert logs[0] == logs[1]


def test_each_part_has_its_rate(world: Path, tmp_path: Path) -> None:
    rates = {"router": 1e-2, "vision_tower": 1e-6}
    trainer = trainer_of(world, tmp_path, rates=rates, learning_rate=1e-3, weight_decay=0.1, warmup_ratio=0.0)
    groups = trainer.create_optimizer().param_groups
    for group in groups:
        assert group["lr"] == rates.get(group["part"], 1e-3)
        ids = {id(parameter) for parameter in group["params"]}
        names = [name for name, parameter in trainer.model.named_parameters() if id(parameter) in ids]
        assert {part_of(name) for name in names} == {group["part"]}
        assert all(group["weight_decay"] == (0.0 if "norm" in name or "bias" in name else 0.1) for name in names)
    learning = sum(parameter.requires_grad for parameter in trainer.model.parameters())
    assert sum(len(group["params"]) for group in groups) == learning
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["learning_rate/router"] / line["learning_rate/decoder"] == pytest.approx(10)


@pytest.mark.parametrize("parts", [("projector",), ("router", "experts"), ("vision_tower",)])
def test_frozen_parts_stay_bit_equal(world: Path, tmp_path: Path, parts: tuple[str, ...]) -> None:
    """D21: training experts and routers moves no dense FFN. D09: a trained tower moves."""
    model = sparse_model(world)
    freeze(model, parts)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer_of(world, tmp_path, model, learning_rate=1e-2, warmup_ratio=0.0).train()
    moved = {part_of(name) for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == set(parts)


def test_a_trained_tower_gets_a_gradient_in_every_layer_it_is_read_from(world: Path, tmp_path: Path) -> None:
    """D09."""
    model = load(scratch_folder(world))
    freeze(model, ["vision_tower"])
    trainer = trainer_of(world, tmp_path, model)
    trainer.compute_loss(model.train(), trainer.data_collator(trainer.train_dataset)).backward()
    learning = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert learning
    # the bias of attention keys shifts all scores alike, so its gradient is 0 in exact arithmetic
    assert all(grad is not None and (grad.abs().max() > 0 or "k_proj.bias" in name) for name, grad in learning.items())


def test_checkpointing_changes_no_weight(world: Path, tmp_path: Path) -> None:
    """I13, jitter included: the second pass draws the same noise."""
    ends = []
    for checkpointing in (False, True):
        model = sparse_model(world, router_jitter=0.1)
        trainer_of(world, tmp_path, model, gradient_checkpointing=checkpointing).train()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*ends)


def test_bf16_trains_on_cpu(world: Path, tmp_path: Path) -> None:
    trainer = trainer_of(world, tmp_path, bf16=True, max_steps=3, learning_rate=1e-2, warmup_ratio=0.0)
    trainer.train()
    losses = [line["cross_entropy"] for line in trainer.state.log_history[:3]]
    assert losses[-1] < losses[0]


def test_a_loss_that_is_not_finite_stops_the_run(world: Path, tmp_path: Path) -> None:
    model = sparse_model(world)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 1; lower the learning rate"):
        trainer_of(world, tmp_path, model).train()
    plain = trainer_of(world, tmp_path, model)
    settings = TrainSettings(max_steps=9, logging_steps=5, save_steps=2)
    args = training_arguments(settings, tmp_path, quiet=True, logging_first_step=False)
    rare = MoietyTrainer(model, args, train_dataset=plain.train_dataset, data_collator=plain.data_collator)
    with pytest.raises(FloatingPointError, match=r"at step 2; .*No checkpoint was written since"):
        rare.train()
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"fp16": True, "use_cpu": True}, r"fp16 is refused.*bf16=True"),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, r"use_reentrant=True is refused"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 200},
            r"load_best_model_at_end is refused",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_kwargs.*:FutureWarning")
def test_arguments_that_train_wrongly_are_refused(
    world: Path, tmp_path: Path, override: dict[str, Any], said: str
) -> None:
    args = training_arguments(TrainSettings(), tmp_path, **override)
    with pytest.raises(ValueError, match=said):
        MoietyTrainer(sparse_model(world), args)


@pytest.mark.parametrize(("ratio", "steps"), [(0.0, 0), (0.03, 3), (0.5, 50), (1.0, 100)])
def test_warm_up_is_a_share_of_the_run(tmp_path: Path, ratio: float, steps: int) -> None:
    args = training_arguments(TrainSettings(warmup_ratio=ratio), tmp_path)
    assert args.get_warmup_steps(100) == steps


def test_training_writes_nothing_on_the_terminal_but_a_bar(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_of(world, tmp_path).train()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loss" not in captured.err
    plain = trainer_of(world, tmp_path)
    capsys.readouterr()
    loud = MoietyTrainer(
        plain.model,
        training_arguments(TrainSettings(max_steps=2, logging_steps=1), tmp_path, save_strategy="no"),
        train_dataset=plain.train_dataset,
        data_collator=plain.data_collator,
    )
    loud.train()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err
    assert "loss=" in captured.err


def test_no_checkpoint_to_resume_from(world: Path, tmp_path: Path) -> None:
    from moiety.train import CheckpointError

    with pytest.raises(CheckpointError, match=r"no whole checkpoint in .*train from the start"):
        trainer_of(world, tmp_path).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"checkpoint-1 is not a whole checkpoint: no moiety_checkpoint.json"):
        trainer_of(world, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_the_alarm_reaches_log_and_history(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = sparse_model(world, noise=0.0, aux_coef=0.0)
    with torch.no_grad():
        gate = model.model.language_model.layers[1].mlp.router.gates["text"].weight
        gate.copy_(torch.tensor([[1.0], [1.0], [-1.0]]) * gate[0].abs())
    dataset, collator = encoded(world, scratch_folder(world), ROWS)
    args = training_arguments(TrainSettings(max_steps=1, learning_rate=1e-9), tmp_path, quiet=True, save_strategy="no")
    trainer = MoietyTrainer(model, args, train_dataset=dataset, data_collator=collator, starved_share=0.99)
    with caplog.at_level(logging.WARNING, "moiety"):
        trainer.train()
    alarms = trainer.state.log_history[0]["alarms"]
    assert alarms
    assert all("of layer 1 starves" in text and text in caplog.text for text in alarms)
