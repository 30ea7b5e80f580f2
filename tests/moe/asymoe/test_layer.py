"""The sparse layer of scheme asymoe: context, routing, experts of several kinds and what the trace keeps of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moiety.moe.asymoe.activated import largest_layer
from moiety.moe.asymoe.context import Context, Evidence
from moiety.moe.layer import ModalityMoE
from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from tests.moe.slots import answer
from tests.moe.test_layer import IDS, REAL, layer_of, states


def asymmetric(**own: Any) -> ModalityMoE:
    return layer_of("asymoe", asymoe={"size_plan": "full", **own})


@pytest.mark.parametrize(
    "own", [{}, {"inter_kind": "ffn", "text_kind": "context"}, {"preset": "faithful"}, {"preset": "lean"}]
)
def test_the_mixture_is_the_weighted_sum_of_its_experts(own: dict[str, Any]) -> None:
    """Eq. 1: each chosen expert alone, with weight 1, then the sum."""
    layer, x, evidence = asymmetric(**own), states(), Evidence(REAL)
    with recording() as trace:
        trace.keeps_inputs = True
        found = layer(x, IDS, evidence)
    routing = trace.entries[0][1]
    context = Context(routing.extras["context"], routing.extras["mass"])
    flat, closed = x.reshape(12, 8), layer.groups.num_experts
    expected = torch.zeros_like(flat)
    for expert in range(closed):
        weight = torch.where(routing.index == expert, routing.weights, 0).sum(-1)
        alone = torch.where(weight > 0, expert, closed).unsqueeze(-1)
        ones = torch.ones_like(routing.weights[:, :1])
        expected += weight.unsqueeze(-1) * answer(layer.experts, flat, alone, ones, context, routing.modality_group)
    torch.testing.assert_close(found.view(12, 8), expected)
    assert routing.extras["x"].equal(flat)


def test_a_trace_holds_what_losses_and_lens_read() -> None:
    layer, x = asymmetric(), states()
    with recording() as trace:
        layer(x, IDS, Evidence(REAL))
        assert set(trace.entries[0][1].extras) == {"score", "mass", "alpha"}
        trace.keeps_inputs = True
        layer(x, IDS, Evidence(REAL))
        extras = trace.entries[1][1].extras
    assert set(extras) == {"score", "mass", "alpha", "x", "context"}
    assert extras["alpha"].shape == (12, 1)
    alpha, score = layer.probe(extras["x"], extras["context"], extras["mass"])
    torch.testing.assert_close((alpha, score), (extras["alpha"], extras["score"]))
    with pytest.raises(TypeError, match="sparse layer 3 has no evidence experts, so it has no gates to probe"):
        asymmetric(text_kind="ffn").probe(*(extras[name] for name in ("x", "context", "mass")))


def test_context_is_looked_up_only_where_somebody_reads_it() -> None:
    assert layer_of("moiie").context is None
    assert asymmetric(text_kind="ffn").context is None
    assert asymmetric(text_kind="context").context is not None
    settings = {"layers": [1, 3], "asymoe": {"size_plan": "full", "evidence_layers": "deepest_half"}}
    upper, lower = (ModalityMoE(8, 16, MoESettings(scheme="asymoe", **settings), layer_index=i) for i in (3, 1))
    assert upper.context is not None
    assert lower.context is None
    assert lower.router.score is None


OWN_WIDTHS = {"hyp_dim": 4, "inter_ffn": 6, "vision_ffn": 9, "evidence_dim": 5, "context_dim": 8}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"evidence_gain": "learned", "gate_input": "x", "null_key": False},
    {"inter_text_input": "cascade", "score": "off"},
    {"inter_kind": "ffn", "text_kind": "context"},
    {"inter_kind": "product", "product_factors": 2, "text_kind": "ffn"},
    {"preset": "faithful"},
    {"preset": "lean"},
    {"plain_text": 1, "inter_text_input": "cascade_residual"},
]


@pytest.mark.parametrize("own", VARIANTS)
@pytest.mark.parametrize("name", ["text", "vision"])
def test_activated_parameters_equal_the_formula(own: dict[str, Any], name: str) -> None:
    """T19 for a layer: counted in the modules and counted from the widths."""
    settings = MoESettings(scheme="asymoe", asymoe={**OWN_WIDTHS, **own})
    assert ModalityMoE(8, 16, settings).activated_parameters(name) == largest_layer(settings, 8, name)


def test_activated_parameters_of_a_plain_scheme() -> None:
    assert layer_of("moiie").activated_parameters("text") == 2 * 3 * 8 * 16 + 3 * 8
    assert layer_of("modality").activated_parameters("vision") == 3 * 8 * 16


@pytest.mark.parametrize("own", [{}, {"evidence_form": "gelu", "inter_residual": False}])
def test_no_gradient_is_dead_after_one_step(own: dict[str, Any]) -> None:
    """T13: W_Q, W_K, W_V, W_O, w_evd and the context half all learn, although some of them start at 0."""
    layer, x = asymmetric(**own), states()
    layer.context.initialise()
    layer.router.initialise()
    layer.experts.initialise()
    layer.experts.load_from_dense(torch.randn(32, 8) * 0.3, torch.randn(8, 16) * 0.3)
    wanted = {"q_proj", "k_proj", "v_proj", "o_proj", "score.weight", "context_proj", "w_alpha"}
    for step in range(2):
        layer.zero_grad()
        (layer(x, IDS, Evidence(REAL)) - 1).square().sum().backward()
        learns = {name for name in wanted for key, p in layer.named_parameters() if name in key and p.grad.any()}
        assert step == 0 or learns == wanted
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter -= 0.1 * parameter.grad
