"""Activated parameters of scheme asymoe: the integers of the specification, what tokens touch, and designs (T19)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from moiety.moe.asymoe.activated import (
    DecoderShape,
    ExpertSet,
    activated_parameters,
    expert_parameters,
    largest_layer,
    layer_parameters,
    reachable_sets,
    shared_parameters,
)
from moiety.moe.asymoe.budget import SAVING, UNUSED, design, design_for, reference_parameters
from moiety.moe.asymoe.context import Evidence
from moiety.moe.layer import ModalityMoE
from moiety.moe.trace import RoutingTrace, recording
from moiety.recipe.recipe import MoESettings

SHAPES = {
    "phi3": DecoderShape(3072, 8192, 32, 32064, 32, 32, beside=428_225_600 + 12_982_272),
    "llama": DecoderShape(4096, 14336, 32, 128256, 32, 8),
    "d768": DecoderShape(768, 2048, 12, 32000, 12, 12, tied=True),
    "d512": DecoderShape(512, 1408, 8, 8192, 8, 8, tied=True),
    "d256": DecoderShape(256, 704, 6, 4096, 4, 4, tied=True),
}
NAMES = ("hyp_dim", "inter_ffn", "context_dim", "evidence_dim", "vision_ffn")
# widths, A_dense, and savings in % of text {L,S}, text {S,S}, vision {V,S}, vision {S,S}
TABLE = {
    "phi3": ((768, 3584, 512, 1280, 2496), 3_821_079_552, (25.66, 26.32, 25.50, 28.95)),
    "llama": ((1024, 7680, 512, 2560, 4608), 8_030_261_248, (25.47, 25.88, 25.48, 27.56)),
    "d768": ((192, 736, 128, 256, 520), 109_529_856, (25.63, 25.49, 25.46, 27.66)),
    "d512": ((128, 608, 64, 208, 392), 29_893_120, (25.73, 25.72, 25.67, 27.49)),
    "d256": ((64, 288, 32, 96, 184), 5_868_800, (26.11, 25.68, 26.01, 27.39)),
}
SETS: tuple[tuple[str, ExpertSet], ...] = (
    ("text", ("inter", "text")),
    ("text", ("inter", "inter")),
    ("vision", ("vision", "inter")),
    ("vision", ("inter", "inter")),
)


def asymoe(layers: Any = "all", **own: Any) -> MoESettings:
    return MoESettings(scheme="asymoe", layers=layers, asymoe=own)


def widths_of(found: MoESettings) -> tuple[int | None, ...]:
    return tuple(getattr(found.asymoe, name) for name in NAMES)


def designed(name: str, **own: Any) -> MoESettings:
    return design(asymoe(**own), SHAPES[name].hidden, SHAPES[name].ffn, SHAPES[name])


# -- the integers of the specification ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SHAPES)
def test_the_table_of_designs(name: str) -> None:
    # T19: given widths count as printed, and the design finds exactly these widths
    (widths, dense, savings), shape = TABLE[name], SHAPES[name]
    given_widths = asymoe(**dict(zip(NAMES, widths, strict=True)))
    assert shape.dense == dense
    counted = [activated_parameters(given_widths, shape, group, chosen) for group, chosen in SETS]
    assert tuple(round(100 - 100 * count / dense, 2) for count in counted) == savings
    assert widths_of(designed(name)) == widths


@pytest.mark.parametrize(
    ("name", "group", "chosen", "count"),
    [
        ("phi3", "text", ("inter", "text"), 2_840_644_800),
        ("phi3", "vision", ("vision", "inter"), 2_846_526_560),
        ("llama", "text", ("inter", "text"), 5_984_997_568),
        ("llama", "vision", ("vision", "inter"), 5_984_456_800),
        ("d768", "text", ("inter", "inter"), 81_605_460),
        ("d768", "vision", ("vision", "inter"), 81_641_508),
        ("d512", "text", ("inter", "inter"), 22_204_472),
        ("d512", "vision", ("vision", "inter"), 22_218_776),
        ("d256", "text", ("inter", "inter"), 4_361_450),
        ("d256", "vision", ("vision", "inter"), 4_342_418),
    ],
)
def test_printed_integers(name: str, group: str, chosen: ExpertSet, count: int) -> None:
    assert activated_parameters(designed(name), SHAPES[name], group, chosen) == count


def test_parts_of_a_layer_of_phi3() -> None:
    found = designed("phi3")
    experts = [expert_parameters(found, 3072, group) for group in ("inter", "text", "vision")]
    assert experts == [18_884_611, 19_670_018, 23_003_136]
    assert shared_parameters(found, 3072, "text") == 6_291_968 + 3 * 3072 + 3072 + 1
    assert shared_parameters(found, 3072, "vision") == 3_145_728 + 3 * 3072


def test_the_plan_that_the_printed_number_is_about() -> None:
    # 25.45 % below MoIIE, tower and projector on both sides; spec 12 for the recommended form, 13 for the faithful one
    shape, beside = SHAPES["phi3"], SHAPES["phi3"].beside
    widths = dict(zip(NAMES, (768, 5696, 512, 1856, 3456), strict=True))
    plan = asymoe("odd", size_plan="moiie_budget", **widths)
    assert reference_parameters(plan, shape) + beside == 5_470_394_432
    counted = [activated_parameters(plan, shape, group, chosen) + beside for group, chosen in SETS[:3]]
    assert counted == [4_069_408_928, 4_071_065_776, 4_072_349_808]
    faithful = design(asymoe("odd", preset="faithful"), 3072, 8192, shape)
    assert widths_of(faithful) == (768, 2048, 3072, 768, 3584)
    assert max(activated_parameters(faithful, shape, group) for group in ("text", "vision")) + beside == 4_074_018_992


def test_full_width_saves_nothing() -> None:
    # four dense FFNs for a text token: 8/3 evidence expert, 1 copied FFN, the rest branch and context
    found = designed("phi3", size_plan="full")
    assert found.asymoe is not None
    assert (found.asymoe.evidence_dim, found.asymoe.vision_ffn, found.asymoe.residual_ffn) == (8192, 8192, 8192)
    text = layer_parameters(found, 3072, "text", ("inter", "text"))
    assert text / SHAPES["phi3"].dense_ffn == pytest.approx(4.0, abs=0.005)


def test_the_tables_of_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "budget.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in page.splitlines() if line.startswith("| ")]
    designs = [row for row in rows if len(row) == 11][1:]
    assert len(designs) == len(SHAPES)
    for row, (widths, dense, savings) in zip(designs, TABLE.values(), strict=True):
        assert row[:5] == [str(width) for width in widths]
        assert row[5:10] == [f"{dense:,}", *(f"{saving:.2f}" for saving in savings)]
    shape = SHAPES["phi3"]
    dense, moiie = shape.dense + shape.beside, 5_470_394_432
    wholes = {
        "dense_budget": designed("phi3"),
        "faithful": design(asymoe("odd", preset="faithful"), 3072, 8192, shape),
        "`full`": designed("phi3", size_plan="full"),
    }
    for name, found in wholes.items():
        count = max(activated_parameters(found, shape, group) for group in ("text", "vision")) + shape.beside
        saved = [f"{100 - 100 * count / other:.2f}" for other in (dense, moiie)]
        assert f"| {count:,} | {saved[0]} | {saved[1]} |" in next(
            line for line in page.splitlines() if line.startswith("| AsyMoE") and name in line
        )


# -- what a token touches ----------------------------------------------------------------------------------------------
WIDTHS = {"hyp_dim": 4, "inter_ffn": 3, "residual_ffn": 2, "vision_ffn": 5, "evidence_dim": 2, "context_dim": 4}
FORMS: list[dict[str, Any]] = [
    {},
    {"inter_kind": "euclidean", "gate_input": "x", "alpha_range": (0.0, 1.0)},
    {"inter_kind": "product", "product_factors": 2, "learn_curvature": True, "score": "mass"},
    {"inter_kind": "ffn", "text_kind": "context"},
    {"text_kind": "ffn", "plain_text": 1, "inter_residual": True},
    {
        "learn_curvature": True,
        "evidence_gain": "learned",
        "evidence_form": "swiglu",
        "plain_text": 1,
        "balance_logits": "boosted",
    },
    {"preset": "faithful", "context_dim": 8},
    {"inter_text_input": "cascade_residual", "null_key": False, "score": "off", "plain_text": 1},
]
# two image tokens are the evidence for the text behind them: of one alone attention has nothing to choose
ROW, SEEN = torch.tensor([[1, 1, 0]]), torch.tensor([[True, True, False]])


def touched(layer: ModalityMoE, *outputs: torch.Tensor) -> dict[str, int]:
    """How many numbers of each parameter change the outputs; of gates nothing."""
    layer.zero_grad()
    for output in outputs:
        (output * torch.randn_like(output)).sum().backward(retain_graph=True)
    return {
        name: int((weight.grad != 0).sum())
        for name, weight in layer.named_parameters()
        if weight.grad is not None and weight.grad.any() and not name.startswith("router.gates")
    }


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())) or "recommended")
def test_the_formula_counts_what_a_token_touches(form: dict[str, Any]) -> None:
    # T19: every set that occurs, every number with a gradient; gates choose by all their visible rows, which count
    torch.manual_seed(0)
    given_settings = MoESettings(scheme="asymoe", asymoe={**WIDTHS, **form}, router_init_std=1.0)
    layer = ModalityMoE(8, 6, given_settings).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(64, 3, 8, dtype=torch.float64)
    with recording(RoutingTrace(keeps_inputs=True)) as trace:
        out = layer(x, ROW.expand(64, 3), Evidence(SEEN.expand(64, 3)))
    (_, routing), *_ = trace.entries
    extras = [routing.extras.get(name) for name in ("context", "score", "balance_logits")]
    read = [extra.masked_fill(extra.isinf(), 0).view(64, 3, -1) for extra in extras if extra is not None]
    index, found = routing.index.view(64, 3, 2).tolist(), set()
    for row, place in itertools.product(range(64), (1, 2)):
        group = ("vision", "text")[place - 1]
        chosen = tuple(layer.groups.group_of_expert(expert).name for expert in sorted(index[row][place]))
        if (group, chosen) in found:
            continue
        found.add((group, chosen))
        numbers = touched(layer, out[row, place])
        looked_up = touched(layer, *(tensor[row, 2] for tensor in read))
        if group == "vision":  # lends keys and values to the text behind it
            looked_up = {name: looked_up[name] for name in looked_up if name.startswith(("context.k_p", "context.v_p"))}
        gate = 8 * int(routing.logits.view(64, 3, -1)[row, place].isfinite().sum())
        assert sum((numbers | looked_up).values()) + gate == layer_parameters(given_settings, 8, group, chosen)
    assert found == {
        (group, chosen) for group in ("text", "vision") for chosen in reachable_sets(given_settings, group)
    }
    for group in ("text", "vision"):
        assert layer.activated_parameters(group) == largest_layer(given_settings, 8, group)


# -- designs -----------------------------------------------------------------------------------------------------------
def shapes(least: int = 64) -> st.SearchStrategy[DecoderShape]:
    """Decoders whose FFN is as wide beside the rest as usual."""
    return st.builds(
        lambda head_dim, heads, share, layers, vocab, kv, tied: DecoderShape(
            head_dim * heads, 8 * round(share * head_dim * heads / 8), layers, vocab, heads, heads // kv, tied
        ),
        head_dim=st.sampled_from([32, 64]),
        heads=st.sampled_from([least // 32, 4, 12, 36]),
        share=st.floats(2, 4),
        layers=st.integers(1, 40),
        vocab=st.sampled_from([64, 1024, 8192]),
        kv=st.sampled_from([1, 2]),
        tied=st.booleans(),
    )


@settings(max_examples=40, deadline=None)
@given(shapes())
@example(DecoderShape(64, 128, 10, 64, 2, 1, True))  # one unit of width is 1.4 % of the whole: .0075 cannot be met
def test_every_design_saves_what_it_promises_in_its_dearest_set(shape: DecoderShape) -> None:
    # T19, where the FFNs are large enough that the saving can come from them
    assume((1 - SAVING) * shape.dense - shape.trunk > 0.35 * shape.layers * shape.dense_ffn)
    found = design(asymoe(), shape.hidden, shape.ffn, shape)
    coarsest = shape.layers * 8 * shape.hidden / shape.dense  # an evidence expert one unit wider
    for group in ("text", "vision"):
        dearest = max(activated_parameters(found, shape, group, chosen) for chosen in reachable_sets(found, group))
        assert dearest == activated_parameters(found, shape, group)
        assert SAVING <= 1 - dearest / shape.dense <= SAVING + max(UNUSED, coarsest)
    inter, text = (expert_parameters(found, shape.hidden, group) for group in ("inter", "text"))
    step = 5 * shape.hidden * (64 if shape.hidden >= 2048 else 8)
    assert inter <= text + step, "nearly balanced: two inter-modality experts are the dearest set at most by a step"


FORMS_TO_DESIGN = [{**form, **dict.fromkeys(("context_dim", *WIDTHS))} for form in FORMS]
TABLES: list[dict[str, Any]] = [
    {},
    {"experts": {"vision": 2, "inter": 4, "text": 2}, "top_k": 3},
    {"experts": {"vision": 2, "inter": 0, "text": 3}},
    {"experts": {"vision": 0, "inter": 3, "text": 1}},
    {"modality_groups": {0: "text", 1: "vision", 3: "audio"}},
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: "-".join(table) or "default")
@pytest.mark.parametrize("form", [*FORMS_TO_DESIGN, {"evidence_layers": "deepest_half"}], ids=range(9))
def test_every_form_and_table_meets_its_budget(form: dict[str, Any], table: dict[str, Any]) -> None:
    own = {name: value for name, value in form.items() if name != "preset"} | {"size_plan": "dense_budget"}
    if "plain_text" in form and "experts" in table:
        table = {**table, "experts": {**table["experts"], "plain": form["plain_text"]}}
    given_settings = MoESettings(scheme="asymoe", asymoe=own, **table)
    shape = SHAPES["d512"]
    found = design(given_settings, shape.hidden, shape.ffn, shape)
    assert found.asymoe is not None
    assert found.asymoe.sized
    savings = [1 - activated_parameters(found, shape, group) / shape.dense for group in ("text", "vision")]
    assert SAVING <= min(savings) <= 0.262
    again = design(given_settings, shape.hidden, shape.ffn)
    assert all(largest_layer(again, shape.hidden, group) <= 0.56 * shape.dense_ffn for group in ("text", "vision")), (
        "a bare layer gets the typical share"
    )


def test_given_widths_stay() -> None:
    found = designed("d256", vision_ffn=99, hyp_dim=48)
    assert found.asymoe is not None
    assert (found.asymoe.vision_ffn, found.asymoe.hyp_dim) == (99, 48)
    assert activated_parameters(found, SHAPES["d256"], "text") <= (1 - SAVING) * SHAPES["d256"].dense
    assert design(found, 256, 704, SHAPES["d256"]) == found, "a design is its own design"


@pytest.mark.parametrize("form", [{}, {"inter_kind": "euclidean"}, {"text_kind": "ffn"}, {"inter_kind": "ffn"}])
@pytest.mark.parametrize("layers", ["odd", "all"])
def test_designs_for_a_number(form: dict[str, Any], layers: str) -> None:
    # equal budgets: what MoIIE activates in the same layers, and half of what it has over dense
    shape = SHAPES["d256"]
    moiie = reference_parameters(asymoe(layers, size_plan="moiie_budget"), shape)
    for wanted in (moiie, (moiie + shape.dense) // 2):
        found = design_for(asymoe(layers, **form), shape, wanted)
        largest = max(activated_parameters(found, shape, group) for group in ("text", "vision"))
        assert 0.998 * wanted <= largest <= wanted


def test_what_cannot_be_designed() -> None:
    with pytest.raises(ValueError, match=r"no widths of scheme asymoe fit: 1 sparse layers of hidden 256 may activate"):
        design(asymoe([5]), 256, 704, SHAPES["d256"])
    with pytest.raises(ValueError, match=r"with \{'context_dim': 512\} given. Make all layers sparse"):
        designed("d256", context_dim=512)
    with pytest.raises(ValueError, match=r"moe\.scheme is 'moiie'; widths and sets of experts are counted for scheme"):
        design(MoESettings(), 256, 704)
    with pytest.raises(ValueError, match=r"moe\.asymoe\.context_dim is not known yet; design the widths first"):
        activated_parameters(asymoe(), SHAPES["d256"], "text", ("text",))
