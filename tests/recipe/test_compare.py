"""Section ``compare``: variants and contrasts are read, merged and refused before anything runs."""

import re
from typing import Any

import pytest

from moiety.recipe.compare import CompareSettings, VariantSettings
from moiety.recipe.recipe import MoESettings, Recipe, RecipeError, parse_recipe


def recipe(moe: dict[str, Any] | None = None, **compare: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "toy",
            "output": "unused",
            "model": {"source": "unused"},
            "moe": moe or {},
            "stages": [{"name": "a", "data": ["a.jsonl"], "trains": ["experts"], "sparse": True}],
            "compare": compare,
        }
    )


def test_a_variant_keeps_what_it_does_not_change() -> None:
    reference = MoESettings(scheme="asymoe", asymoe={"eta": 0.9, "cone_k": 0.2}).model_dump()
    changed = VariantSettings(moe={"top_k": 1, "asymoe": {"inter_kind": "euclidean"}}).over(reference)
    expected = reference | {"top_k": 1, "asymoe": reference["asymoe"] | {"inter_kind": "euclidean"}}
    assert changed == expected


def test_another_scheme_starts_without_what_only_the_reference_knows() -> None:
    reference = MoESettings(scheme="asymoe", experts={"vision": 1, "inter": 2, "text": 1}, router_jitter=0.1)
    vanilla = MoESettings.model_validate(VariantSettings(scheme="vanilla").over(reference.model_dump()))
    assert (vanilla.experts, vanilla.asymoe, vanilla.router_jitter, vanilla.layers) == (None, None, 0.1, "all")


def test_a_preset_begins_its_section_anew() -> None:
    reference = MoESettings(scheme="asymoe", asymoe={"hyp_dim": 8}).model_dump()
    tree = VariantSettings(moe={"asymoe": {"preset": "faithful", "eta": 0.5}}).over(reference)
    own = MoESettings.model_validate(tree).asymoe
    assert own is not None
    assert (own.hyp_dim, own.aperture, own.eta) == (None, "eq15", 0.5)


def test_a_recipe_survives_json() -> None:
    variants = {"a": {"scheme": "asymoe", "moe": {"asymoe": {"alpha_range": [0.1, 0.9]}}, "budget": "own"}}
    contrasts = {"pair": ["a", "moiie"], "weights": {"a": 1, "moiie": -0.5, "vanilla": -0.5}}
    found = recipe(variants=variants, contrasts=contrasts)
    assert Recipe.model_validate_json(found.model_dump_json()) == found
    assert found.compare.weights("pair") == {"a": 1.0, "moiie": -1.0}
    assert found.compare.weights("weights")["vanilla"] == -0.5


@pytest.mark.parametrize(
    ("compare", "text"),
    [
        (
            {"variants": {"a": {"moe": {"topk": 1}}}},
            "compare.variants.a.moe: 1 problem\n  topk: unknown key; did you mean",
        ),
        ({"variants": {"a": {"moe": {"top_k": 0}}}}, "top_k: Input should be greater than or equal to 1 (given 0)"),
        (
            {"variants": {"a": {"evaluate": {"decoding": {"metod": "dola"}}}}},
            "compare.variants.a.evaluate: 1 problem\n  decoding.metod: unknown key; did you mean 'method'?",
        ),
        ({"variants": {"a": {"moe": {"scheme": "vanilla"}}}}, "give the scheme of a variant as `scheme`, beside `moe`"),
        ({"variants": {"a": {"moe": {"expert_ffn": 8}}}}, "budget equal chooses the width; leave moe.expert_ffn out"),
        ({"variants": {"a": {"evaluate": {"limit": 8}}}}, "every scheme answers the same questions; leave limit out"),
        ({"variants": {"a/b": {}}}, "variant 'a/b' names a folder: use letters, digits, _ . and -"),
        ({"variants": {"a": {"budge": "own"}}}, "compare.variants.a.budge: unknown key"),
        ({"contrasts": {"c": ["a"]}}, "contrast 'c' must be two names, [first, second], or name: weight; got ['a']"),
        ({"contrasts": {"c": ["a", "a"]}}, "contrast 'c' must be two names"),
        (
            {"contrasts": {"c": {"a": 1, "b": -0.5}}},
            "weights of contrast 'c' must sum to 0 and not all be 0, got {'a': 1.0",
        ),
        ({"contrasts": {"c": {"a": 0}}}, "weights of contrast 'c' must sum to 0"),
    ],
)
def test_messages(compare: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(text)):
        recipe(**compare)


def test_all_variants_are_checked_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(variants={"a": {"moe": {"top_k": 0}}, "b": {"moe": {"top": 1}}})
    assert "compare.variants.a.moe" in str(caught.value)
    assert "compare.variants.b.moe" in str(caught.value)


def test_defaults_compare_as_before() -> None:
    assert CompareSettings().variants == CompareSettings().contrasts == {}
