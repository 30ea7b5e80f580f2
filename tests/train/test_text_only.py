"""Where the projector learns alone, a batch of texts is a step that changes nothing; the plan says so before."""

import logging
from pathlib import Path

import pytest
import torch
from toy import recipe_for, stage, write_world

from moiety.train import plan, run_recipe
from moiety.vlm.model import load


@pytest.mark.parametrize(
    ("names", "train"),
    [
        (["texts.jsonl"], {"max_steps": 2}),
        (["captions.jsonl", "texts.jsonl"], {"max_steps": -1, "per_device_train_batch_size": 1}),
        (["captions.jsonl", "texts.jsonl"], {"max_steps": 2, "gradient_accumulation_steps": 3}),
    ],
)
def test_batches_of_texts_are_steps(
    names: list[str], train: dict[str, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_world(tmp_path, repeats=1)
    lines = (root / "questions.jsonl").read_text().splitlines(keepends=True)
    (root / "texts.jsonl").write_text("".join(line for line in lines if '"image"' not in line))
    recipe = recipe_for(root, stages=[stage("align", names, ["projector"], 2, train=train)])
    assert plan(recipe).stages[0].silent == 4
    with caplog.at_level(logging.WARNING, "moiety"):
        result = run_recipe(recipe, quiet=True)[0]
    assert "rows have no picture and teach nothing: it trains projector alone" in caplog.text
    assert result.metrics["steps"] == (8 if train["max_steps"] < 0 else 2)
    before, after = (dict(load(folder).named_parameters()) for folder in (root / "runs/scratch", result.folder))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert bool(changed) == (len(names) > 1)
    assert all("projector" in name for name in changed)
