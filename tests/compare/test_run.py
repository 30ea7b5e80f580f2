"""A whole comparison in miniature: shared base, shared rows, resumed, divided between processes."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from moiety.compare import markdown, run_compare
from moiety.recipe.recipe import Recipe, parse_recipe
from moiety.train import Progress
from moiety.worlds.scenes import write_scenes


def recipe(root: Path, output: Path, **compare: Any) -> Recipe:
    train = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1}
    sizes = dict.fromkeys(("hidden", "ffn", "vision_hidden", "vision_ffn"), 16) | dict.fromkeys(
        ("heads", "vision_heads"), 1
    )
    return parse_recipe(
        {
            "name": "miniature",
            "output": str(output),
            "model": {"scratch": {**sizes, "vocab": 300, "layers": 2, "vision_layers": 1, "image_size": 16}},
            "data": {"root": str(root), "images": ["images-train.tar", "images-test.tar"]},
            "stages": [
                {
                    "name": "base",
                    "data": ["conversations-caption-train.jsonl"],
                    "trains": ["vision_tower", "projector", "embeddings", "decoder", "head"],
                    "train": train,
                },
                {
                    "name": "sparse",
                    "data": ["conversations-train.jsonl"],
                    "trains": ["projector", "decoder", "router", "experts"],
                    "sparse": True,
                    "train": train,
                },
            ],
            "evaluate": {"data": ["conversations-test.jsonl"], "limit": 12, "max_new_tokens": 2},
            "compare": {"schemes": ["dense", "moiie"], "seeds": [0], **compare},
        }
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("world"), num_train=20, num_test=20, seed=0).folder


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    seen: list[str] = []

    def note(run: str, progress: Progress) -> None:
        seen.append(f"{run} {progress.step}/{progress.num_steps}")

    comparison = run_compare(recipe(world, output), on_progress=note)
    assert not comparison.missing
    patterns = [
        r"dense base: base",
        r"dense, seed 0: sparse",
        r"moiie, seed 0: sparse",
    ]
    for line, pattern in zip(seen, [f"{pattern} {step}/2" for pattern in patterns for step in (1, 2)], strict=True):
        assert re.fullmatch(pattern, line)
    return output


def test_everything_is_written(finished: Path) -> None:
    assert {path.name for path in finished.iterdir() if not path.name.startswith(".")} == {
        *("scratch", "base", "runs", "table.md", "table.csv", "results.json", "comparison.png", "report.html")
    }
    results = json.loads((finished / "results.json").read_text())
    records = {record["scheme"]: record for record in results["records"]}
    assert set(records) == {"dense", "moiie"}
    assert records["dense"]["training"]["tokens"] == records["moiie"]["training"]["tokens"] > 0
    assert records["dense"]["activated"] < records["moiie"]["activated"] < records["moiie"]["total"]
    assert records["moiie"]["blank"]["overall"]["num_values"] == 12
    assert set(results["floors"]) == set(records["moiie"]["evaluation"]["types"])
    assert "fewer activated parameters" in (finished / "table.md").read_text()
    assert (finished / "runs" / "moiie-seed0" / "sparse" / "config.json").is_file()


def test_a_finished_comparison_is_not_repeated(world: Path, finished: Path) -> None:
    comparison = run_compare(recipe(world, finished), on_progress=lambda run, progress: pytest.fail(run))
    assert len(comparison.records) == 2


def test_a_lost_run_alone_is_repeated_and_ends_the_same(world: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    shutil.copytree(finished, output)
    before = json.loads((output / "runs" / "moiie-seed0" / "result.json").read_text())
    shutil.rmtree(output / "runs" / "moiie-seed0")
    seen: set[str] = set()
    comparison = run_compare(recipe(world, output), on_progress=lambda run, progress: seen.add(run))
    assert seen == {"moiie, seed 0: sparse"}
    after = next(record for record in comparison.records if record.scheme == "moiie")
    assert after.evaluation["types"] == before["evaluation"]["types"]
    assert after.training["tokens"] == before["training"]["tokens"]


def test_a_run_in_other_hands_is_left_alone(world: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    shutil.copytree(finished, output)
    (output / "runs" / "moiie-seed0" / "result.json").unlink()
    with FileLock(output / "runs" / "moiie-seed0" / ".lock"):  # stands for the other process
        comparison = run_compare(recipe(world, output))
    assert comparison.missing == [("moiie", 0)]
    assert "without result: moiie seed 0" in (output / "table.md").read_text()


def test_another_recipe_is_refused(world: Path, finished: Path) -> None:
    changed = recipe(world, finished).model_dump()
    changed["evaluate"]["max_new_tokens"] = 3
    with pytest.raises(
        ValueError, match=r"result.json was made with other settings: evaluate.max_new_tokens was 2, is 3"
    ):
        run_compare(parse_recipe(changed))


def test_models_are_kept_as_asked(world: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    shutil.copytree(finished, output)
    shutil.rmtree(output / "runs")
    run_compare(recipe(world, output, schemes=["moiie"], keep_models="none"))
    assert not (output / "runs" / "moiie-seed0" / "sparse").exists()
    assert (output / "runs" / "moiie-seed0" / "result.json").is_file()


def test_dry_run_plans_and_leaves_nothing(world: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    comparison = run_compare(recipe(world, output), schemes=["moiie", "vanilla"], seeds=[3], dry_run=True)
    assert not output.exists()
    assert [row.scheme for row in comparison.rows] == ["moiie", "vanilla"]
    assert comparison.planned == comparison.missing == [("moiie", 3), ("vanilla", 3)]
    assert comparison.context["stages"][1]["steps"] == 2
    assert "vanilla" in markdown(comparison)


def test_messages(world: Path, tmp_path: Path) -> None:
    tree = recipe(world, tmp_path).model_dump()
    with pytest.raises(ValueError, match="recipe 'miniature' has no sparse stage"):
        run_compare(parse_recipe(tree | {"stages": tree["stages"][:1]}))
    with pytest.raises(ValueError, match=r"'miniature' names no questions; give evaluate\.data"):
        run_compare(parse_recipe(tree | {"evaluate": {}}))
    named = [tree["stages"][0], tree["stages"][1] | {"name": "runs"}]
    with pytest.raises(ValueError, match="a stage cannot be called 'runs'"):
        run_compare(parse_recipe(tree | {"stages": named}))


def test_variants_run_beside_schemes_and_one_training_answers_twice(
    world: Path, finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    shutil.copytree(finished, output)
    widths = {"hyp_dim": 4, "inter_ffn": 8, "vision_ffn": 8, "evidence_dim": 4, "context_dim": 8}
    ours = {"scheme": "asymoe", "moe": {"layers": "all", "asymoe": widths}, "budget": "own"}
    ours["evaluate"] = {"blank_image": False}
    variants = {
        "asymoe-own": ours,
        "asymoe-memory": ours | {"clamp_alpha": 0.98},
        "moiie-dola": {"evaluate": {"decoding": {"method": "dola"}, "blank_image": False}},
    }
    contrasts = {"whole": ["asymoe-own", "moiie"], "memory": {"asymoe-own": 1, "asymoe-memory": -1}}
    asked = recipe(world, output, schemes=["moiie", *variants], variants=variants, contrasts=contrasts)
    seen: list[str] = []
    comparison = run_compare(asked, on_progress=lambda run, progress: seen.append(run.split(",")[0]))
    assert not comparison.missing
    assert set(seen) == {"asymoe-own"}
    records = {record.scheme: record for record in comparison.records}
    assert records["moiie-dola"].training == records["moiie"].training
    assert records["moiie-dola"].blank is None
    assert records["moiie-dola"].settings["evaluate"]["decoding"]["method"] == "dola"
    assert records["asymoe-own"].settings["stages"][0]["moe"]["asymoe"]["hyp_dim"] == 4
    assert records["asymoe-memory"].training == records["asymoe-own"].training
    assert (output / "runs" / "asymoe-own-seed0" / "sparse" / "config.json").is_file()
    assert not (output / "runs" / "moiie-dola-seed0" / "sparse").exists()
    assert {contrast.name for contrast in comparison.contrasts()} == {"whole", "memory"}
    again = run_compare(asked, schemes=["moiie-dola"], on_progress=lambda run, progress: pytest.fail(run))
    assert len(again.records) == 4
    tree = asked.model_dump()
    tree["compare"]["variants"]["asymoe-memory"]["clamp_alpha"] = 0.5
    with pytest.raises(ValueError, match=r"made with other settings: evaluate.clamp_alpha was 0.98, is 0.5"):
        run_compare(parse_recipe(tree))


def test_types_of_contrasts_are_checked_before_anything_is_trained(world: Path, tmp_path: Path) -> None:
    asked = recipe(world, tmp_path, contrasts={"c": ["moiie", "dense"]}, contrast_types=["plase"])
    with pytest.raises(ValueError, match=r"contrast_types names 'plase', no type of question; .*did you mean 'place'"):
        run_compare(asked)
    assert not (tmp_path / "base").exists()
