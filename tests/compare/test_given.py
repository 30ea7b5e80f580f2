"""A comparison from a model that somebody else trained: nothing is lost unsaid, and one run is in memory at a time."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from moiety.compare import run_compare
from moiety.recipe.recipe import Recipe, RecipeError, parse_recipe
from moiety.train import Progress
from moiety.vlm.damage import DamageError
from moiety.worlds.scenes import write_scenes
from tests.model_folders import dense_folder

NARROW = {"narrow": {"moe": {"expert_ffn": 8}, "budget": "own"}}
FULL = {"asymmetric": {"scheme": "asymoe", "moe": {"asymoe": {"size_plan": "full"}}}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("world"), num_train=20, num_test=20, seed=0).folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense LLaVA whose config does not say that moiety built it, and whose projector is not as it was drawn."""
    folder = tmp_path_factory.mktemp("given") / "llava"
    shutil.copytree(dense_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("provenance")["origin"] == "scratch"
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    moved = {name: tensor + 1e-3 for name, tensor in weights.items() if "multi_modal_projector" in name}
    save_file({**weights, **moved}, folder / "model.safetensors", {"format": "pt"})
    return folder


def recipe(world: Path, output: Path, source: Path, **changes: Any) -> Recipe:
    train = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "save_steps": 1}
    tree: dict[str, Any] = {
        "name": "given",
        "output": str(output),
        "model": {"source": str(source)},
        "data": {"root": str(world), "images": ["images-train.tar", "images-test.tar"]},
        "stages": [
            {
                "name": "questions",
                "data": ["conversations-train.jsonl"],
                "trains": ["projector", "router", "experts"],
                "sparse": True,
                "train": train,
            }
        ],
        "evaluate": {"data": ["conversations-test.jsonl"], "limit": 12, "max_new_tokens": 2},
        "compare": {"schemes": ["dense", "vanilla", "moiie"], "seeds": [0]},
    }
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if isinstance(value, dict) else value
    return parse_recipe(tree)


def with_stage(tree: Recipe, **changes: Any) -> list[dict[str, Any]]:
    return [{**stage.model_dump(), **changes} for stage in tree.stages]


@pytest.fixture(scope="module")
def finished(world: Path, given: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three schemes from a given base, in a recipe without a dense stage; stopped in the second step of the second."""
    output = tmp_path_factory.mktemp("finished") / "output"
    asked, alive, seen = recipe(world, output, given), set(), []

    def note(run: str, progress: Progress) -> None:
        alive.add(sum(isinstance(found, LlavaForConditionalGeneration) for found in gc.get_objects()))
        seen.append(f"{run} {progress.step}")
        if seen == ["dense, seed 0: questions 1", "dense, seed 0: questions 2", "vanilla, seed 0: questions 1"]:
            return
        if seen[-1] == "vanilla, seed 0: questions 2" and len(seen) == 4:
            raise KeyboardInterrupt

    gc.collect()
    before = sum(isinstance(found, LlavaForConditionalGeneration) for found in gc.get_objects())
    with pytest.raises(KeyboardInterrupt):
        run_compare(asked, on_progress=note)
    planned = {run["scheme"]: run for run in run_compare(asked, dry_run=True).context["runs"]}
    assert [planned[name]["state"] for name in ("dense", "vanilla", "moiie")] == ["finished", "goes on", "to do"]
    assert planned["vanilla"]["stages"] == {"questions": "goes on after step 1", "answers": "to do"}
    gc.collect()
    seen.clear()
    assert not run_compare(asked, on_progress=note).missing
    assert seen == [f"{run}, seed 0: questions {step}" for run, step in (("vanilla", 2), ("moiie", 1), ("moiie", 2))]
    assert alive == {before + 1}, "a model of an earlier run was still in memory"
    return output


def test_no_dense_stage_is_needed_and_the_page_says_what_is_kept(finished: Path) -> None:
    assert {path.name for path in finished.iterdir() if not path.name.startswith(".")} == {
        *("runs", "table.md", "table.csv", "results.json", "comparison.png", "report.html")
    }
    results = json.loads((finished / "results.json").read_text())
    before = results["base"]["text_loss"]
    assert results["base"]["num_texts"] == 12
    assert {row["starts_as_dense"] for row in results["schemes"]} == {True}
    for row in results["schemes"]:
        assert row["start_text_loss"] == pytest.approx(before, rel=1e-4)
    for record in results["records"]:
        learned = record["text_loss"] != pytest.approx(before, rel=1e-6)
        assert learned == (record["scheme"] != "dense"), "the stage trains no part of the dense language model"
        assert record["text_loss"] == pytest.approx(before, abs=1)
        assert record["blank"]["overall"]["num_values"] == 12
    page, table = (finished / "report.html").read_text(), (finished / "table.md").read_text()
    for text in (page, table):
        assert "All schemes start as the dense model: before training they compute the same." in text
        assert "language kept (text loss before → after)" in text
    after = next(record["text_loss"] for record in results["records"] if record["scheme"] == "moiie")
    assert f"| moiie | yes | {before:.3f} | {before:.3f} → {after:.3f} |" in table
    assert f"Loss of plain text: {before:.3f} in the dense model," in page
    assert "dense passes each token through" in page
    assert results["floors"]


def test_nothing_is_repeated_or_measured_again(
    world: Path, given: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        pytest.fail("a model was loaded")

    for module in ("starts", "arm"):
        monkeypatch.setattr(f"moiety.compare.{module}.load", loaded)
    asked = recipe(world, finished, given)
    again = run_compare(asked, on_progress=lambda run, progress: pytest.fail(run))
    assert len(again.records) == 3
    assert all(row.start_text_loss for row in again.rows)


def test_other_texts_are_another_measurement(world: Path, given: Path, finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "world"
    shutil.copytree(world, root)
    (root / "texts.txt").write_text("A ship left the harbour at night.\n\nIt came back in spring.\n")
    own = recipe(root, tmp_path / "own", given, evaluate={"texts": "texts.txt"}, compare={"schemes": ["dense"]})
    comparison = run_compare(own)
    assert comparison.base.num_texts == 2
    assert comparison.base.text_loss != json.loads((finished / "results.json").read_text())["base"]["text_loss"]
    with pytest.raises(
        ValueError, match=r"made with other settings: evaluate.texts was 'texts.txt', is None; evaluate.pl"
    ):
        run_compare(recipe(root, tmp_path / "own", given, compare={"schemes": ["dense"]}))
    with pytest.raises(FileNotFoundError, match=r"none\.txt is not in"):
        run_compare(recipe(root, tmp_path / "none", given, evaluate={"texts": "none.txt"}), dry_run=True)


def test_a_plan_names_runs_memory_and_what_is_not_equal(world: Path, given: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    asked = recipe(world, output, given, compare={"schemes": ["vanilla", "moiie", *FULL], "variants": FULL})
    comparison = run_compare(asked, seeds=[0, 1], dry_run=True)
    assert not output.exists()
    assert comparison.base.folder == given
    rows = {row.scheme: row for row in comparison.rows}
    assert all(row.starts_as_dense for row in rows.values())
    assert rows["asymmetric"].widths["vision"] == rows["asymmetric"].widths["text"] == 48
    assert "more activated parameters" in rows["asymmetric"].budget_remark
    memory = comparison.context["memory"]
    assert memory["asymmetric"]["parameters"] > memory["moiie"]["parameters"] > 0
    assert memory["vanilla"]["activations"] > 0
    runs = [(run["name"], run["stages"]["questions"], run["state"]) for run in comparison.context["runs"]]
    assert runs[:3:2] == [("vanilla-seed0", "to do", "to do"), ("moiie-seed0", "to do", "to do")]
    assert len(runs) == 6


def test_what_cannot_be_equal_is_named_in_the_report_and_in_verdicts(
    world: Path, given: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contrasts = {"gain": ["asymmetric", "moiie"]}
    compare = {"schemes": ["moiie", *FULL], "variants": FULL, "contrasts": contrasts, "seeds": [0, 1]}
    with caplog.at_level("INFO", logger="moiety.compare.run"):
        comparison = run_compare(recipe(world, tmp_path / "output", given, compare=compare))
    row = comparison.rows[1]
    sentence = (
        f"asymmetric passes each token through {row.activated:,} parameters, {100 * row.relative_difference:.1f} % "
        "more than moiie: its experts are as wide as the dense FFN and have more parts, so that it can start as the "
        "dense model. A difference between the two may come from size alone."
    )
    assert sentence in caplog.text
    assert sentence in (tmp_path / "output" / "report.html").read_text()
    assert row.start_text_loss == pytest.approx(comparison.base.text_loss, rel=1e-4)
    assert all(f"asymmetric: {row.budget_remark}" in found.sentence for found in comparison.reference_minus_others())
    assert f"asymmetric: {row.budget_remark}" in comparison.contrasts()[0].numbers


def test_a_scheme_that_loses_what_the_model_knew_stops_before_any_training(
    world: Path, given: Path, tmp_path: Path
) -> None:
    compare = {"schemes": ["moiie", *NARROW], "variants": NARROW}
    asked = recipe(world, tmp_path / "output", given, compare=compare)
    planned = run_compare(asked, dry_run=True)
    assert {row.scheme: row.starts_as_dense for row in planned.rows} == {"moiie": True, "narrow": False}
    assert planned.base.stops
    dense = {**asked.stages[0].model_dump(), "name": "captions", "sparse": False, "trains": ["projector"]}
    for stages in (with_stage(asked), [dense, *with_stage(asked)]):
        with pytest.raises(DamageError, match=r"compare.schemes names 'narrow': moiie with these .* `recovers: true`"):
            run_compare(
                recipe(world, tmp_path / "output", given, compare=compare, stages=stages),
                on_progress=lambda run, progress: pytest.fail(run),
            )
    run_compare(asked, schemes=["moiie"])  # nobody asked for the scheme that stops


def test_a_verdict_waits_for_a_stage_that_brings_back_what_was_lost(world: Path, given: Path, tmp_path: Path) -> None:
    compare = {
        "schemes": ["vanilla", "moiie", *NARROW],
        "variants": NARROW,
        "contrasts": {"width": ["moiie", "narrow"], "router": ["moiie", "vanilla"]},
        "contrast_types": ["mean of types"],
        "seeds": [0, 1],
    }
    asked = recipe(world, tmp_path / "output", given, compare=compare, model={"allow_damage": True})
    comparison = run_compare(asked)
    narrow = comparison.rows[2]
    assert narrow.start_text_loss != pytest.approx(comparison.base.text_loss, rel=1e-3)
    why = "no verdict: narrow does not start as the dense model and moiie does"
    verdicts = {(found.second, found.verdict == why) for found in comparison.reference_minus_others()}
    assert verdicts == {("vanilla", False), ("narrow", True)}
    contrasts = {found.name: found for found in comparison.contrasts()}
    assert contrasts["width"].verdict == why
    assert "p = " not in contrasts["width"].numbers
    assert contrasts["router"].verdict != why
    page = (tmp_path / "output" / "report.html").read_text()
    assert "No verdict is given between such a scheme and one that does" in page
    assert "no verdict where narrow does not start as the dense model and moiie does" in page
    assert "without a verdict because the schemes start differently" in page

    stages = with_stage(asked, recovers=True)
    fewer = {**compare, "schemes": ["moiie", *NARROW], "contrasts": {"width": ["moiie", "narrow"]}}
    healed = run_compare(recipe(world, tmp_path / "healed", given, compare=fewer, stages=stages))
    assert healed.base.recovery == "questions"
    assert not any(found.withheld for found in [*healed.reference_minus_others(), *healed.contrasts()])
    assert "Stage &#x27;questions&#x27; is there to bring this back" in healed.report.read_text()


def test_dense_stages_of_a_given_model_run_once_for_all(world: Path, given: Path, tmp_path: Path) -> None:
    asked = recipe(world, tmp_path / "output", given)
    dense = {**asked.stages[0].model_dump(), "name": "captions", "sparse": False, "trains": ["projector"]}
    seen: list[str] = []
    compare = {"schemes": ["vanilla", "moiie"]}
    whole = recipe(world, tmp_path / "output", given, stages=[dense, *with_stage(asked)], compare=compare)
    comparison = run_compare(whole, on_progress=lambda run, progress: seen.append(run))
    assert seen.count("dense base: captions") == 2
    assert comparison.base.folder == tmp_path / "output" / "captions"
    states = {stage["name"]: stage["state"] for stage in run_compare(whole, dry_run=True).context["stages"]}
    assert states["captions"] == "finished"
    (tmp_path / "output" / "runs" / "starts.json").write_text("{")  # damaged: measured again
    assert run_compare(whole).base.text_loss == comparison.base.text_loss
    # the result is a finished folder, and a second comparison starts from it
    second = recipe(world, tmp_path / "second", tmp_path / "output" / "captions", compare=compare)
    assert run_compare(second, schemes=["moiie"]).base.text_loss == comparison.base.text_loss


def test_a_projector_that_nothing_trained_is_refused_in_the_plan(world: Path, tmp_path: Path) -> None:
    asked = recipe(world, tmp_path / "output", dense_folder())
    for dry in (True, False):
        with pytest.raises(
            RuntimeError, match=r"stage 'questions' is sparse, but the projector of .* was never trained"
        ):
            run_compare(asked, dry_run=dry)
    outside = tmp_path / "outside"
    shutil.copytree(dense_folder(), outside)
    config = json.loads((outside / "config.json").read_text())
    (outside / "config.json").write_text(json.dumps({**config, "provenance": None}))
    drawn = recipe(world, tmp_path / "other", outside)
    with pytest.raises(RuntimeError, match=r"looks as if it was never trained.* model\.trained_projector=true"):
        run_compare(drawn, dry_run=True)
    told = recipe(world, tmp_path / "other", outside, model={"trained_projector": True})
    assert run_compare(told, dry_run=True).rows


def test_only_a_sparse_stage_brings_back(world: Path, given: Path, tmp_path: Path) -> None:
    asked = recipe(world, tmp_path, given)
    with pytest.raises(
        RecipeError, match="stage 'questions' is dense, so no scheme has lost anything; leave `recovers`"
    ):
        recipe(world, tmp_path, given, stages=with_stage(asked, sparse=False, recovers=True))
