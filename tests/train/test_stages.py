"""Recipes from start to end: what each stage changes, keeps, refuses and writes."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from toy import FAST, recipe_for, row, stage, write_lines, write_world

from moiety.recipe.recipe import MoESettings, Recipe
from moiety.train import StageChanged, StageResult, plan, prepare_data, run_recipe, run_stage
from moiety.train.ledger import read_record
from moiety.train.log_files import read_log
from moiety.vlm.model import load, moe_layers, settings_of
from moiety.vlm.parts import part_of
from moiety.vlm.projector import is_as_drawn, projector_in
from moiety.vlm.rows import BadRows
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle

Finished = tuple[Recipe, list[StageResult]]


def with_stages(recipe: Recipe, *stages: dict[str, Any], **sections: Any) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(mode="json"), **sections, "stages": list(stages)})


def test_each_stage_is_one_model_folder(finished: Finished) -> None:
    recipe, results = finished
    assert [result.name for result in results] == ["align", "tune"]
    assert settings_of(load(results[0].folder)) is None
    model = load(results[1].folder)
    assert settings_of(model).scheme == "moiie"
    assert getattr(model.config, "use_cache", True)
    assert load_processor(results[1].folder)
    assert not list(Path(recipe.output).glob("*.unfinished"))
    for result in results:
        names = {path.name for path in result.folder.iterdir()}
        assert {"log.jsonl", "log.csv", "loss.png", "moiety_stage.json", "config.json"} <= names


def test_the_past_of_a_model_is_written_in_its_config(finished: Finished) -> None:
    provenance = json.loads((finished[1][1].folder / "config.json").read_text())["provenance"]
    assert provenance["origin"] == "scratch"
    assert [(past["name"], past["scheme"]) for past in provenance["stages"]] == [("align", "dense"), ("tune", "moiie")]
    assert provenance["stages"][1]["trains"] == ["projector", "decoder", "router", "experts"]
    assert provenance["upcycled"]["receipt"]["relative_difference"] <= 1e-5


def test_the_recipe_in_the_card_is_the_recipe(finished: Finished) -> None:
    recipe, results = finished
    card = (results[1].folder / "README.md").read_text()
    written = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert str(recipe.output) not in card, "folders of this machine are named by their last part"
    known = recipe.model_dump(mode="json")
    known["output"] = Path(known["output"]).name
    known["data"]["root"] = Path(known["data"]["root"]).name
    assert Recipe.model_validate(written).model_dump(mode="json") == known
    for name, digest in read_record(results[1].folder)["identity"]["files"].items():
        assert f"| {name} | {digest} |" in card
    assert [f"| {stage} |" in card for stage in ("align", "tune")] == [True, True]


def test_metrics_of_a_stage(finished: Finished) -> None:
    recipe, (align, tune) = finished
    assert align.metrics["steps"] == tune.metrics["steps"] == 8
    assert tune.metrics["rows"] == 12
    assert tune.metrics["rows_skipped"] == 0
    assert tune.metrics["tokens"] > tune.metrics["trained_tokens"] > 0
    assert tune.metrics["tokens_per_second"] > 0
    assert 0.1 < tune.metrics["peak_memory_gib"] < 16
    assert tune.metrics["last_cross_entropy"] < tune.metrics["first_cross_entropy"]
    assert tune.metrics["trainable_parameters"]["experts"] == 4 * 3 * 32 * 48
    record = read_record(tune.folder)
    assert record["metrics"]["tokens"] == tune.metrics["tokens"]
    assert record["recipe"]["name"] == recipe.name
    last = read_log(tune.folder)[-1]
    for group in ("vision", "text"):  # D19
        assert f"load_balancing_loss/{group}" in last
        assert sum(value for key, value in last.items() if key.startswith(f"load/{group}/")) == pytest.approx(1)


def test_finished_stages_are_used_as_they_are(finished: Finished) -> None:
    recipe, results = finished
    before = [(result.folder / "model.safetensors").stat().st_mtime_ns for result in results]
    again = run_recipe(recipe, quiet=True)
    assert all(result.reused for result in again)
    assert [(result.folder / "model.safetensors").stat().st_mtime_ns for result in again] == before
    assert [dict(result.metrics) for result in again] == [json.loads(json.dumps(result.metrics)) for result in results]


def test_another_recipe_is_not_written_over(finished: Finished) -> None:
    recipe, _ = finished
    with pytest.raises(StageChanged, match=r"stage 'scratch' in .*\n  seed: 0 -> 1\n.*--fresh"):
        run_recipe(recipe.model_copy(update={"seed": 1}), quiet=True)
    tree = recipe.model_dump(mode="json")
    tree["stages"][0]["train"]["weight_decay"] = 0.1
    with pytest.raises(
        StageChanged, match=r"stage 'align' in .*\n  stage\.train\.weight_decay: 0\.0 -> 0\.1\n.*--fresh"
    ):
        run_recipe(Recipe.model_validate(tree), quiet=True)


def test_the_scratch_model_depends_on_all_texts(finished: Finished, world: Path) -> None:
    recipe, _ = finished
    longer = with_stages(recipe, *[entry.model_dump(mode="json") for entry in recipe.stages[:1]])
    with pytest.raises(StageChanged, match=r"stage 'scratch' in .*\n  texts: "):
        run_recipe(longer, quiet=True)


def test_stage_one_changes_the_projector_only(tmp_path: Path) -> None:
    """D05: four rows are enough. Everything else is bit-equal, the logs are there, the loss falls."""
    root = write_world(tmp_path, repeats=1)
    recipe = with_stages(recipe_for(root), stage("project", ["captions.jsonl"], ["projector"], 6))
    (result,) = run_recipe(recipe, quiet=True)
    before = load_file(Path(recipe.output) / "scratch" / "model.safetensors")
    after = load(result.folder).state_dict()
    dense = load(Path(recipe.output) / "scratch").state_dict()
    moved = {part_of(name) for name in after if not torch.equal(after[name], dense[name])}
    assert moved == {"projector"}
    assert len(before) == len(after)
    assert result.metrics["rows"] == 4
    assert result.metrics["last_cross_entropy"] < result.metrics["first_cross_entropy"]


def test_fifty_steps_lower_the_loss_and_starve_nobody(tmp_path: Path) -> None:
    """I16."""
    root = write_world(tmp_path)
    ends = []
    for run in ("first", "second"):
        recipe = recipe_for(root, steps=50, output=str(tmp_path / run))
        tree = recipe.model_dump(mode="json")
        tree["stages"][0]["train"]["max_steps"] = 4
        recipe = Recipe.model_validate(tree)
        _, tune = run_recipe(recipe, quiet=True)
        ends.append(load_file(tune.folder / "model.safetensors"))
        # measured .54
        assert tune.metrics["last_cross_entropy"] < 0.7 * tune.metrics["first_cross_entropy"]
        last = read_log(tune.folder)[-1]
        loads = {key: value for key, value in last.items() if key.startswith("load/")}
        assert len(loads) == 6
        assert min(loads.values()) > 0
        assert tune.metrics["alarms"] == []
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_sparse_stage_wants_a_trained_projector(tmp_path: Path) -> None:
    """D08."""
    root = write_world(tmp_path, repeats=1)
    sparse = stage("tune", ["questions.jsonl"], ["projector", "router", "experts"], 2, sparse=True)
    words = stage("words", ["captions.jsonl"], ["decoder", "head"], 1)
    with pytest.raises(RuntimeError, match=r"stage 'tune' is sparse, but the projector of .* was never trained"):
        run_recipe(with_stages(recipe_for(root), words, sparse), quiet=True)
    # of a model from outside nobody says so, but its weights do
    outside = with_stages(recipe_for(root), sparse, model={"source": str(root / "runs" / "scratch")})
    (root / "runs" / "scratch" / "moiety_stage.json").unlink()
    config = root / "runs" / "scratch" / "config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "provenance": None})
    )  # nobody says where it is from
    with pytest.raises(
        RuntimeError, match=r"looks as if it was never trained.*trains: \[projector, .*trained_projector=true"
    ):
        run_recipe(outside, quiet=True)
    known = {"source": str(root / "runs" / "scratch"), "trained_projector": True}
    assert run_recipe(with_stages(outside, sparse, model=known), quiet=True)[0].metrics["steps"] == 2
    # the remedy of the message: a projector stage of a single step is seen in the weights
    first = stage("first", ["captions.jsonl"], ["projector"], 1)
    dense, _ = run_recipe(with_stages(outside, first, sparse, output=str(root / "runs" / "both")), quiet=True)
    assert not is_as_drawn(projector_in(dense.folder), load(dense.folder).config)


def test_bad_rows_stop_the_run_before_it_starts_or_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_world(tmp_path, repeats=1)
    rows = [json.loads(line) for line in (root / "captions.jsonl").read_text().splitlines()]
    bad = [row("gone", "gone.png", "Describe it.", "all gone"), row("mute", "red.png", "Describe it.", "")]
    write_lines(root / "captions.jsonl", [rows[0], *bad, *rows[1:]])
    recipe = with_stages(recipe_for(root), stage("align", ["captions.jsonl"], ["projector"], 1))
    with pytest.raises(BadRows, match=r"2 problems in 6 rows") as caught:
        run_recipe(recipe, quiet=True)
    assert "captions.jsonl:2: row 'gone': picture 'gone.png' is missing" in str(caught.value)
    assert "captions.jsonl:3: row 'mute'" in str(caught.value)
    assert not (root / "runs" / "align").exists()
    skipping = with_stages(
        recipe, stage("align", ["captions.jsonl"], ["projector"], 1),
        data={**recipe.data.model_dump(mode="json"), "on_bad_row": "skip"},
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "moiety"):
        (result,) = run_recipe(skipping, quiet=True)
    assert (result.metrics["rows"], result.metrics["rows_skipped"]) == (4, 2)
    assert "2 of 6 rows are bad and skipped" in caplog.text
    (root / "bad.txt").write_text("gone\nmute\n")
    listed = skipping.model_copy(update={"data": recipe.data.model_copy(update={"skip": "bad.txt"})})
    data = prepare_data(listed.stages[0], listed, load_processor(result.folder))
    assert (len(data.dataset), data.num_skipped, data.report.num_rows) == (4, 0, 4)
    write_lines(root / "captions.jsonl", bad)
    with pytest.raises(ValueError, match=r"stage 'align' has no usable row in captions\.jsonl \(2 read\)"):
        prepare_data(skipping.stages[0], skipping, load_processor(result.folder))
    nowhere = skipping.model_copy(update={"data": recipe.data.model_copy(update={"skip": "none.txt"})})
    with pytest.raises(
        FileNotFoundError, match=r"no list of row ids at .*none\.txt; write one with `moiety data check"
    ):
        prepare_data(nowhere.stages[0], nowhere, load_processor(result.folder))


def test_one_stage_alone(finished: Finished, tmp_path: Path) -> None:
    recipe, _ = finished
    assert [result.name for result in run_recipe(recipe, only_stage="tune", quiet=True)] == ["tune"]
    elsewhere = recipe.model_copy(update={"output": str(tmp_path)})
    with pytest.raises(RuntimeError, match=r"stage 'align' is not finished .*; run it before stage 'tune'"):
        run_recipe(elsewhere, only_stage="tune", quiet=True)
    with pytest.raises(ValueError, match=r"no stage 'tuna' in recipe 'toy'; its stages are align, tune"):
        run_recipe(recipe, only_stage="tuna", quiet=True)


def test_the_folder_of_the_scratch_model_is_taken(world: Path) -> None:
    recipe = with_stages(recipe_for(world), stage("scratch", ["captions.jsonl"], ["projector"], 1))
    with pytest.raises(ValueError, match=r"a stage cannot be called 'scratch'"):
        run_recipe(recipe, quiet=True)


def test_fresh_trains_anew(tmp_path: Path) -> None:
    root = write_world(tmp_path, repeats=1)
    recipe = with_stages(recipe_for(root), stage("align", ["captions.jsonl"], ["projector"], 1))
    (first,) = run_recipe(recipe, quiet=True)
    other = with_stages(recipe_for(root), stage("align", ["captions.jsonl"], ["projector"], 2))
    (second,) = run_recipe(other, resume=False, quiet=True)
    assert (first.metrics["steps"], second.metrics["steps"]) == (1, 2)


def test_several_schemes_share_checked_rows(finished: Finished, tmp_path: Path) -> None:
    """What compare does: another scheme, another seed, the same data object."""
    recipe, (align, _) = finished
    tune = recipe.stages[1].model_copy(update={"train": recipe.stages[1].train.model_copy(update={"max_steps": 2})})
    data = prepare_data(tune, recipe, load_processor(align.folder))
    tokens = set()
    for scheme in ("dense", "dense_wide", "modality", "vanilla"):
        moe = None if scheme == "dense" else MoESettings(scheme=scheme)
        result = run_stage(align.folder, tune, recipe, tmp_path / scheme, 1, moe, data=data)
        found = settings_of(load(result.folder))
        assert (found.scheme if found else "dense") == scheme
        tokens.add(result.metrics["tokens"])
    assert len(tokens) == 1  # the same token budget


def test_a_sparse_model_keeps_its_settings(finished: Finished, tmp_path: Path) -> None:
    recipe, (_, tune) = finished
    one = recipe.stages[1].model_copy(update={"train": recipe.stages[1].train.model_copy(update={"max_steps": 1})})
    result = run_stage(tune.folder, one, recipe, tmp_path / "more", 0, recipe.moe)
    assert settings_of(load(result.folder)).scheme == "moiie"
    with pytest.raises(ValueError, match=r"is sparse already, with another moe\.scheme, .*moe\.experts"):
        run_stage(tune.folder, one, recipe, tmp_path / "other", 0, MoESettings(scheme="vanilla"))


def test_new_gates_of_a_model_from_outside_are_centred_once(finished: Finished, world: Path, tmp_path: Path) -> None:
    _, (align, _) = finished
    outside = tmp_path / "outside"
    shutil.copytree(align.folder, outside, ignore=shutil.ignore_patterns("moiety_stage.json"))
    config = json.loads((outside / "config.json").read_text())
    (outside / "config.json").write_text(json.dumps({**config, "provenance": None}))
    first = stage("first", ["questions.jsonl"], ["experts"], 2, sparse=True)
    second = stage("second", ["questions.jsonl"], ["experts"], 1, sparse=True)  # gates are frozen: they stay centred
    recipe = with_stages(
        recipe_for(world), first, second, model={"source": str(outside)}, output=str(tmp_path / "runs")
    )
    begun, ended = (load(result.folder) for result in run_recipe(recipe, quiet=True))
    assert (settings_of(begun).aux_scope, settings_of(begun).gate_start) == ("per_layer", "centred")
    gates = begun.config.provenance["upcycled"]["gates"]
    assert set(gates["before"]) == set(gates["after"]) == {"vision", "text"}
    assert ended.config.provenance["upcycled"]["gates"] == gates
    for one, other in zip(moe_layers(begun), moe_layers(ended), strict=True):
        assert torch.equal(one.router.gates["vision"].weight, other.router.gates["vision"].weight)
    drawn = moe_layers(upcycle(load(outside), recipe.moe, seed=recipe.seed))
    assert not torch.equal(drawn[0].router.gates["vision"].weight, moe_layers(begun)[0].router.gates["vision"].weight)
    assert (tmp_path / "runs" / "first" / "loads.png").read_bytes().startswith(b"\x89PNG")


def test_gates_of_a_model_from_nothing_stay_as_drawn(finished: Finished) -> None:
    _, (align, tune) = finished
    assert "gates" not in load(tune.folder).config.provenance["upcycled"]
    assert not (align.folder / "loads.png").exists(), "a dense model has no experts"
    assert (tune.folder / "loads.png").is_file()


def test_the_plan_of_a_recipe(finished: Finished, world: Path, tmp_path: Path) -> None:
    recipe, (align, tune) = finished
    found = plan(recipe)
    assert [(stage.name, stage.scheme, stage.finished) for stage in found.stages] == [
        ("align", "dense", True),
        ("tune", "moiie", True),
    ]
    for planned, result in zip(found.stages, (align, tune), strict=True):
        assert planned.steps == result.metrics["steps"]
        assert planned.rows == result.metrics["rows"]
        trained = {part: count for part, count in result.metrics["trainable_parameters"].items() if count}
        assert planned.trainable == trained
        assert planned.tokens == pytest.approx(result.metrics["tokens"], rel=0.1)
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(found)
    console.file.close()
    text = console.export_text()
    assert "plan of toy" in text
    assert "experts 18,432" in text
    epochs = {**FAST, "num_train_epochs": 3.0, "max_steps": -1, "gradient_accumulation_steps": 2}
    counted = with_stages(recipe, {**stage("tune", ["questions.jsonl"], ["experts"], 1, sparse=True), "train": epochs})
    assert plan(counted).stages[0].steps == 6  # 12 rows, 3 batches, 2 steps an epoch
    assert not plan(counted.model_copy(update={"output": str(tmp_path)})).stages[0].finished


def test_features_of_a_frozen_tower_are_kept_for_epochs_and_schemes(tmp_path: Path) -> None:
    """Three epochs and two schemes compute each picture once, the loss is that of a tower that runs every step."""
    root = write_world(tmp_path, repeats=1)
    dense = stage("project", ["captions.jsonl"], ["projector"], 3)
    tune = stage("tune", ["questions.jsonl"], ["projector", "decoder", "router", "experts"], 3, sparse=True)
    plain = with_stages(recipe_for(root), dense, tune)
    kept = plain.model_copy(
        update={
            "output": str(tmp_path / "kept"),
            "data": plain.data.model_copy(update={"cache_features": str(tmp_path / "features")}),
        }
    )
    slow, fast = run_recipe(plain, quiet=True), run_recipe(kept, quiet=True)
    assert fast[0].metrics["pictures_of_tower"] == {"computed": 4, "read": 8, "not_kept": 0}
    assert fast[1].metrics["pictures_of_tower"]["computed"] <= 1, "a step of text alone looks at a blank picture"
    assert "pictures_of_tower" not in slow[0].metrics
    for before, after in zip(slow, fast, strict=True):
        for name in ("first_cross_entropy", "last_cross_entropy"):
            assert after.metrics[name] == pytest.approx(before.metrics[name], rel=1e-4)
    moved = {**kept.model_dump(mode="json"), "data": {**kept.data.model_dump(), "cache_features": "elsewhere"}}
    assert all(result.reused for result in run_recipe(Recipe.model_validate(moved), quiet=True)), "only where they lie"
    with pytest.raises(StageChanged, match="cache_features"):
        run_recipe(plain.model_copy(update={"output": kept.output}), quiet=True)
