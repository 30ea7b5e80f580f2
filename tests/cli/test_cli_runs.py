"""``moiety train`` and ``compare`` from the first word to the last table, on a recipe of seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from moiety.cli.door import progress_line
from moiety.cli.options import numbers, split

Run = Callable[..., Result]
RECIPE = """# Two stages and a comparison in seconds
name: small
output: {output}
model: {{scratch: {{vocab: 300, hidden: 32, ffn: 32, heads: 2, layers: 2, vision_hidden: 32, vision_ffn: 32,
  vision_heads: 2, vision_layers: 1, image_size: 32, patch_size: 8}}}}
data: {{root: {root}, images: [.]}}
stages:
  - {{name: words, data: [rows.jsonl], trains: [decoder, projector, embeddings, head],
     train: {{max_steps: 2, per_device_train_batch_size: 2, learning_rate: 1e-3}}}}
  - {{name: experts, data: [rows.jsonl], trains: [experts, router], sparse: true,
     train: {{max_steps: 2, per_device_train_batch_size: 2, learning_rate: 1e-3}}}}
evaluate: {{data: [rows.jsonl], max_new_tokens: 1}}
compare: {{schemes: [vanilla, moiie], seeds: [0]}}
"""


@pytest.fixture
def recipe(rows: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(output=tmp_path / "out", root=rows.parent))
    return path


def test_train_plans_runs_and_keeps_what_is_finished(moiety: Run, recipe: Path, tmp_path: Path) -> None:
    planned = moiety("train", recipe, "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert "plan of small" in planned.stdout
    assert not (tmp_path / "out").exists()
    early = moiety("train", recipe, "--stage", "experts")
    assert early.exit_code == 2
    assert "stage 'words' is not finished" in early.stderr
    result = moiety("train", recipe, "stages.experts.train.max_steps=1")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("trained") == 2
    assert f"talk to it: moiety demo-app {tmp_path / 'out' / 'experts'}" in result.stderr
    assert "Loading weights" not in result.stderr
    assert "receipt" not in result.stderr
    assert "words: step 2/2" in result.stderr
    again = json.loads(moiety("train", recipe, "--set", "stages.experts.train.max_steps=1", "--json").stdout)
    assert [stage["reused"] for stage in again] == [True, True]
    assert moiety("params", again[1]["folder"]).exit_code == 0


def test_train_refuses_an_unknown_key_and_an_unknown_stage(moiety: Run, recipe: Path) -> None:
    result = moiety("train", recipe, "stages.words.train.learning_rat=1")
    assert result.exit_code == 2
    assert "learning_rat: unknown key; did you mean 'learning_rate'?" in result.stderr
    other = moiety("train", recipe, "--stage", "expert")
    assert other.exit_code == 2
    assert "no stage 'expert' in recipe 'small'; its stages are words, experts" in other.stderr


def test_compare_plans_without_a_file(moiety: Run, recipe: Path, tmp_path: Path) -> None:
    result = moiety("compare", recipe, "moe.top_k=2", "--schemes", "moiie, vanilla", "--seeds", "0,1", "--dry-run")
    assert result.exit_code == 0, result.stderr
    for run in ("moiie-seed0", "moiie-seed1", "vanilla-seed0", "vanilla-seed1"):
        assert run in result.stdout
    assert "4 of 4 runs to do" in result.stdout
    assert not (tmp_path / "out").exists()
    one = moiety("compare", recipe, "--schemes", "moiie", "--seeds", "7", "--dry-run").stdout
    assert "moiie-seed7" in one
    assert "1 of 1 runs to do" in one
    assert "vanilla" not in one


def test_compare_shows_what_was_asked_and_ends_with_what_to_do(moiety: Run, recipe: Path, tmp_path: Path) -> None:
    first = moiety("compare", recipe, "--schemes", "moiie", "--seeds", "0")
    assert first.exit_code == 0, first.stderr
    assert "1 of 1 runs are finished." in first.stdout
    assert "vanilla" not in first.stdout
    assert first.stderr.splitlines()[-1].startswith("  moiety inspect ")
    model = tmp_path / "out" / "runs" / "moiie-seed0" / "experts"
    assert f"  moiety demo-app {model}\n" in first.stderr
    assert "moiie, seed 0: run 1 of 1\n" in first.stderr
    assert "Loading weights" not in first.stderr
    planned = moiety("compare", recipe, "--dry-run").stdout
    assert "1 of 2 runs to do" in planned
    second = moiety("compare", recipe, "--schemes", "vanilla")
    assert "2 of 2 runs are finished." in second.stdout, "what others of the recipe have finished is shown, too"
    assert "moiie" in second.stdout


@pytest.mark.parametrize("verb", ["compare", "train"])
@pytest.mark.parametrize("name", ["conflict", "factorial", "containment"])
def test_data_that_are_not_made_yet_are_named_with_what_makes_them(
    moiety: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    world = "containment" if name == "containment" else "conflict"
    for words in ((), ("--dry-run",)):
        result = moiety(verb, name, *words)
        assert result.exit_code == 2
        assert f"`moiety data make {world} runs/{world}/world`" in result.stderr
    assert list(tmp_path.iterdir()) == []
    elsewhere = moiety(verb, name, "data.root=my world")
    assert f"are not in my world; write the data of this recipe with `moiety data make {world} my world`" in (
        elsewhere.stderr
    )
    own = moiety(verb, name, "data.made_by=")
    assert "a recipe's files are relative to data.root: give data.root=FOLDER" in own.stderr


def test_compare_refuses_what_it_cannot_read(moiety: Run, recipe: Path) -> None:
    result = moiety("compare", recipe, "--seeds", "one")
    assert (result.exit_code, result.stderr) == (
        2, "error: --seeds 'one': expected whole numbers with commas, for instance 0,1,2\n"
    )  # fmt: skip
    result = moiety("compare", recipe, "--schemes", "moie", "--dry-run")
    assert result.exit_code == 2
    assert "did you mean 'moiie'?" in result.stderr


def test_lists_of_the_command_line() -> None:
    assert split(None) is None
    assert split("a, b,") == ["a", "b"]
    assert numbers("2,0") == [2, 0]


def test_progress_in_a_file_is_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    update = progress_line("rows")
    for done in range(1, 1001):
        update(done, 1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "rows 100/1,000"
    assert lines[-1] == "rows 1,000/1,000"
    assert len(lines) == 10
