"""``moiety data``: every bad row is named, and nothing else is said to be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests import model_folders

Run = Callable[..., Result]
RECIPE = """name: small
output: {output}
model: {{scratch: {{vocab: 300, hidden: 32, ffn: 32, heads: 2, layers: 2, vision_hidden: 32, vision_ffn: 32,
  vision_heads: 2, vision_layers: 1, image_size: 32, patch_size: 8}}}}
data: {{root: {root}, images: [.], max_length: {length}}}
stages:
  - {{name: words, data: [rows.jsonl], trains: [decoder, projector]}}
  - {{name: again, data: [rows.jsonl], trains: [projector]}}
  - {{name: experts, data: [rows.jsonl], trains: [experts, router], sparse: true, merge_turns: true}}
evaluate: {{data: [rows.jsonl]}}
"""


@pytest.fixture
def bad_rows(rows: Path) -> Path:
    good = rows.read_text()
    bad = [
        good.splitlines()[0],
        json.dumps(model_folders.row("gone", "Which?", "none") | {"image": "gone.png"}),
        "{not json",
        json.dumps(model_folders.row("empty", "Which?", "")),
    ]
    rows.write_text(good + "\n".join(bad) + "\n")
    return rows


def test_good_rows_show_a_sample_and_pass(moiety: Run, rows: Path, dense: Path) -> None:
    result = moiety("data", "check", rows, "--model", dense)
    assert result.exit_code == 0
    assert "1 image" in result.stdout
    assert "<image> x 16" in result.stdout
    assert "yes</s>" in result.stdout
    assert "no problems" in result.stdout


def test_every_bad_row_is_named_with_its_line(moiety: Run, bad_rows: Path, dense: Path, tmp_path: Path) -> None:
    result = moiety("data", "check", bad_rows, "--model", dense, "--fix-list", tmp_path / "lists" / "bad.txt")
    assert result.exit_code == 1
    for line, text in [
        (3, "row 'one': the same row with the same id stands already in"),
        (4, "row 'gone': picture 'gone.png' is missing"),
        (5, "not JSON"),
        (6, "row 'empty': turn 2: the answer is empty"),
    ]:
        assert f"{bad_rows}:{line}: {text}" in result.stdout
    assert "4 problems in 4 rows" in result.stdout
    head, *lines = (tmp_path / "lists" / "bad.txt").read_text().splitlines()
    assert head.startswith("# rows to pass over: file:line, fingerprint, id")
    assert [line.split("\t")[0] for line in lines] == [f"../rows.jsonl:{number}" for number in (3, 4, 5, 6)]
    assert [line.split("\t")[2] for line in lines] == ["one", "gone", "", "empty"]


def test_a_list_of_bad_rows_leaves_the_others(moiety: Run, bad_rows: Path, tmp_path: Path) -> None:
    recipe, bad = tmp_path / "small.yaml", bad_rows.parent / "bad.txt"
    recipe.write_text(RECIPE.format(output=tmp_path / "out", root=bad_rows.parent, length=64))
    assert moiety("data", "check", recipe, "--fix-list", bad).exit_code == 1
    result = moiety("data", "check", recipe, "--set", "data.skip=bad.txt", "--set", "evaluate.data=[]", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["problems"]) == (0, [])
    assert {part["rows"] for part in found["rows"].values()} == {2}


def test_rows_that_share_an_id_are_noted(moiety: Run, rows: Path, dense: Path) -> None:
    rows.write_text(rows.read_text() + json.dumps(model_folders.row("one", "Again?", "no")) + "\n")
    result = moiety("data", "check", rows, "--model", dense)
    assert result.exit_code == 0
    assert "note: 2 rows share 1 ids, for instance 'one' in" in result.stdout
    assert "no problems" in result.stdout


def test_json_holds_the_same(moiety: Run, bad_rows: Path) -> None:
    result = moiety("data", "check", bad_rows, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [problem["line"] for problem in found["problems"]] == [3, 4, 5, 6]
    assert found["rows"]["rows.jsonl"]["rows"] == 6
    assert "without --model, rows are read with a small tokenizer" in result.stderr


def test_a_recipe_checks_all_its_stages_and_questions(moiety: Run, rows: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE.format(output=tmp_path / "out", root=rows.parent, length=64))
    found = json.loads(moiety("data", "stats", recipe, "--json").stdout)
    pictures = {name: part["tokens"]["image"] for name, part in found.items()}
    assert pictures == {"stages words, again": 32, "stage experts": 16, "evaluate": 32}
    sound = moiety("data", "check", recipe)
    assert sound.exit_code == 0
    for word in ("memory", "activations", "longest row", "GiB of one training process"):
        assert word in sound.stdout
    needs = json.loads(moiety("data", "check", recipe, "--json").stdout)["memory"]
    assert set(needs) == {"words", "again", "experts"}
    for found in needs.values():
        parts = ("parameters", "gradients", "optimizer", "activations")
        assert found["total"] == pytest.approx(sum(found[part] for part in parts))
        assert found["activations"] > 0
    short = moiety("data", "check", recipe, "--set", "data.max_length=20")
    assert short.exit_code == 1
    assert "data.max_length is 20; raise it to" in short.stdout


def test_stats_count_kinds_and_draw_lengths(moiety: Run, rows: Path, dense: Path) -> None:
    result = moiety("data", "stats", rows, "--model", dense)
    assert result.exit_code == 0
    for word in ("exist", "place", "tokens of a row", "█"):
        assert word in result.stdout


def test_a_missing_file_is_an_error_not_a_finding(moiety: Run, tmp_path: Path) -> None:
    result = moiety("data", "check", tmp_path / "gone.jsonl")
    assert result.exit_code == 2
    assert "no conversation file at" in result.stderr


def test_open_writes_words_for_letters(moiety: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "letters.jsonl", tmp_path / "words.jsonl"
    row = model_folders.row("one", "Which?\nA. red\nB. blue\nAnswer with the letter.", "B") | {
        "choices": ["red", "blue"]
    }
    source.write_text(json.dumps(row) + "\n")
    result = moiety("data", "open", source, target, "--instruction", "One word.")
    assert result.exit_code == 0
    assert "1 questions without their options, 0 rows as they were" in result.stderr
    made = json.loads(target.read_text())
    assert made["conversations"][0]["value"].endswith("Which?\nOne word.")
    assert made["conversations"][1]["value"] == "blue"


def test_open_names_a_row_that_has_no_such_option(moiety: Run, tmp_path: Path) -> None:
    source = tmp_path / "letters.jsonl"
    row = model_folders.row("one", "Which?\nA. red\nB. blue", "C") | {"choices": ["red", "blue"]}
    source.write_text(json.dumps(row) + "\n")
    result = moiety("data", "open", source, tmp_path / "words.jsonl")
    assert result.exit_code == 2
    assert "row 'one': answer 'C' names none of its choices red, blue" in result.stderr
    assert not (tmp_path / "words.jsonl").exists()
