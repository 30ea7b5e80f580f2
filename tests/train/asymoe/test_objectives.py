"""Training of scheme asymoe: what its losses teach whom, when they count, and that a stopped run goes on exactly."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from asymmetric_toy import DOMINANT, ROWS, WIDTHS, asymmetric_model, gradients, trainer_of, with_spans
from toy import COLOURS, encoded, largest_difference, row, scratch_folder, sparse_model

from moiety.moe.trace import RoutingTrace, recording
from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import Recipe, TrainSettings
from moiety.train import MoietyTrainer, StageResult, run_stage, training_arguments
from moiety.train.asymoe.cone_objective import cone_layers, inter_bank
from moiety.train.asymoe.gate_objective import GateObjective
from moiety.train.asymoe.measures import beyond_cap, gate_means
from moiety.train.asymoe.objectives import TRAINER_KEYS, AsymmetricObjective, risen, split_batch
from moiety.train.log_files import read_log
from moiety.vlm.model import groups_of, load, moe_layers
from moiety.vlm.templates import control_ids, load_processor

TEXT = row("t", None, "Repeat the word blue.", "blue blue")
GATES = ("w_alpha", "b_alpha", "router.score.weight", "router.score.bias")


@pytest.mark.parametrize("gate_gradient", ["probes", "full"])
def test_accumulation_changes_no_gradient(world: Path, tmp_path: Path, gate_gradient: str) -> None:
    once = gradients(world, tmp_path, gate_gradient=gate_gradient)
    three = gradients(world, tmp_path, ROWS * 3, 3, gate_gradient=gate_gradient)
    assert largest_difference(three, once) < 5e-5  # measured 1.5e-5: angles of close points are steep


def test_each_loss_teaches_what_it_should(world: Path, tmp_path: Path) -> None:
    """Probes: the gates alone. Full: the context attention, too. Order: projections, cones and the trunk."""
    none = gradients(world, tmp_path, cone_weight=0.0, distance_weight=0.0, gate_weight=0.0)

    def moved(**weights: Any) -> set[str]:
        off = {"cone_weight": 0.0, "distance_weight": 0.0, "gate_weight": 0.0}
        found = gradients(world, tmp_path, **{**off, **weights})
        floor = 1e-6 * max(float(gradient.abs().max()) for gradient in none.values())
        assert found.keys() == none.keys()
        return {name for name in found if (found[name] - none[name]).abs().max() > floor}

    probes = moved(gate_weight=3.0)
    assert probes
    assert all(name.endswith(GATES) for name in probes)
    full = moved(gate_weight=3.0, gate_gradient="full")
    assert probes <= full
    assert any(name.endswith(".context.q_proj.weight") for name in full)
    cones = moved(cone_weight=3.0)
    assert {"projection", "cone_log_scale", "embed_tokens"} <= {
        part for name in cones for part in name.split(".") if part in ("projection", "cone_log_scale", "embed_tokens")
    }
    last = {name.rpartition(".")[2] for name in cones if ".layers.1.mlp." in name or "lm_head" in name}
    assert last == {"projection", "cone_log_scale"}
    detached = moved(cone_weight=3.0, cone_detach=True)
    assert detached == {name for name in cones if name.endswith(("inter.projection", "cone_log_scale"))}


def test_twenty_steps_on_one_batch_lower_every_loss(world: Path, tmp_path: Path) -> None:
    model = asymmetric_model(world, gate_share=1.0, cone_weight=0.3)
    trainer = trainer_of(
        world, tmp_path, model, max_steps=20, learning_rate=4e-3, lr_scheduler_type="constant"
    )  # fmt: skip
    trainer.train()
    first, *_, last = trainer.state.log_history[:20]
    for name in ("loss", "cross_entropy", "cone/pair_loss", "gate/loss"):
        assert last[name] < first[name], name
    assert last["cross_entropy"] < 0.5 * first["cross_entropy"]
    assert last["gate/alpha_gap"] > 0 == first["gate/alpha_gap"]
    assert first["cone/pair_loss"] > 0
    assert 0 < first["evidence/alpha"] < 1
    assert first["evidence/score"] == 0.5
    assert 0 < first["evidence/mass"] < 1
    assert 0 <= first["inter/beyond_cap_share"] < 1


def test_evaluation_is_cross_entropy_alone(world: Path, tmp_path: Path) -> None:
    trainer = trainer_of(world, tmp_path, asymmetric_model(world, **DOMINANT))
    batch = trainer.data_collator(trainer.train_dataset)
    with torch.no_grad():
        expected = trainer.model.eval()(**split_batch(batch)[0]).loss.item()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_losses_rise_from_nothing(world: Path, tmp_path: Path) -> None:
    """The first step of a warm-up has the gradient of a run without them."""
    assert risen(0, 0, 0.1) == 1.0
    assert [risen(step, 8, 0.5) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    off = gradients(world, tmp_path, cone_weight=0.0, distance_weight=0.0, gate_weight=0.0)
    rising = gradients(world, tmp_path, warmup_share=1.0)
    assert rising.keys() == off.keys()
    assert all(torch.equal(rising[name], off[name]) for name in off)


def test_a_batch_without_pictures_or_answers_is_a_differentiable_zero(world: Path, tmp_path: Path) -> None:
    model = asymmetric_model(world, **DOMINANT)
    trainer = trainer_of(world, tmp_path, model, [TEXT, TEXT], per_device_train_batch_size=2)
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["cone/pair_loss"] == line["cone/negative_loss"] == line["gate/loss"] == 0
    assert not {"cone/inside_share", "gate/alpha_gap"} & line.keys()
    batch = trainer.data_collator(trainer.train_dataset)
    trainer.compute_loss(model.train(), batch).backward()
    cones = [parameter.grad for name, parameter in model.named_parameters() if "cone" in name]
    assert all(grad is not None and not grad.any() for grad in cones)


def test_other_schemes_never_see_what_the_trainer_keeps(world: Path, tmp_path: Path) -> None:
    with_keys, collator = with_spans(world)
    without, _ = encoded(world, scratch_folder(world), ROWS)
    assert set(collator(with_keys)) - set(collator(without)) == set(TRAINER_KEYS)
    for model in (load(scratch_folder(world)), sparse_model(world)):
        args = training_arguments(TrainSettings(), tmp_path, quiet=True, save_strategy="no")
        trainer = MoietyTrainer(model.train(), args, train_dataset=without, data_collator=collator)
        losses = [trainer.compute_loss(model, collator(rows)).item() for rows in (with_keys, without)]
        assert losses[0] == losses[1]


def test_a_batch_without_spans_says_what_to_do(world: Path, tmp_path: Path) -> None:
    trainer = trainer_of(world, tmp_path, asymmetric_model(world).train())
    batch = trainer.data_collator(encoded(world, scratch_folder(world), ROWS)[0])
    with pytest.raises(ValueError, match=r"the batch has no span_ids, span_order, image_key; encode rows .*spans=True"):
        trainer.compute_loss(trainer.model, batch)


def test_the_order_loss_reads_mid_and_last() -> None:
    def read(sparse: list[int], depth: int, **asymoe: Any) -> list[int]:
        groups = SimpleNamespace(inter=(1, 2))
        layers: Any = [SimpleNamespace(layer_index=index, groups=groups) for index in sparse]
        return [layer.layer_index for layer in cone_layers(layers, depth, AsyMoESettings(**asymoe))]

    assert read([0, 1, 2, 3, 4], 5) == [2, 4]
    assert read([1, 3, 5, 7], 8) == [3, 7]
    assert read([7], 8) == [7]
    assert read([1, 3], 4, cone_layers="all") == [1, 3]
    assert read([1, 3], 4, cone_weight=0.0) == []
    assert read([1, 3], 4, cone_weight=0.0, distance_weight=0.1) == [1, 3]
    assert read([1, 3], 4, inter_kind="ffn") == []


def test_the_same_step_reads_the_same_samples_again(world: Path) -> None:
    model = asymmetric_model(world)
    gate = AsymmetricObjective(model, groups_of(model), model_settings(model), seed=5).gate
    assert isinstance(gate, GateObjective)
    image, predicts = torch.ones(16, 3, dtype=torch.bool), torch.ones(16, 3, dtype=torch.bool)
    keys = torch.arange(16)
    rows = [gate._exchange(image, predicts, keys, step).rows.tolist() for step in (0, 0, 1, 2)]
    assert all(len(found) == 2 for found in rows)  # an eighth
    assert rows[0] == rows[1]
    assert len({tuple(found) for found in rows}) > 1


@pytest.mark.parametrize(("gate_masking", "read"), [("exchange", False), ("mean_patch", True)])
def test_one_picture_for_all_has_no_other_to_exchange(
    world: Path, tmp_path: Path, gate_masking: str, read: bool
) -> None:
    """Set to its own mean patch it can be masked all the same."""
    rows = [row(str(number), "red.png", "Which?", "red") for number in range(4)]
    trainer = trainer_of(world, tmp_path, asymmetric_model(world, gate_masking=gate_masking), rows)
    trainer.train()
    line = trainer.state.log_history[0]
    assert ("gate/alpha_gap" in line) == read
    assert (line["gate/loss"] > 0) == read


def model_settings(model: Any) -> AsyMoESettings:
    return AsyMoESettings.model_validate(model.config.moe["asymoe"])


def test_a_target_of_alpha_is_logged(world: Path, tmp_path: Path) -> None:
    model = asymmetric_model(world, alpha_mode="target", alpha_target=0.5)
    trainer = trainer_of(world, tmp_path, model)
    trainer.train()
    assert trainer.state.log_history[0]["evidence/alpha_target_loss"] == pytest.approx(0.04, rel=1e-3)  # 0.3 at first


def test_means_of_gates_are_over_text_alone(world: Path) -> None:
    model = asymmetric_model(world)
    dataset, collator = with_spans(world, [*ROWS[:2], TEXT])
    with torch.no_grad(), recording(RoutingTrace()) as trace:
        model(**split_batch(collator(dataset))[0])
    routings = {layer: found[0] for layer, found in trace.by_layer().items()}
    groups = groups_of(model)
    text = groups.names.index("text")
    for name in ("alpha", "score", "mass"):
        values = torch.cat(
            [r.extras[name].reshape(len(r.index), -1)[r.modality_group == text] for r in routings.values()]
        )
        total, count = gate_means(routings, groups)[f"evidence/{name}"]
        assert float(total / count) == pytest.approx(float(values.mean()), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("negatives", ["hard", "in_batch", "both"])
def test_rows_say_which_pairs_are_false(world: Path, negatives: str) -> None:
    rows = [row(name, f"{name}.png", "Which colour?", name) for name in ("red", "red", "blue")]
    rows[1]["conversations"][0]["order"] = 0
    model = asymmetric_model(world, negatives=negatives)
    batch, trainer_inputs = split_batch(with_spans(world, rows)[1](with_spans(world, rows)[0]))
    with recording(RoutingTrace(keeps_inputs=True)) as trace:
        model(**batch)
    cone = AsymmetricObjective(model, groups_of(model), model_settings(model)).cone
    assert cone is not None
    loss = cone.loss({layer: found[0] for layer, found in trace.by_layer().items()}, batch, trainer_inputs)
    read = len(cone.layers) * 2  # experts
    # true: a red and a blue one; hard: the false red one; in the batch: each true span with the other colour's picture
    false = {"hard": 1, "in_batch": 3, "both": 4}[negatives]
    assert (int(loss.num_pairs), int(loss.num_negatives)) == (2 * read, false * read)


def test_the_share_beyond_the_cap(world: Path) -> None:
    model = asymmetric_model(world, radius_cap=1.0)
    dataset, collator = with_spans(world)
    with torch.no_grad(), recording(RoutingTrace(keeps_inputs=True)) as trace:
        model(**split_batch(collator(dataset))[0])
    layer, bank = moe_layers(model)[-1], inter_bank(moe_layers(model)[-1])
    routing = trace.by_layer()[layer.layer_index][0]
    far, points = beyond_cap(routing, bank, 1.0)
    tokens = int((routing.modality_group >= 0).sum())
    assert int(points) == bank.num_experts * tokens
    expected = sum(
        (bank.log_scale[e, g].exp() * (bank.projection[e, g] @ x).norm()).item() > 2.0
        for x, g in zip(routing.extras["x"], routing.modality_group.tolist(), strict=True)
        for e in range(bank.num_experts)
        if g >= 0
    )
    assert int(far) == expected
    assert int(beyond_cap(routing, bank, 0.01)[0]) == int(points)


@pytest.mark.parametrize("rates", [None, {"experts": 1e-2}])
def test_scales_learn_slowly_and_gates_do_not_decay(world: Path, tmp_path: Path, rates: Any) -> None:
    model = asymmetric_model(world, learn_curvature=True, evidence_gain="learned")
    trainer = trainer_of(world, tmp_path, model, learning_rate=1e-3, weight_decay=0.1)
    trainer.learning_rates = rates or {}
    found = {}
    for group in trainer.create_optimizer().param_groups:
        ids = {id(parameter) for parameter in group["params"]}
        found |= {name: group for name, p in model.named_parameters() if id(p) in ids}
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    scales = [name for name in found if name.endswith(("log_scale", "log_curvature"))]
    assert len(scales) == 5 * len({name.split(".")[3] for name in scales})
    experts = (rates or {}).get("experts", 1e-3)
    for name, group in found.items():
        if "mlp.experts" in name:
            assert group["lr"] == pytest.approx(experts * (0.1 if name in scales else 1))
        still = name in scales or name.endswith((*GATES, "k_null", "log_gain")) or "norm" in name or "bias" in name
        assert group["weight_decay"] == (0.0 if still else 0.1), name


def test_a_run_that_was_stopped_ends_with_the_same_weights(world: Path, tmp_path: Path) -> None:
    """The warm-up and the exchanged pictures depend on step and seed alone."""
    rows = [row(f"{name}-{number}", f"{name}.png", "Which?", name) for name in COLOURS for number in range(2)]
    ends = []
    for work, resume in (("whole", None), ("parts", "checkpoint-2")):
        folder = tmp_path / work
        model = asymmetric_model(world, warmup_share=1.0, gate_share=0.5, cone_weight=1.0)
        settings = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "learning_rate": 1e-2}
        trainer = trainer_of(world, folder, model, rows, **settings)
        trainer.train(None if resume is None else str(tmp_path / "whole" / resume))
        ends.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
    assert all(torch.equal(ends[1][name], ends[0][name]) for name in ends[0])


@pytest.mark.parametrize("gate_gradient", ["probes", "full"])
def test_checkpointing_changes_no_weight(world: Path, tmp_path: Path, gate_gradient: str) -> None:
    ends = []
    for checkpointing in (False, True):
        model = asymmetric_model(world, **{**DOMINANT, "gate_gradient": gate_gradient})
        trainer_of(world, tmp_path, model, max_steps=2, gradient_checkpointing=checkpointing).train()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.equal(*ends)


def test_bf16_trains(world: Path, tmp_path: Path) -> None:
    model = asymmetric_model(world, **DOMINANT)
    trainer = trainer_of(world, tmp_path, model, max_steps=2, bf16=True)
    trainer.train()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_recipe_trains_it_and_says_what_the_gates_did(
    finished: tuple[Recipe, list[StageResult]], world: Path, tmp_path: Path
) -> None:
    """From the dense folder of the first stage, then once more from its own result: the settings fit."""
    recipe, (align, _) = finished
    tree = recipe.model_dump(mode="json")
    tree["moe"] = {"scheme": "asymoe", "asymoe": WIDTHS}
    tree["stages"][1]["train"] |= {"max_steps": 3, "save_steps": 3, "logging_steps": 1}
    recipe = Recipe.model_validate(tree)
    first = run_stage(align.folder, recipe.stages[1], recipe, tmp_path / "first", 0, recipe.moe)
    lines = read_log(first.folder)
    assert {"cone/pair_loss", "gate/loss", "evidence/alpha", "evidence/score", "evidence/mass"} <= lines[0].keys()
    assert lines[0]["evidence/mass"] > 0
    columns = (first.folder / "log.csv").read_text().splitlines()[0].split(",")
    assert {"cone/inside_share", "learning_rate/experts.scales"} <= set(columns)
    model = load(first.folder)
    processor = load_processor(first.folder)
    assert set(model.config.moe["asymoe"]["special_ids"]) == control_ids(processor)
    second = run_stage(first.folder, recipe.stages[1], recipe, tmp_path / "second", 0, recipe.moe)
    assert second.metrics["steps"] == 3
