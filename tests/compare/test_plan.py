"""Widths that make schemes equal, and refusals where they cannot be."""

from typing import Any

import pytest
from transformers import LlavaConfig, Phi3Config, Qwen2Config, SiglipVisionConfig

from moiety.compare.plan import plan_schemes
from moiety.compare.variants import as_wide_as_dense, compared_names, settings_for
from moiety.moe.routers import ROUTERS
from moiety.recipe.recipe import CompareSettings, MoESettings, Recipe, parse_recipe


def recipe(compare: dict[str, Any] | None = None, **moe: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "toy",
            "output": "unused",
            "model": {"source": "unused"},
            "moe": moe,
            "compare": compare or {},
            "stages": [{"name": "a", "data": ["a.jsonl"], "trains": ["experts"], "sparse": True}],
        }
    )


@pytest.fixture(scope="module")
def small() -> LlavaConfig:
    """A model that moiety built from nothing, which is why asymoe may be made narrower."""
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = Qwen2Config(
        vocab_size=99,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    built = {"provenance": {"origin": "scratch"}}
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, **built)


@pytest.fixture(scope="module")
def phi3() -> LlavaConfig:
    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
    )
    text = Phi3Config(pad_token_id=0)
    return LlavaConfig(vision_config=vision, text_config=text, vision_feature_layer=-2, image_token_index=32000)


def test_published_backbone_gets_the_published_counts(phi3: LlavaConfig) -> None:
    rows = {scheme.name: scheme.row for scheme in plan_schemes(recipe(), phi3, compared_names())}
    # counts of the specification; modality-blind gates have one row more than those of moiie
    assert rows["moiie"].activated == 5_470_394_432
    assert rows["moiie"].total == 7_886_460_992
    assert rows["vanilla"].activated == 5_470_443_584
    assert rows["modality_routed"].total == 7_886_362_688
    assert (rows["dense_wide"].activated, rows["dense_wide"].expert_ffn) == (5_470_246_976, 16384)
    assert rows["modality_wide"].total == 7_886_166_080
    assert (rows["always_on"].activated, rows["always_on"].total) == (5_470_246_976, 6_678_206_528)
    assert rows["dense"].activated == 4_262_287_424
    unequal = {name for name, row in rows.items() if not row.has_equal_budget}
    assert unequal == {"dense", "modality", "asymoe"}
    assert rows["asymoe"].budget_remark.endswith("% more activated parameters"), "somebody trained this backbone"
    assert rows["dense"].budget_remark == "fewer activated parameters"


@pytest.mark.parametrize("name", sorted({*ROUTERS, "modality_wide"} - {"modality"}))
@pytest.mark.parametrize(("top_k", "experts"), [(2, (1, 2, 1)), (3, (2, 4, 2)), (1, (1, 3, 2))])
def test_every_router_is_brought_to_the_reference(
    small: LlavaConfig, name: str, top_k: int, experts: tuple[int, int, int]
) -> None:
    bank = dict(zip(("vision", "inter", "text"), experts, strict=True))
    reference = recipe(experts=bank, top_k=top_k, norm_topk=top_k > 1, expert_ffn=96)
    (planned,) = plan_schemes(reference, small, [name])
    assert abs(planned.row.relative_difference) < 0.02  # gates are the rest: at most 8 x 64 parameters


def test_banks_keep_their_size_where_proportions_allow(small: LlavaConfig) -> None:
    reference = recipe(experts={"vision": 2, "inter": 4, "text": 2})
    vanilla = settings_for("vanilla", reference, small)
    routed = settings_for("modality_routed", reference, small)
    assert vanilla is not None
    assert routed is not None
    assert vanilla.experts == {"inter": 8}
    assert routed.experts == {"vision": 4, "text": 4}


def test_loss_weights_are_carried_over(small: LlavaConfig) -> None:
    reference = recipe(aux_coef={"vision": 0.02, "text": 0.04}, layers=[0, 1], router_dtype="float32")
    routed, vanilla = (settings_for(name, reference, small) for name in ("modality_routed", "vanilla"))
    assert routed is not None
    assert vanilla is not None
    assert routed.aux_coef == {"vision": 0.02, "text": 0.04}
    assert vanilla.aux_coef == pytest.approx(0.03)
    assert (vanilla.layers, vanilla.router_dtype) == ([0, 1], "float32")
    assert settings_for("moiie", reference, small) is reference.moe
    assert settings_for("dense", reference, small) is None


def test_messages(small: LlavaConfig) -> None:
    with pytest.raises(ValueError, match=r"cannot compare scheme 'moie'; known: .*did you mean 'moiie'"):
        plan_schemes(recipe(), small, ["moie"])
    with pytest.raises(ValueError, match=r"must be distinct and at least one, got \['moiie', 'moiie'\]"):
        plan_schemes(recipe(), small, ["moiie", "moiie"])
    with pytest.raises(ValueError, match=r"moe.scheme is 'dense': a comparison needs a sparse reference"):
        plan_schemes(recipe(scheme="dense"), small, ["moiie"])


def test_schemes_that_cannot_be_equal_are_refused(small: LlavaConfig) -> None:
    strict = recipe().model_copy(update={"compare": CompareSettings(tolerance=0.0)})
    with pytest.raises(
        ValueError,
        match=r"'dense_wide' activates 145,792 parameters, the reference 145,984: -0.1 %, more than compare.tolerance",
    ):
        plan_schemes(strict, small, ["moiie", "dense_wide"])
    assert plan_schemes(strict, small, ["dense"])[0].row.budget_remark == "fewer activated parameters"


def test_variants_are_the_reference_with_changes(small: LlavaConfig) -> None:
    variants = {
        "one-choice": {"moe": {"top_k": 1, "norm_topk": False, "aux_coef": 0.5}, "note": "switch-like"},
        "blind": {"scheme": "vanilla", "moe": {"router_dtype": "float32"}},
        "narrow": {"moe": {"expert_ffn": 32}, "budget": "own"},
        "everywhere": {"moe": {"layers": "all"}},
    }
    planned = plan_schemes(recipe({"variants": variants}), small, ["moiie", *variants])
    rows, settings = {entry.name: entry.row for entry in planned}, {entry.name: entry.settings for entry in planned}
    assert rows["one-choice"].note == "switch-like"
    assert {name: row.budget_remark for name, row in rows.items() if not row.has_equal_budget} == {
        "narrow": "25.3 % fewer activated parameters"
    }
    single, blind, narrow, everywhere = (settings[name] for name in variants)
    assert single is not None
    assert (single.top_k, single.aux_coef, single.expert_ffn) == (1, 0.5, 256)
    assert blind is not None
    assert (blind.scheme, blind.experts, blind.router_dtype) == ("vanilla", {"inter": 4}, "float32")
    assert narrow is not None
    assert narrow.expert_ffn == 32
    # twice as many sparse layers: two dense FFNs of 128 and two layers of two choices have to share what one had
    assert everywhere is not None
    assert everywhere.expert_ffn == 96
    assert abs(rows["everywhere"].relative_difference) < 0.005


def test_a_scheme_of_its_own_widths_is_a_variant_like_any_other(small: LlavaConfig) -> None:
    variants = {
        "ours": {"scheme": "asymoe"},
        "twin": {"scheme": "asymoe", "moe": {"asymoe": {"inter_kind": "euclidean"}}},
        "thrifty": {"scheme": "asymoe", "budget": "own", "moe": {"asymoe": {"size_plan": "dense_budget"}}},
    }
    planned = plan_schemes(recipe({"variants": variants}, layers="all"), small, ["moiie", *variants])
    rows = {entry.name: entry.row for entry in planned}
    assert rows["ours"].budget_remark == rows["twin"].budget_remark == "equal"
    assert rows["ours"].widths == rows["twin"].widths
    assert set(rows["ours"].widths) == {"vision", "space", "inter", "text", "context"}
    assert rows["thrifty"].budget_remark.endswith("% fewer activated parameters")
    assert rows["thrifty"].against_dense is not None
    assert rows["thrifty"].against_dense < -0.2545
    assert rows["moiie"].widths == {}


@pytest.mark.parametrize("name", ["asymoe", "variant"])
def test_the_full_size_is_kept_whatever_it_activates(small: LlavaConfig, name: str) -> None:
    variants = {"variant": {"scheme": "asymoe", "moe": {"asymoe": {"size_plan": "full"}}}}
    asked = recipe({"variants": variants}, layers="all")
    if name == "asymoe":
        asked = recipe(scheme="asymoe", layers="all", asymoe={"size_plan": "full"})
    (planned,) = plan_schemes(asked, small, [name])
    widths = planned.row.widths
    assert widths["vision"] == widths["text"] == widths["residual"] == 128
    assert planned.row.starts_as_dense
    assert planned.row.has_equal_budget == (name == "asymoe"), "it is equal where it is the reference itself"
    if name == "variant":
        assert planned.row.budget_remark.endswith("% more activated parameters")
        assert planned.row.why_unequal.startswith("its experts are as wide as the dense FFN")


def test_without_a_plan_and_a_width_the_full_size_is_for_models_from_outside(small: LlavaConfig) -> None:
    settings = MoESettings(scheme="asymoe")
    assert settings.asymoe is not None
    unplanned = settings.model_copy(update={"asymoe": settings.asymoe.model_copy(update={"size_plan": None})})
    outside = LlavaConfig(**(small.to_dict() | {"provenance": None}))
    full = as_wide_as_dense(unplanned, outside)
    assert full is not None
    assert full.asymoe is not None
    assert full.asymoe.size_plan == "full"
    assert as_wide_as_dense(unplanned, small) is None
    given = unplanned.model_copy(update={"asymoe": settings.asymoe.model_copy(update={"evidence_dim": 8})})
    assert as_wide_as_dense(given, outside) is None
    assert as_wide_as_dense(MoESettings(), outside) is None


def test_who_starts_as_the_dense_model(small: LlavaConfig) -> None:
    variants = {"narrow": {"moe": {"expert_ffn": 32}, "budget": "own"}, "wide": {"moe": {"layers": [0]}}}
    asked = recipe({"variants": variants}, norm_topk=True)
    rows = {found.name: found.row for found in plan_schemes(asked, small, ["dense", "dense_wide", "moiie", *variants])}
    starts = {name: row.starts_as_dense for name, row in rows.items()}
    assert starts == {"dense": True, "dense_wide": True, "moiie": True, "narrow": False, "wide": True}


def test_controls_of_a_design_share_its_widths(small: LlavaConfig) -> None:
    variants = {
        "twin": {"moe": {"asymoe": {"inter_kind": "euclidean"}}},
        "gate-off": {"moe": {"asymoe": {"score": "off"}}},
    }
    asked = recipe({"variants": variants, "tolerance": 0.05}, scheme="asymoe")
    names = ["asymoe", "twin", "gate-off", "moiie", "vanilla", "dense_wide"]
    rows = {entry.name: entry.row for entry in plan_schemes(asked, small, names)}
    assert rows["twin"].widths == rows["asymoe"].widths
    assert {row.budget_remark for row in rows.values()} == {"equal"}
    assert abs(rows["moiie"].relative_difference) < 0.01


def test_messages_of_variants(small: LlavaConfig) -> None:
    def plan(compare: dict[str, Any], *names: str) -> None:
        plan_schemes(recipe(compare), small, names)

    with pytest.raises(ValueError, match=r"names 'vanilla', which is a scheme already; call the variant otherwise"):
        plan({"variants": {"vanilla": {}}}, "moiie")
    with pytest.raises(ValueError, match=r"cannot compare scheme 'moiie-twinn'; known: .*did you mean 'moiie-twin'"):
        plan({"variants": {"moiie-twin": {}}}, "moiie-twinn")
    with pytest.raises(ValueError, match=r"contrast 'gain' names 'moie'; known: .*did you mean 'moiie'"):
        plan({"contrasts": {"gain": ["moie", "vanilla"]}}, "moiie")
    with pytest.raises(ValueError, match=r"compare.variants.a.scheme is 'dens', no routing .*did you mean 'dense'"):
        plan({"variants": {"a": {"scheme": "dens"}}}, "a")
    for change in ({"moe": {"top_k": 1}}, {"clamp_alpha": 0.5}):
        with pytest.raises(ValueError, match=r"compare.variants.a is dense: it has no experts; leave `moe` and"):
            plan({"variants": {"a": {"scheme": "dense"} | change}}, "a")
    strict = {"variants": {"a": {"scheme": "vanilla"}}, "tolerance": 0.0}
    with pytest.raises(
        ValueError, match=r"'a' activates .* be equal, give the variant `budget: own`, or raise the tol"
    ):
        plan(strict, "a")
