"""The tables of the schemes, and what is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from moiety.groups import ExpertGroups
from moiety.moe.routers import ROUTERS, SCHEMES, GatedRouter, MoIIE, resolve
from moiety.recipe.recipe import MoESettings
from tests.moe.laws import THREE, TWO


def table(scheme: str, **known: object) -> tuple[ExpertGroups, int]:
    _, groups, top_k = resolve(MoESettings(scheme=scheme, **known))
    return groups, top_k


DEFAULTS = {
    "vanilla": ("inter×4", (0, 1, 2, 3), (0, 1, 2, 3), ("all",), 2),
    "two_router": ("inter×4", (0, 1, 2, 3), (0, 1, 2, 3), ("vision", "text"), 2),
    "modality": ("vision×1 + text×1", (0,), (1,), (), 1),
    "modality_routed": ("vision×2 + text×2", (0, 1), (2, 3), ("vision", "text"), 2),
    "moiie": ("vision×1 + inter×2 + text×1", (0, 1, 2), (1, 2, 3), ("vision", "text"), 2),
    "asymoe": ("vision×1 + inter×2 + text×1", (0, 1, 2), (1, 2, 3), ("vision", "text"), 2),
    "always_on": ("vision×1 + inter×1 + text×1", (0, 1), (1, 2), (), 2),
    "dense_wide": ("inter×1", (0,), (0,), (), 1),
}


@pytest.mark.parametrize("scheme", DEFAULTS)
def test_defaults_of_each_scheme(scheme: str) -> None:
    groups, top_k = table(scheme)
    found = groups.describe(), groups.visible("vision"), groups.visible("text"), groups.gate_names, top_k
    assert found == DEFAULTS[scheme]


def test_every_name_is_known() -> None:
    assert set(DEFAULTS) == set(ROUTERS) - {"toy"}
    assert list(SCHEMES) == ["dense", *DEFAULTS]


@pytest.mark.parametrize(
    ("private", "inter"), [(p, i) for p, i in itertools.product(range(17), range(17)) if p + i > 1]
)
def test_table_for_any_group_size(private: int, inter: int) -> None:
    """D07: the release fixed the text offset at 1, so experts died beyond 4."""
    groups, _ = table("moiie", experts={"vision": private, "inter": inter, "text": private})
    assert groups.num_experts == 2 * private + inter
    assert groups.visible("vision") == tuple(range(private + inter))
    assert groups.visible("text") == tuple(range(private, 2 * private + inter))
    assert set(groups.visible("vision")) | set(groups.visible("text")) == set(range(groups.num_experts))
    assert groups.inter == tuple(range(private, private + inter))


@pytest.mark.parametrize("experts", [(1, 2, 1), (2, 4, 2), (3, 0, 2), (0, 3, 2), (4, 4, 4)])
def test_every_expert_is_reachable_and_every_gate_row_learns(experts: tuple[int, int, int]) -> None:
    """D07 in numbers: with enough tokens each expert is chosen and each row of each gate gets a gradient."""
    vision, inter, text = experts
    settings = MoESettings(experts={"vision": vision, "inter": inter, "text": text})
    _, groups, _ = resolve(settings)
    router = MoIIE(groups, 6, settings)
    routing = router(torch.randn(400, 6), torch.arange(400) % 2)
    assert set(routing.index.unique().tolist()) == set(range(sum(experts)))
    (routing.weights * torch.randn_like(routing.weights)).sum().backward()
    for gate in router.gates.values():
        assert gate.weight.grad.any(dim=-1).all()


def test_three_modality_groups_route_as_listed() -> None:
    """I15: the pools of the first groups are not contiguous."""
    groups, _ = table("moiie", experts={"vision": 1, "audio": 1, "inter": 2, "text": 1}, modality_groups=THREE)
    assert groups.visible("vision") == (0, 2, 3)
    assert groups.visible("audio") == (1, 2, 3)
    assert groups.visible("text") == (2, 3, 4)
    settings = MoESettings(modality_groups=THREE)
    router = MoIIE(groups, 4, settings)
    logits = router(torch.randn(5, 4), torch.tensor([1, 2, 3, 0, 1])).logits
    open_to = [tuple(torch.isfinite(row).nonzero().flatten().tolist()) for row in logits]
    assert open_to == [(0, 2, 3), (0, 2, 3), (1, 2, 3), (2, 3, 4), (0, 2, 3)]


def test_the_order_of_mappings_does_not_move_experts() -> None:
    """A config that went through JSON may come back with sorted keys."""
    first, _ = table("moiie", experts={"vision": 1, "audio": 2, "inter": 3, "text": 4}, modality_groups=THREE)
    second, _ = table(
        "moiie",
        experts={"audio": 2, "inter": 3, "text": 4, "vision": 1},
        modality_groups=dict(sorted(THREE.items(), reverse=True)),
    )
    assert first.describe() == second.describe() == "vision×1 + audio×2 + inter×3 + text×4"
    assert first.names == second.names


def test_parameters_are_named_after_their_modality_group() -> None:
    settings = MoESettings()
    names = dict(MoIIE(resolve(settings)[1], 8, settings).named_parameters())
    assert {name: tuple(p.shape) for name, p in names.items()} == {
        "gates.vision.weight": (3, 8),
        "gates.text.weight": (3, 8),
    }


@pytest.mark.parametrize("scheme", [*DEFAULTS, "toy"])
def test_no_router_owns_a_buffer(scheme: str) -> None:
    settings = MoESettings(scheme=scheme)
    router, groups, _ = resolve(settings)
    assert not list(router(groups, 8, settings).buffers())


def test_gates_start_as_asked() -> None:
    settings = MoESettings(router_init_std=0.5)
    router = MoIIE(resolve(settings)[1], 4096, settings)
    assert router.gates["text"].weight.std().item() == pytest.approx(0.5, rel=0.05)
    settings = MoESettings(router_init_std=0.0)
    assert not MoIIE(resolve(settings)[1], 8, settings).gates["text"].weight.any()


def gated(dtype: torch.dtype = torch.float32, **known: object) -> GatedRouter:
    settings = MoESettings(**known)
    return MoIIE(resolve(settings)[1], 8, settings).to(dtype)


def test_router_dtype_float32_scores_in_float32() -> None:
    x, ids = torch.randn(6, 8).bfloat16(), torch.tensor([0, 1, 0, 1, 1, -1])
    routing = gated(torch.bfloat16, router_dtype="float32")(x, ids)
    assert routing.logits.dtype == torch.float32
    assert routing.weights.dtype == torch.bfloat16
    assert gated(torch.bfloat16)(x, ids).logits.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gated(router_dtype="float32")(x.float(), ids).logits.dtype == torch.float32
        assert gated()(x.float(), ids).logits.dtype == torch.bfloat16


def test_probabilities_that_underflow_do_not_open_closed_experts() -> None:
    router = gated()
    with torch.no_grad():
        for gate in router.gates.values():
            gate.weight.copy_(torch.tensor([1.0, -1, -2])[:, None].expand(3, 8))
    routing = router(torch.full((2, 8), 100.0), torch.tensor([1, 0]))
    assert routing.index.tolist() == [[0, 1], [1, 2]]
    assert routing.weights.tolist() == [[1, 0], [1, 0]]


def test_without_norm_topk_weights_are_the_probabilities() -> None:
    router = gated(norm_topk=False, top_k=1)
    routing = router(torch.randn(3, 8), torch.zeros(3).long())
    torch.testing.assert_close(routing.weights[:, 0], routing.logits.softmax(-1).amax(-1))


def test_a_modality_without_a_group_stops_the_router() -> None:
    message = r"without a modality group; known ids: \[0, 1, 2\] and -1 for padding. Add it to moe.modality_groups"
    with pytest.raises(RuntimeError, match=message):
        gated()(torch.zeros(2, 8), torch.tensor([0, 3]))


REFUSED = {
    "unknown scheme 'moie'; known: .*; did you mean 'moiie'": {"scheme": "moie"},
    "scheme 'dense' has no sparse layer to build; use the dense model": {"scheme": "dense"},
    "this scheme has no expert group 'visin'; known: inter, text, vision; did you mean 'vision'": {
        "experts": {"visin": 1, "inter": 2, "text": 1}
    },
    "no count for 'text'; name every group, 0 is allowed": {"experts": {"vision": 1, "inter": 2}},
    "this scheme has no expert group 'vision'": {"scheme": "vanilla", "experts": {"vision": 1, "inter": 4}},
    "top_k=4, but tokens of modality group 'vision' see 3 experts": {"top_k": 4},
    "top_k=1 with norm_topk=true makes every weight 1": {"top_k": 1},
    "tokens of modality group 'text' see no expert": {"experts": {"vision": 1, "inter": 0, "text": 0}},
    "see equally many; in vision×2 . text×1 they see": {"scheme": "modality", "experts": {"vision": 2, "text": 1}},
    "scheme 'modality' uses all 1 visible experts; moe.top_k=2 cannot be met": {"scheme": "modality", "top_k": 2},
    "moe.aux_coef names 'visoin'; known: text, vision; did you mean 'vision'": {"aux_coef": {"visoin": 0.1}},
    "a modality group cannot be called 'inter'": {"modality_groups": {0: "text", 1: "inter"}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_built_is_refused_with_a_reason(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(MoESettings(**REFUSED[message]))


def test_one_modality_only_is_a_plain_mixture() -> None:
    groups, _ = table("moiie", modality_groups={0: "text"})
    assert groups.describe() == "inter×2 + text×1"
    assert groups.gate_names == ("text",)
    assert table("moiie", modality_groups=TWO)[0].names == ("vision", "text")


KINDS_REFUSED = {
    "expert group 'inter' is of kind 'fnn'; known: .*; did you mean 'ffn'": {"kinds": {"inter": "fnn"}},
    "moe.kinds names expert group 'intr', which this scheme does not have; known: .*; did you mean 'inter'": {
        "kinds": {"intr": "ffn"}
    },
    "expert group 'text' is of kind 'evidnce'; known: .*; did you mean 'evidence'": {
        "scheme": "asymoe",
        "asymoe": {"text_kind": "evidnce"},
    },
}


@pytest.mark.parametrize("message", KINDS_REFUSED)
def test_unknown_kinds_are_refused_in_every_scheme(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(MoESettings(**KINDS_REFUSED[message]))


def test_kinds_stand_in_the_table() -> None:
    groups = resolve(MoESettings(kinds={"inter": "lorentz"}))[1]
    assert {group.name: group.kind for group in groups.groups} == {"vision": "ffn", "inter": "lorentz", "text": "ffn"}
    both = resolve(MoESettings(scheme="asymoe", kinds={"inter": "ffn", "vision": "product"}))[1]
    assert [group.kind for group in both.groups] == ["product", "ffn", "evidence"]
