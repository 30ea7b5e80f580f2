"""JSON of others: every mistake is one kind of error, wherever it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moiety.evaluate.benchmarks.files.questions import read_json, read_lines
from moiety.recipe.reader import RecipeError, parse_value, read_tree
from moiety.records.json_reader import parse_json
from moiety.vlm.rows import load_rows

DEEP = (
    "[" * 100_000,
    '{"a":' * 100_000,
    "[" * 100_000 + "]" * 100_000,
    '{"id": ' + "[" * 100_000 + "]" * 100_000 + "}",
)


@pytest.mark.parametrize("text", DEEP, ids=["open lists", "open objects", "whole", "inside"])
def test_brackets_without_end(text: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(json.JSONDecodeError, match="brackets are nested too deeply, some hundred levels are read"):
            parse_json(given)


def test_everything_else_is_json_s_own() -> None:
    assert parse_json("[" * 50 + "]" * 50) == json.loads("[" * 50 + "]" * 50)
    with pytest.raises(json.JSONDecodeError, match="Expecting value"):
        parse_json("")


DOORS: dict[str, Callable[[Path], Any]] = {
    "benchmark": read_json,
    "benchmark lines": lambda path: list(read_lines(path)),
    "conversations": lambda path: load_rows([path]),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("text", DEEP, ids=["open lists", "open objects", "whole", "inside"])
def test_every_door_names_the_file(tmp_path: Path, door: str, text: str) -> None:
    file = tmp_path / "deep.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"deep\.json"):
        DOORS[door](file)


def test_a_deep_recipe(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("model: " + "[" * 1500)
    with pytest.raises(RecipeError, match=r"deep\.yaml is nested too deeply; a recipe needs some five levels"):
        read_tree(file, ["model"])
    with pytest.raises(RecipeError, match=r"is not a YAML value"):
        parse_value("[" * 1500)
