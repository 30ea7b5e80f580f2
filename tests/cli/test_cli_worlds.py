"""``moiety data make``: what it writes is what the recipes read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from moiety.recipe.recipe import load_recipe
from moiety.vlm.images import Images
from moiety.vlm.rows import load_rows

RECIPES = Path(__file__).parents[2] / "src" / "moiety" / "recipes"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("conflict", ("conflict", "--train", "50", "--test", "2", "--reading", "5", "--agreement", "1")),
        ("factorial", ("conflict", "--train", "50", "--test", "2", "--reading", "5")),
        ("containment", ("containment", "--train", "120", "--test", "4", "--names", "path")),
    ],
)
def test_a_made_world_is_what_its_recipe_reads(
    moiety: Callable[..., Result], tmp_path: Path, recipe: str, words: tuple[str, ...]
) -> None:
    kind, *options = words
    result = moiety("data", "make", kind, tmp_path, *options)
    assert result.exit_code == 0
    settings = load_recipe(RECIPES / f"{recipe}.yaml")
    images = Images([tmp_path / name for name in settings.data.images])
    files = [*(name for stage in settings.stages for name in stage.data), *settings.evaluate.data]
    rows = load_rows(tmp_path / name for name in dict.fromkeys(files))
    assert rows
    scratch = settings.model.scratch
    assert scratch is not None
    assert {images[row.images[0]].size for row in rows[:: len(rows) // 20]} == {(scratch.image_size,) * 2}


def test_a_world_that_cannot_be_is_refused(moiety: Callable[..., Result], tmp_path: Path) -> None:
    result = moiety("data", "make", "containment", tmp_path, "--form", "has_a")
    assert result.exit_code == 2
    assert "form='has_a' must be one of" in result.stderr
