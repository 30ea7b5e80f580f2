"""Recipes of the intent wing: every mistake is named at once, and variants are the recipe with little changed."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from moiety.cli.recipes import shipped
from moiety.intent.compare.floors import FLOOR_METHODS
from moiety.intent.metrics import closed_set_metrics
from moiety.intent.network.baselines import METHODS
from moiety.intent.recipe import (
    FLOORS,
    MEASURES,
    IntentRecipe,
    hidden_names,
    load_intent_recipe,
    parse_intent_recipe,
)
from moiety.recipe.reader import RecipeError
from tests.intent.small_folder import tree_of


def tree(**changes: Any) -> dict[str, Any]:
    """A valid recipe with dotted places replaced."""
    found = copy.deepcopy(tree_of(Path("data"), Path("out")))
    for place, value in changes.items():
        *path, last = place.split("__")
        node = found
        for part in path:
            node = node[part]
        node[last] = value
    return found


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("intent/")])
def test_shipped_recipes_are_valid_and_every_name_of_theirs_has_settings(name: str) -> None:
    recipe = load_intent_recipe(shipped()[name])
    for line in recipe.compare.methods:
        assert recipe.method_of(line) in (*METHODS, *FLOORS)
        assert recipe.model_of(line).hidden == recipe.model.hidden
        assert recipe.data_of(line).path == recipe.data.path


def test_names_of_floors_and_measures_are_those_that_exist() -> None:
    assert set(FLOORS) == set(FLOOR_METHODS)
    assert set(MEASURES) == set(closed_set_metrics(["a"], ["a"]))


def test_a_variant_changes_what_it_names_and_nothing_else() -> None:
    recipe = parse_intent_recipe(tree(compare__variants__mag2={"method": "mag", "model": {"hidden": 32}}))
    assert recipe.method_of("no_sync") == "amess"
    changed = recipe.model_of("no_sync").model_dump()
    assert changed | {"triplet_weight": 1.0} == recipe.model_of("amess").model_dump()
    assert (recipe.model_of("mag2").method, recipe.model_of("mag2").hidden) == ("mag", 32)
    assert recipe.data_of("history").given() == recipe.data.given() | {"view": "history", "history": 2}
    assert recipe.data_of("no_sync") == recipe.data_of("amess")


def test_overrides_reach_every_section(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(tree()))
    overrides = ["model.margin=0.5", "data.target=ui_ternary", "seeds=[3]", "compare.variants.no_sync.model.hidden=8"]
    recipe = load_intent_recipe(path, overrides)
    assert (recipe.model.margin, recipe.data.target, recipe.seeds) == (0.5, "ui_ternary", [3])
    assert recipe.model_of("no_sync").hidden == 8


def test_a_recipe_reads_itself_back() -> None:
    recipe = parse_intent_recipe(tree())
    written = recipe.model_dump(mode="json") | {"data": recipe.data.given()}
    assert IntentRecipe.model_validate(yaml.safe_load(yaml.safe_dump(written))) == recipe


WRONG = [
    ({"modle": {}}, "modle: unknown key; did you mean 'model'?"),
    ({"model__hiden": 3}, "model.hiden: unknown key; did you mean 'hidden'?"),
    ({"data__kind": "mosei"}, "data.kind: Input should be 'hazumi', 'mintrec', 'mintrec2' or 'clips' (given 'mosei')"),
    ({"data__target": "act"}, "data.target: unknown target 'act'; known: da, tc_ternary, ui_ternary"),
    ({"data": {"kind": "mintrec", "path": "x", "view": "tokens"}}, "view belongs to data of kind hazumi; kind is"),
    ({"data": {"kind": "mintrec", "path": "x", "cache": "c"}}, "cache belongs to data of kind clips"),
    ({"compare__methods": ["amess", "mulf"]}, "compare.methods names 'mulf'; known: "),
    ({"compare__methods": ["amess", "amess"]}, "'amess' is listed twice"),
    ({"compare__measures": ["f2"]}, "unknown measure 'f2'; "),
    ({"compare__hide": ["smell"]}, "cannot hide 'smell'; "),
    ({"compare__hide": ["text+audio+video"]}, "'text+audio+video' hides every modality; leave at least one"),
    ({"compare__contrasts": {"c": ["amess", "gone"]}}, "contrast 'c' names 'gone'; "),
    ({"compare__contrasts": {"c": {"amess": 1, "concat": -2}}}, "weights of contrast 'c' must sum to 0"),
    ({"compare__contrasts": {"c": ["amess"]}}, "contrast 'c' must be two names"),
    ({"compare__variants": {"a/b": {}}}, "variant 'a/b' names a folder"),
    ({"compare__variants__mult": {}}, "variant 'mult' has the name of a method"),
    ({"compare__variants__odd": {"method": "bert"}}, "variant 'odd' has method 'bert'; known: "),
    (
        {"compare__variants__odd": {"model": {"method": "mag"}}},
        "the method of a variant is given inside `model`; give it as `method`",
    ),
    (
        {"compare__variants__odd": {"data": {"path": "y"}}},
        "data of a variant names path, but all variants read the same rows; only view",
    ),
    ({"compare__variants__odd": {"data": {"audio": "prosody"}}}, "compare.variants.odd.data: 1 problem"),
    ({"compare__variants__odd": {"model": {"margin": -1}}}, "compare.variants.odd.model: 1 problem"),
    ({"seeds": [0, 0]}, "seeds must be distinct and 0 or more, got [0, 0]"),
    ({"seeds": [-1]}, "seeds must be distinct and 0 or more, got [-1]"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[str(next(iter(changes))) for changes, _ in WRONG])
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_intent_recipe(tree(**changes), "r.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yaml: 1 problem")


def test_all_mistakes_are_named_together() -> None:
    with pytest.raises(RecipeError, match="3 problems") as caught:
        parse_intent_recipe(tree(model__margin=-1, data__view="x", seeds=[]))
    assert all(place in str(caught.value) for place in ("model.margin", "data.view", "seeds"))


def test_hidden_names_refuse_what_they_do_not_know() -> None:
    assert hidden_names("audio + video") == ("audio", "video")
    with pytest.raises(ValueError, match="cannot hide 'sound'"):
        hidden_names("sound")
    with pytest.raises(ValueError, match="hides every modality"):
        hidden_names("text+video+audio")


def test_the_recipe_of_the_page_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "intent.md").read_text("utf-8")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL) if "compare:" in block]
    assert len(blocks) == 1
    recipe = parse_intent_recipe(yaml.safe_load(blocks[0]), "docs/intent.md")
    assert recipe.model_of("no_sync").triplet_weight == 0
