"""The demo's own parts and, in miniature, its whole way from scenes to the report."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moiety.demo import READING, RECIPE, run_demo
from moiety.recipe.recipe import Recipe, load_recipe


def miniature(recipe: Recipe) -> Recipe:
    """The demo's recipe with two steps a stage, the smallest model and two schemes."""
    tree: dict[str, Any] = recipe.model_dump()
    tree["model"]["scratch"] |= dict.fromkeys(("hidden", "ffn", "vision_hidden", "vision_ffn"), 16)
    tree["model"]["scratch"] |= {"heads": 1, "vision_heads": 1, "layers": 2, "vision_layers": 1}
    for stage in tree["stages"]:
        stage["train"] |= {"max_steps": 2, "per_device_train_batch_size": 4}
    tree["evaluate"] |= {"limit": 12}
    tree["compare"] |= {"schemes": ["dense_wide", "moiie"]}
    return Recipe.model_validate(tree)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    return run_demo(folder, recipe=miniature(load_recipe(RECIPE)), num_train=40, num_test=20)


def test_demo_ends_in_one_page_with_both_pictures(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert "Which expert of moiie read which patch" in page
    assert "moiie − dense_wide" in page
    with Image.open(report.parent / "experts.png") as picture:
        assert min(picture.size) > 50


def test_reading_rows_ask_where_digits_are(report: Path) -> None:
    scenes = report.parent / "scenes"
    rows = [json.loads(line) for line in (scenes / READING).read_text().splitlines()]
    all_rows = [json.loads(line) for line in (scenes / "conversations-train.jsonl").read_text().splitlines()]
    assert rows == [row for row in all_rows if row["type"] == "place"]


def test_demo_goes_on_where_it_was(report: Path) -> None:
    before = (report.parent / "runs" / "moiie-seed0" / "result.json").stat().st_mtime_ns
    again = run_demo(
        report.parent,
        recipe=miniature(load_recipe(RECIPE)),
        num_train=40,
        num_test=20,
        on_progress=lambda run, progress: pytest.fail(run),
    )
    assert again == report
    assert (report.parent / "runs" / "moiie-seed0" / "result.json").stat().st_mtime_ns == before
