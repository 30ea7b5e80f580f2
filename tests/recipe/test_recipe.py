import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from moiety.recipe.asymoe import FAITHFUL, PRESETS, AsyMoESettings, Preset
from moiety.recipe.recipe import (
    MoESettings,
    RecipeError,
    ScratchSettings,
    describe_errors,
    load_recipe,
    parse_recipe,
    parse_value,
)

RECIPE = """
name: small
output: out
model:
  scratch: {hidden: 64, heads: 2}
moe: {scheme: moiie, top_k: 2}
stages:
  - name: one
    data: [a.jsonl]
    trains: [projector]
    train: {learning_rate: 1e-4, max_steps: 5}
  - name: two
    data: [b.jsonl]
    trains: [decoder, experts]
    sparse: true
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def changed(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_recipe_is_read_with_defaults(recipe: Path) -> None:
    found = load_recipe(recipe)
    assert found.stages[0].train.learning_rate == 1e-4
    assert found.stages[1].train.learning_rate == 2e-5
    assert found.moe.layers == "odd"
    assert parse_recipe(found.model_dump()) == found


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "+1e-4", ".1e-3", "1.e-4", "0.0001"])
def test_exponents_without_a_point_are_floats(text: str) -> None:
    assert parse_value(text) == 1e-4


def test_unknown_keys_name_the_nearest_and_all_problems_come_at_once(recipe: Path) -> None:
    changed(recipe, "top_k: 2", "topk: 2")
    changed(recipe, "max_steps: 5", "max_stepz: 5")
    changed(recipe, "output: out\n", "")
    changed(recipe, "hidden: 64", "hidden: many")
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    assert str(caught.value).split("\n") == [
        f"{recipe}: 4 problems",
        "  output: missing",
        "  model.scratch.hidden: Input should be a valid integer (given 'many')",
        "  moe.topk: unknown key; did you mean 'top_k'?",
        "  stages.0.train.max_stepz: unknown key; did you mean 'max_steps'?",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.0.train.learning_rate='1e-4'", r"learning_rate: Input should be a valid number \(given '1e-4'\)"),
        ("moe.top_k='2'", r"moe\.top_k: Input should be a valid integer \(given '2'\)"),
        ("moe.top_k=2.0", r"moe\.top_k: Input should be a valid integer \(given 2\.0\)"),
        ("moe.top_k=0", r"moe\.top_k: Input should be greater than or equal to 1 \(given 0\)"),
        ("seed=true", r"seed: Input should be a valid integer \(given True\)"),
        ("name=7", r"name: Input should be a valid string \(given 7\)"),
        ("name=a/b", "name: String should match pattern"),
        ("moe.layers=[3, 1]", r"an explicit layer list must be ascending, distinct and >= 0, got \[3, 1\]"),
        ("moe.layers=[-1, 1]", "ascending, distinct and >= 0"),
        ("moe.layers=[1, 1]", "ascending, distinct and >= 0"),
        ("moe.mask_rule=exat", "'exact' or 'last_token_as_text'"),
        ("stages.0.trains=[projektor]", "stages.0.trains.0: Input should be 'vision_tower', 'projector'"),
        ("stages.0.data=[]", r"stages\.0\.data: List should have at least 1 item"),
        ("stages.1.name=one", r"stage names must be distinct, got \['one', 'one'\]"),
        ("stages.0.sparse=true", None),
        ("stages.1.sparse=false", None),
        ("model.source=some/model", r"give exactly one of model\.source .* and model\.scratch"),
        ("model.scratch=null", r"give exactly one of model\.source .* and model\.scratch"),
        ("model.scratch.heads=3", "hidden=64 must be a multiple of 2 x 3 heads"),
        ("model.scratch.vision_heads=5", "vision_hidden=192 must be a multiple of 2 x 5 heads"),
        ("model.scratch.image_size=60", "image_size=60 must be a multiple of patch_size=8"),
        ("compare.seeds=[]", r"compare\.seeds: List should have at least 1 item"),
        ("train.learning_rate=1", "train: unknown key"),
    ],
)
def test_values_are_checked(recipe: Path, override: str, message: str | None) -> None:
    if message is None:
        load_recipe(recipe, [override])
        return
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, [override])


# -- scheme asymoe -----------------------------------------------------------------------------------------------------
ASYMOE = ["moe.scheme=asymoe", "moe.top_k=null"]


def test_asymoe_is_switched_on_by_its_name_alone(recipe: Path) -> None:
    moe = load_recipe(recipe, ASYMOE).moe
    assert moe.asymoe == AsyMoESettings()
    assert (moe.layers, moe.asymoe.preset, moe.asymoe.size_plan) == ("all", "recommended", None)
    assert load_recipe(recipe, [*ASYMOE, "moe.layers=odd"]).moe.layers == "odd"


def test_a_preset_fills_what_is_not_given(recipe: Path) -> None:
    given = [*ASYMOE, "moe.asymoe.preset=faithful", "moe.asymoe.eta=0.5", "moe.asymoe.evidence_gain=learned"]
    moe = load_recipe(recipe, given).moe
    assert moe.asymoe is not None
    assert moe.layers == "odd"
    assert (moe.asymoe.eta, moe.asymoe.evidence_gain) == (0.5, "learned")
    differing = {name for name in FAITHFUL if getattr(moe.asymoe, name) != getattr(AsyMoESettings(), name)}
    assert differing == set(FAITHFUL), "every line of the preset changes something"
    assert all(getattr(moe.asymoe, name) == value for name, value in FAITHFUL.items() if name != "eta")
    again = MoESettings.model_validate(json.loads(moe.model_dump_json()))
    assert again == moe, "what is stored with a model rebuilds its settings"


def test_preset_lean_is_evidence_experts_beside_plain_ones(recipe: Path) -> None:
    moe = load_recipe(recipe, [*ASYMOE, "moe.asymoe.preset=lean", "moe.asymoe.gate_weight=0.5"]).moe
    assert moe.asymoe is not None
    expected = AsyMoESettings(inter_kind="ffn", score="off", cone_weight=0, gate_weight=0.5)
    assert moe.asymoe == expected.model_copy(update={"preset": "lean"})
    assert moe.layers == "all"
    assert set(PRESETS) == set(get_args(Preset))


FORMER = {"order_weight": 0.5, "order_layers": "all", "order_margin": 0.2, "order_detach": True}
PRESENT = {"cone_weight": 0.5, "cone_layers": "all", "cone_margin": 0.2, "cone_detach": True}


def test_former_names_of_keys_are_read_and_the_present_ones_written(recipe: Path) -> None:
    old = [f"moe.asymoe.{key}={json.dumps(value)}" for key, value in FORMER.items()]
    new = [f"moe.asymoe.{key}={json.dumps(value)}" for key, value in PRESENT.items()]
    for more in ([], ["moe.asymoe.preset=faithful"], ["moe.asymoe.preset=lean"]):
        found = load_recipe(recipe, [*ASYMOE, *more, *old])
        assert found == load_recipe(recipe, [*ASYMOE, *more, *new])
        assert found.moe.asymoe is not None
        assert found.moe.asymoe.model_dump().items() >= PRESENT.items()
        assert not FORMER.keys() & found.moe.asymoe.model_dump().keys()


def test_a_variant_may_use_former_names(recipe: Path) -> None:
    given = 'compare.variants={"flat": {"moe": {"asymoe": {"order_weight": 0}}}}'
    variant = load_recipe(recipe, [*ASYMOE, "moe.asymoe.cone_weight=0.3", given]).compare.variants["flat"]
    assert variant.moe == {"asymoe": {"cone_weight": 0}}


def test_a_key_under_both_names_is_refused(recipe: Path) -> None:
    with pytest.raises(
        RecipeError, match="order_weight is the former name of cone_weight, and both are given; keep cone_weight alone"
    ):
        load_recipe(recipe, [*ASYMOE, "moe.asymoe.order_weight=0", "moe.asymoe.cone_weight=0"])


def test_what_follows_from_other_settings() -> None:
    assert AsyMoESettings().form == "gelu"
    assert AsyMoESettings(size_plan="full").form == "swiglu"
    assert AsyMoESettings(size_plan="full").has_residual
    assert not AsyMoESettings(size_plan="full", inter_kind="ffn").has_residual
    widths = dict.fromkeys(("hyp_dim", "inter_ffn", "vision_ffn", "evidence_dim", "context_dim"), 8)
    assert AsyMoESettings(**widths).sized
    assert not AsyMoESettings(**widths, inter_residual=True).sized
    assert AsyMoESettings(text_kind="context").needs_context
    assert not AsyMoESettings(text_kind="ffn").needs_context


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*ASYMOE, "moe.asymoe.hypdim=8"], r"moe\.asymoe\.hypdim: unknown key; did you mean 'hyp_dim'\?"),
        ([*ASYMOE, "moe.asymoe.hyp_dim=0"], r"moe\.asymoe\.hyp_dim: Input should be greater than or equal to 1"),
        ([*ASYMOE, "moe.asymoe.preset=literal"], "Input should be 'recommended', 'faithful' or 'lean'"),
        ([*ASYMOE, "moe.asymoe.alpha_range=[0.5, 0.2]"], r"\[lowest, highest\] within 0\.\.1, got \[0\.5, 0\.2\]"),
        ([*ASYMOE, "moe.asymoe.alpha_range=[0, 2]"], r"\[lowest, highest\] within 0\.\.1, got \[0\.0, 2\.0\]"),
        ([*ASYMOE, "moe.asymoe.null_key=2"], r"moe\.asymoe\.null_key: Input should be a valid boolean"),
        (["moe.asymoe={}"], r"moe\.asymoe belongs to scheme asymoe; moe\.scheme is 'moiie', so leave it out"),
    ],
)
def test_settings_of_asymoe_are_checked(recipe: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, overrides)


def test_a_dense_stage_cannot_follow_a_sparse_one(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="a dense stage cannot follow a sparse one"):
        load_recipe(recipe, ["stages.one.sparse=true", "stages.two.sparse=false"])


@pytest.mark.parametrize(
    ("text", "value"), [("False", False), ("false", False), ("0", False), ("1", True), ("true", True)]
)
def test_switches_on_the_command_line(recipe: Path, text: str, value: bool) -> None:
    overrides = [f"moe.norm_topk={text}", f"data.merge_turns={text}", f"stages.one.merge_turns={text}"]
    found = load_recipe(recipe, overrides)
    assert found.moe.norm_topk is found.data.merge_turns is found.stages[0].merge_turns is value


@pytest.mark.parametrize("text", ["2", "-1", "0.0", "'false'", "none"])
def test_switches_take_nothing_else(recipe: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"moe\.norm_topk: Input should be a valid boolean"):
        load_recipe(recipe, [f"moe.norm_topk={text}"])


def test_a_number_field_takes_no_switch_and_keeps_zero(recipe: Path) -> None:
    assert load_recipe(recipe, ["moe.router_jitter=0"]).moe.router_jitter == 0


def test_overrides_reach_into_lists_by_name_and_number(recipe: Path) -> None:
    overrides = ["stages.two.train.learning_rate=3e-5", "stages.0.train.max_steps=7", "stages.1.data.0=c.jsonl"]
    found = load_recipe(recipe, [*overrides, "evaluate.limit=3", "moe.experts={vision: 1, inter: 2, text: 1}"])
    assert found.stages[1].train.learning_rate == 3e-5
    assert found.stages[0].train.max_steps == 7
    assert found.stages[1].data == ["c.jsonl"]
    assert found.evaluate.limit == 3  # a section that the file does not have
    assert found.moe.experts == {"vision": 1, "inter": 2, "text": 1}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("moe.top_k", r"override 'moe\.top_k' is not of the form key=value, for instance moe\.top_k=2"),
        ("=2", "override '=2' is not of the form key=value"),
        ("stages.three.sparse=true", r"no entry 'three' in a list of 2 \(\['one', 'two'\]\)"),
        ("stages.2.sparse=true", "no entry '2' in a list of 2"),
        ("name.first=a", "override 'name.first=a': name is a value, not a section"),
        ("model.scratch={", r"'\{' is not a YAML value: while parsing"),
        ("moe={top_k: 2, top_k: 1}", "key 'top_k' stands twice"),
        ("moe={[1]: 2}", r"key \[1\] is no name \(line 1\)"),
    ],
)
def test_impossible_overrides(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, [override])


def test_an_override_below_null(recipe: Path) -> None:
    changed(recipe, "moe: {scheme: moiie, top_k: 2}", "moe: null")
    with pytest.raises(RecipeError, match=r"override 'moe\.top_k=2': moe is null in the recipe"):
        load_recipe(recipe, ["moe.top_k=2"])


def test_a_key_that_stands_twice_is_named_with_its_line(recipe: Path) -> None:
    changed(recipe, "output: out", "output: out\nname: again")
    with pytest.raises(RecipeError, match=r"key 'name' stands twice \(line 4\)"):
        load_recipe(recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not valid YAML: while parsing"), ("- a", "holds list, expected sections: name, ")],
)
def test_files_that_are_no_recipes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "r.yaml")


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no recipe at .*r\.yaml; recipes are YAML files"):
        load_recipe(tmp_path / "r.yaml")


def test_settings_do_not_change_and_survive_json() -> None:
    settings = MoESettings(modality_groups={0: "text", 1: "vision", 3: "audio"}, layers=[0, 2])
    assert MoESettings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError, match="frozen"):
        settings.top_k = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("layers", "found"), [("odd", [1, 3]), ("even", [0, 2, 4]), ("all", [0, 1, 2, 3, 4]), ([0, 4], [0, 4]), ([], [])]
)
def test_layers_are_resolved(layers: Any, found: list[int]) -> None:
    assert MoESettings(layers=layers).resolved_layers(5) == found


def test_a_layer_the_decoder_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"moe\.layers names layer 5, the decoder has layers 0\.\.4"):
        MoESettings(layers=[1, 5]).resolved_layers(5)


def test_one_problem_is_one_problem() -> None:
    with pytest.raises(ValidationError) as caught:
        ScratchSettings(hiden=64)  # type: ignore[call-arg]
    text = describe_errors(caught.value, "model", ScratchSettings)
    assert text == "model: 1 problem\n  hiden: unknown key; did you mean 'hidden'?"


def test_the_kinds_of_asymoe_stand_in_one_place() -> None:
    """``moe.kinds`` is the same key in every scheme; asymoe keeps two of them where it always had them."""
    settings = MoESettings(scheme="asymoe", kinds={"inter": "euclidean", "text": "ffn", "vision": "ffn"})
    assert (settings.asymoe.inter_kind, settings.asymoe.text_kind) == ("euclidean", "ffn")
    assert settings.kinds == {"vision": "ffn"}
    assert MoESettings.model_validate(settings.model_dump()) == settings
    own = AsyMoESettings(inter_kind="ffn")
    assert MoESettings(scheme="asymoe", kinds={"inter": "ffn"}, asymoe=own).asymoe == own
    message = r"moe.kinds.inter is 'ffn' and moe.asymoe.inter_kind is 'product'; give the kind in one place"
    with pytest.raises(ValueError, match=message):
        MoESettings(scheme="asymoe", kinds={"inter": "ffn"}, asymoe={"inter_kind": "product"})


def test_the_old_name_of_kind_context_is_still_read() -> None:
    """Recipes and models of earlier releases say ``parallel``, though nothing runs in parallel there."""
    settings = MoESettings.model_validate({"scheme": "asymoe", "asymoe": {"text_kind": "parallel"}})
    assert settings.asymoe is not None
    assert settings.asymoe.text_kind == "context"
    assert settings == MoESettings(scheme="asymoe", asymoe={"text_kind": "context"})
