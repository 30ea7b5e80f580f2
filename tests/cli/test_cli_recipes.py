"""``moiety recipes`` and ``moiety env``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from moiety.cli.environment import HEAP, heap_hint
from moiety.cli.recipes import shipped

Run = Callable[..., Result]
RECIPE = """# A recipe for tests
name: small
output: out
model: {scratch: {hidden: 32, heads: 2}}
stages:
  - {name: words, data: [rows.jsonl], trains: [decoder]}
  - {name: experts, data: [rows.jsonl], trains: [experts, router], sparse: true}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def test_every_shipped_recipe_is_listed_and_valid(moiety: Run) -> None:
    listed = {entry["name"]: entry["about"] for entry in json.loads(moiety("recipes", "ls", "--json").stdout)}
    assert list(listed) == list(shipped())
    assert all(listed.values()), "the first line of a recipe says what it is for"
    assert moiety("recipes", "ls").exit_code == 0
    assert moiety("recipes", "validate", *listed).exit_code == 0


def test_a_recipe_is_copied_and_not_over_another(moiety: Run, tmp_path: Path) -> None:
    name = next(iter(shipped()))
    assert moiety("recipes", "cp", name, tmp_path).exit_code == 0
    copy = tmp_path / f"{name}.yaml"
    assert copy.read_bytes() == shipped()[name].read_bytes()
    again = moiety("recipes", "cp", name, tmp_path)
    assert again.exit_code == 2
    assert again.stderr == f"error: {copy} exists; choose another name or give --overwrite\n"
    assert moiety("recipes", "cp", name, tmp_path, "--overwrite").exit_code == 0


def test_an_unknown_recipe_names_the_nearest(moiety: Run) -> None:
    name = next(iter(shipped()))
    result = moiety("recipes", "cp", name[:-1])
    assert result.exit_code == 2
    assert f"no recipe file {name[:-1]} and no recipe of that name in the package; known: " in result.stderr
    assert f"did you mean {name!r}?" in result.stderr


def test_validate_shows_scheme_and_stages(moiety: Run, recipe: Path) -> None:
    result = moiety("recipes", "validate", recipe)
    assert result.exit_code == 0
    assert "ok · scheme moiie · stages words, experts (sparse)" in result.stdout


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("moe.top_kk=2", "moe.top_kk: unknown key; did you mean 'top_k'?"),
        ("moe.top_k='2'", "moe.top_k: Input should be a valid integer (given '2')"),
        ("moe.scheme=moie", "moe: unknown scheme 'moie'; known: "),
        ("moe.top_k=9", "moe: top_k=9, but tokens of modality group 'vision' see 3 experts in "),
        ("moe.experts={vision: 0, inter: 0, text: 1}", "moe: tokens of modality group 'vision' see no expert in "),
        ("compare.schemes=[moie]", "cannot compare scheme 'moie'; known: "),
        ("compare.contrasts.gain=[moiie, vanila]", "contrast 'gain' names 'vanila'; known: "),
        ("compare.variants.odd={scheme: moie}", "compare.variants.odd.scheme is 'moie', no routing scheme; known: "),
        ("compare.variants.odd={scheme: dense, moe: {top_k: 1}}", "compare.variants.odd is dense: it has no experts"),
        ("nonsense", "override 'nonsense' is not of the form key=value"),
    ],
)
def test_validate_refuses(moiety: Run, recipe: Path, override: str, text: str) -> None:
    result = moiety("recipes", "validate", recipe, "--set", override)
    assert result.exit_code == 1
    assert text in result.stderr
    assert "Traceback" not in result.output


def test_validate_goes_on_behind_a_bad_recipe(moiety: Run, recipe: Path, tmp_path: Path) -> None:
    result = moiety("recipes", "validate", tmp_path / "gone.yaml", recipe)
    assert result.exit_code == 1
    assert "ok · scheme moiie" in result.stdout
    assert "no recipe file" in result.stderr


def test_env_reports_versions_and_devices(moiety: Run) -> None:
    import torch

    found = json.loads(moiety("env", "--json").stdout)
    assert found["packages"]["torch"] == torch.__version__
    assert found["cpu"]["threads"] == torch.get_num_threads()
    assert "torch" in moiety("env").stdout


def test_the_heap_hint_ends_when_it_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HEAP.items():
        monkeypatch.setenv(name, value)
    assert heap_hint() is None
