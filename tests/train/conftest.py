"""One toy world and one run over it, shared by the tests of this folder."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy import recipe_for, write_world

from moiety.recipe.recipe import Recipe
from moiety.train import StageResult, run_recipe


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def finished(world: Path) -> tuple[Recipe, list[StageResult]]:
    """Both stages of the toy recipe, trained once."""
    recipe = recipe_for(world)
    return recipe, run_recipe(recipe, quiet=True)
