"""Centred gates prefer no expert on the mean input of a modality, and the model computes what it did before."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from moiety.recipe.recipe import MoESettings
from moiety.vlm.centring import centre_gates
from moiety.vlm.configs import resolved
from moiety.vlm.model import moe_layers
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES

LLAVA = FAMILIES["llava-qwen2"]
GATED = ("moiie", "modality_routed", "two_router", "vanilla", "asymoe")


def skewed() -> Any:
    """A dense model whose FFN inputs have a large common part, as in trained models."""
    model = LLAVA.build()
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(3.0)
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.add_(1.0)
    return model


def batch() -> dict[str, torch.Tensor]:
    return LLAVA.batch("tItt", "ttI", "tt", "tItI")


def means(model: Any, seen: dict[str, torch.Tensor]) -> list[tuple[Any, dict[int, torch.Tensor]]]:
    """Router and mean input of each modality group, layer by layer."""
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    routers = [layer.router for layer in moe_layers(model)]
    hooks = [
        router.register_forward_pre_hook(lambda _, args, place=place: found.__setitem__(place, args[:2]))
        for place, router in enumerate(routers)
    ]
    with torch.no_grad():
        model(**seen)
    for hook in hooks:
        hook.remove()
    result = []
    for place, router in enumerate(routers):
        x, group = found[place][0], router.modality_group_of(found[place][1])
        result.append((router, {int(g): x[group == g].mean(0) for g in group.unique() if g >= 0}))
    return result


@pytest.mark.parametrize("scheme", GATED)
def test_the_mean_of_each_modality_prefers_no_expert(scheme: str) -> None:
    dense = skewed()
    copies = {"asymoe": {"size_plan": "full"}} if scheme == "asymoe" else {}
    model = upcycle(dense, MoESettings(scheme=scheme, layers="all", **copies))
    drawn = copy.deepcopy(model.state_dict())
    logits = model(**batch()).logits
    done = centre_gates(model, batch())
    assert done is not None
    assert set(done.tokens) == {"vision", "text"}
    for router, by_group in means(model, batch()):
        for members, gate in zip(router.groups.gate_members, router.gates.values(), strict=True):
            for member in members:
                scores = gate.weight @ by_group[member]
                assert scores.abs().max() < 1e-7 * by_group[member].norm()  # measured: 3.6e-9
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, drawn[name])}
    assert changed
    assert all(".router.gates." in name for name in changed)
    torch.testing.assert_close(model(**batch()).logits, logits, rtol=0, atol=5e-6)  # measured: 2.4e-7


def test_experts_are_used_more_evenly() -> None:
    model = upcycle(skewed(), MoESettings(layers="all"))
    done = centre_gates(model, batch())
    assert done is not None
    assert done.before["vision"] < 0.1 < 0.4 < done.after["vision"]
    assert "smallest share of an even load in any layer: vision 0% -> " in str(done)


def test_a_modality_without_tokens_is_left_alone() -> None:
    model = upcycle(skewed(), MoESettings(layers="all"))
    before = [layer.router.gates["vision"].weight.clone() for layer in moe_layers(model)]
    done = centre_gates(model, LLAVA.batch("tt", "t"))
    assert done is not None
    assert set(done.tokens) == {"text"}
    for layer, weight in zip(moe_layers(model), before, strict=True):
        assert torch.equal(layer.router.gates["vision"].weight, weight)


@pytest.mark.parametrize("scheme", ["modality", "always_on", "dense"])
def test_a_scheme_without_gates_has_nothing_to_centre(scheme: str) -> None:
    model = upcycle(LLAVA.build(), MoESettings(scheme=scheme))
    assert centre_gates(model, batch()) is None


def test_training_mode_is_restored() -> None:
    model = upcycle(LLAVA.build(), MoESettings()).train()
    centre_gates(model, batch())
    assert model.training


@pytest.mark.parametrize(
    ("origin", "scope", "start"),
    [("scratch", "joint_layers", "random"), ("outside", "per_layer", "centred"), (None, "per_layer", "centred")],
)
def test_defaults_depend_on_where_the_model_is_from(origin: str | None, scope: str, start: str) -> None:
    config = LLAVA.config()
    config.provenance = None if origin is None else {"origin": origin}
    found = resolved(MoESettings(), config)
    assert (found.aux_scope, found.gate_start) == (scope, start)
    given = resolved(MoESettings(aux_scope="joint_layers", gate_start="centred"), config)
    assert (given.aux_scope, given.gate_start) == ("joint_layers", "centred")
