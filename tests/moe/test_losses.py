"""Auxiliary losses against the fixtures of the specification and against float64 loops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moiety.moe.asymoe.context import Context
from moiety.moe.losses import alpha_target_loss, auxiliary_losses, load_balancing_loss, sum_over_ranks
from moiety.moe.routers import ROUTERS, resolve
from moiety.moe.trace import Routing, RoutingTrace
from moiety.recipe.recipe import MoESettings
from tests import reference
from tests.moe.laws import GATES_SCORE, SCHEMES, Problem, law, problems

GATED = [scheme for scheme in SCHEMES if scheme == "toy" or ROUTERS[scheme].has_gate]
INF = float("inf")


def trace_of(*layers: Tensor, modality_group: list[int], top_k: int = 2, padding: int = 4) -> RoutingTrace:
    trace, group = RoutingTrace(), torch.tensor(modality_group)
    for layer, logits in enumerate(layers):
        index = logits.topk(top_k).indices.masked_fill((group < 0)[:, None], padding)
        trace.append(layer, Routing(logits, index, torch.zeros_like(index).float(), group))
    return trace


def test_fixture_one_layer_two_tokens() -> None:
    groups = resolve(MoESettings())[1]
    logits = torch.tensor([[1.0, 0, -1, -INF], [-1, 0, 1, -INF]])
    losses = auxiliary_losses(trace_of(logits, modality_group=[0, 0]), groups, MoESettings())
    assert losses.balance["vision"].item() == pytest.approx(1.867093, abs=1e-6)
    assert losses.balance["text"].item() == 0
    assert losses.total.item() == pytest.approx(0.001867093, abs=1e-9)


@pytest.mark.parametrize(("scope", "expected"), [("joint_layers", 1.5), ("per_layer", 3.0)])
def test_fixture_two_layers_that_balance_each_other(scope: str, expected: float) -> None:
    chosen, probability = torch.tensor([[1.0, 1, 0], [0, 1, 1]]), torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    assert load_balancing_loss(chosen, probability, torch.ones(2), 3, scope).item() == expected


@pytest.mark.parametrize("scope", ["joint_layers", "per_layer"])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_even_probabilities_cost_top_k_and_collapse_costs_all(scope: str, top_k: int) -> None:
    """I04. Even probabilities cost top_k whatever was chosen."""
    settings = MoESettings(aux_scope=scope)
    groups = resolve(settings)[1]
    even = torch.tensor([0.0, 0, 0, -INF]).expand(5, 4)
    losses = auxiliary_losses(trace_of(even, even, modality_group=[0] * 5, top_k=top_k), groups, settings)
    assert losses.balance["vision"].item() == pytest.approx(top_k, abs=1e-6)
    collapse = torch.tensor([300.0, 100, 0, -INF]).expand(5, 4)
    losses = auxiliary_losses(trace_of(collapse, modality_group=[0] * 5, top_k=top_k), groups, settings)
    assert losses.balance["vision"].item() == pytest.approx(3, abs=1e-6)


def scoring(router: Any) -> list[Tensor]:
    """The parameters that raw scores are made of; the evidence score of asymoe is none of them."""
    return [weight for name, weight in router.named_parameters() if not name.startswith("score.")]


def several_layers(data: st.DataObject, scheme: str) -> tuple[Problem, RoutingTrace, list[Any]]:
    """The same tokens through one to three routers."""
    problem = data.draw(problems(scheme))
    trace, routers = RoutingTrace(), []
    for layer in range(data.draw(st.integers(1, 3))):
        torch.manual_seed(layer)
        routers.append(ROUTERS[scheme](problem.groups, 5, problem.settings).double())
        trace.append(layer, routers[-1](problem.x * 3, problem.modality_ids))
    return problem, trace, routers


@pytest.mark.parametrize("scheme", GATED)
@law
@given(data=st.data(), scope=st.sampled_from(["joint_layers", "per_layer"]))
def test_losses_and_their_gradients_equal_the_loops(scheme: str, data: st.DataObject, scope: str) -> None:
    problem, trace, routers = several_layers(data, scheme)
    settings = problem.settings.model_copy(update={"aux_scope": scope, "z_loss_coef": 0.1, "aux_coef": 0.5})
    losses = auxiliary_losses(trace, problem.groups, settings)
    total, rows = torch.zeros(()).double(), []
    for name, members in zip(problem.groups.gate_names, problem.groups.gates, strict=True):
        visible = list(problem.groups.visible(members[0]))
        layers = [
            [routing.logits[t, visible] for t, group in enumerate(problem.names) if group in members]
            for _, routing in trace.entries
        ]
        expected = reference.load_balancing(layers, problem.top_k, scope)
        torch.testing.assert_close(losses.balance[name], expected)
        total, rows = total + 0.5 * expected, rows + [z for layer in layers for z in layer]
    torch.testing.assert_close(losses.z, reference.z_loss(rows))
    total = total + 0.1 * reference.z_loss(rows)
    torch.testing.assert_close(losses.total, total)
    weights = [weight for router in routers for weight in scoring(router)]
    ours = torch.autograd.grad(losses.total, weights, retain_graph=True)
    theirs = torch.autograd.grad(total + 0 * sum(w.sum() for w in weights), weights)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("scheme", GATED)
def test_absent_modalities_cost_a_differentiable_zero(scheme: str) -> None:
    """I04, D23: every gate of a rank without images still gets a gradient, of 0."""
    settings = MoESettings(scheme=scheme, z_loss_coef=0.1)
    router, groups, _ = resolve(settings)
    module = router(groups, 8, settings)
    trace = RoutingTrace()
    trace.append(1, module(torch.randn(4, 8), torch.zeros(4).long()))
    losses = auxiliary_losses(trace, groups, settings)
    assert losses.balance.get("vision", torch.zeros(())).item() == 0
    losses.total.backward()
    assert all(weight.grad.isfinite().all() for weight in scoring(module))
    for name, gate in module.gates.items() if scheme in (*GATES_SCORE, "toy") else ():
        assert bool(gate.weight.grad.any()) == (name != "vision")


def test_nothing_but_padding_costs_nothing() -> None:
    settings = MoESettings(z_loss_coef=1.0)
    router, groups, _ = resolve(settings)
    module, trace = router(groups, 8, settings), RoutingTrace()
    trace.append(1, module(torch.randn(3, 8), torch.full((3,), -1)))
    losses = auxiliary_losses(trace, groups, settings)
    losses.total.backward()
    assert losses.total.item() == 0
    assert not module.gates["text"].weight.grad.any()


def test_padding_changes_no_loss() -> None:
    """I07 for the losses: neither the values nor the number of padding positions matter."""
    groups = resolve(MoESettings())[1]
    logits = torch.randn(6, 4)
    logits[:, 3] = -INF
    settings = MoESettings(z_loss_coef=0.3)
    padded = auxiliary_losses(trace_of(logits, modality_group=[0, 0, -1, 0, -1, -1]), groups, settings)
    bare = auxiliary_losses(trace_of(logits[[0, 1, 3]], modality_group=[0, 0, 0]), groups, settings)
    torch.testing.assert_close(padded.total, bare.total)


@pytest.mark.parametrize("scheme", ["modality", "always_on", "dense_wide"])
def test_schemes_without_gates_have_no_loss(scheme: str) -> None:
    settings = MoESettings(scheme=scheme, z_loss_coef=1.0)
    router, groups, _ = resolve(settings)
    trace = RoutingTrace()
    trace.append(0, router(groups, 8, settings)(torch.randn(3, 8), torch.tensor([0, 1, 1])))
    losses = auxiliary_losses(trace, groups, settings)
    assert losses.balance == {}
    assert losses.total.item() == 0


def test_an_empty_trace_costs_nothing() -> None:
    assert auxiliary_losses(RoutingTrace(), resolve(MoESettings())[1], MoESettings()).total.item() == 0


def test_coefficients_apply_to_their_own_group() -> None:
    groups = resolve(MoESettings())[1]
    logits = torch.tensor([[1.0, 0, -1, -INF], [-INF, 5, 1, 0]])
    settings = MoESettings(aux_coef={"vision": 0.0, "text": 2.0})
    losses = auxiliary_losses(trace_of(logits, modality_group=[0, 1]), groups, settings)
    torch.testing.assert_close(losses.total, 2 * losses.balance["text"])


def test_losses_are_taken_in_float32_from_bfloat16_scores() -> None:
    groups = resolve(MoESettings())[1]
    logits = torch.randn(50, 4).bfloat16()
    logits[:, 3] = -INF
    low = auxiliary_losses(trace_of(logits, modality_group=[0] * 50), groups, MoESettings())
    high = auxiliary_losses(trace_of(logits.double(), modality_group=[0] * 50), groups, MoESettings())
    assert low.total.dtype == torch.float32
    torch.testing.assert_close(low.total.double(), high.total, rtol=1e-6, atol=0)


def test_statistics_of_two_ranks_make_the_loss_of_one_process() -> None:
    """``aux_stats: global`` with the sum over ranks written out; two real processes: test_global_losses.py."""
    settings = MoESettings(z_loss_coef=0.1, aux_coef={"vision": 1.0, "text": 2.0})
    router, groups, _ = resolve(settings)
    module = router(groups, 8, settings).double()
    x, ids = torch.randn(9, 8).double(), torch.tensor([1, 1, 0, 1, 0, 0, 0, -1, 0])

    def losses(rows: slice, reduce: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        trace = RoutingTrace()
        trace.append(0, module(x[rows], ids[rows]))
        return auxiliary_losses(trace, groups, settings, reduce).total

    shares: list[Tensor] = []
    for rows in (slice(0, 4), slice(4, 9)):  # the second rank has text only
        losses(rows, lambda value: shares.append(value) or value)
    total = losses(slice(0, 4), lambda value: sum(shares))
    torch.testing.assert_close(total, losses(slice(0, 9)))
    weight = module.gates["text"].weight
    torch.testing.assert_close(torch.autograd.grad(total, weight), torch.autograd.grad(losses(slice(0, 9)), weight))


def test_one_process_sums_over_itself() -> None:
    value = torch.randn(3)
    assert sum_over_ranks(value) is value


# -- scheme asymoe ---------------------------------------------------------------------------------------------------
def asymmetric(**own: Any) -> MoESettings:
    return MoESettings(scheme="asymoe", z_loss_coef=0.1, asymoe=own)


def decisions(settings: MoESettings, layers: int = 2) -> RoutingTrace:
    """Routers of scheme asymoe whose tokens see evidence; alpha is random."""
    trace, ids = RoutingTrace(), torch.tensor([0, 0, 1, 0, -1, 1, 0, 0])
    for layer in range(layers):
        torch.manual_seed(layer)
        router, groups, _ = resolve(settings)
        module = router(groups, 8, settings)
        torch.nn.init.normal_(module.score.weight, std=3)
        routing = module(torch.randn(8, 8), ids, Context(torch.randn(8, 8), torch.rand(8)))
        alpha = torch.rand(8, groups.groups[-1].count, requires_grad=True)
        trace.append(layer, dataclasses.replace(routing, extras={**routing.extras, "alpha": alpha}))
    return trace


def test_balance_reads_raw_scores_unless_the_routing_names_others() -> None:
    """Spec 8: F counts what was chosen with the boost, P and the z-loss read raw scores."""
    raw, boosted = asymmetric(), asymmetric(balance_logits="boosted")
    groups = resolve(raw)[1]
    found = auxiliary_losses(decisions(raw), groups, raw)
    literal = auxiliary_losses(decisions(boosted), groups, boosted)
    assert literal.z.item() == found.z.item()
    assert literal.balance["vision"].item() == pytest.approx(found.balance["vision"].item(), abs=1e-6)
    assert abs(literal.balance["text"].item() - found.balance["text"].item()) > 1e-3
    swapped = decisions(boosted)
    for layer, routing in enumerate(routing for _, routing in list(swapped.entries)):
        plain = dataclasses.replace(routing, logits=routing.extras["balance_logits"], extras={})
        swapped.entries[layer] = (layer, plain)
    expected = auxiliary_losses(swapped, groups, raw)
    assert literal.balance["text"].item() == pytest.approx(expected.balance["text"].item(), abs=1e-6)


def test_alpha_is_pulled_towards_its_target_by_the_tokens_that_chose_the_expert() -> None:
    settings = asymmetric(alpha_mode="target", alpha_target=0.4, alpha_weight=0.5)
    trace, groups = decisions(settings), resolve(settings)[1]
    losses = auxiliary_losses(trace, groups, settings)
    distances = []
    for _, routing in trace.entries:
        chose = (routing.index == 3).any(dim=-1)
        assert 0 < int(chose.sum()) < 8
        distances.append((routing.extras["alpha"][chose, 0].mean() - 0.4) ** 2)
    expected = torch.stack(distances).mean()
    torch.testing.assert_close(losses.alpha, expected)
    others = auxiliary_losses(trace, groups, asymmetric())
    assert others.alpha is None
    torch.testing.assert_close(losses.total, others.total + 0.5 * expected)
    alphas = [routing.extras["alpha"] for _, routing in trace.entries]
    ours, theirs = (torch.autograd.grad(loss, alphas, retain_graph=True) for loss in (losses.alpha, expected))
    torch.testing.assert_close(ours, theirs)


def test_an_evidence_expert_nobody_chose_pulls_at_nothing() -> None:
    settings = asymmetric(alpha_mode="target")
    groups, alpha = resolve(settings)[1], torch.rand(2, 1, requires_grad=True)
    logits = torch.zeros(2, 4)
    routing = Routing(
        logits, torch.tensor([[1, 2], [2, 1]]), torch.ones(2, 2) / 2, torch.ones(2).long(), {"alpha": alpha}
    )
    loss = alpha_target_loss([[routing]], groups, 0.3)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, alpha)[0].any()
    bare = dataclasses.replace(routing, extras={})
    assert alpha_target_loss([[bare]], groups, 0.3).item() == 0


def test_the_mean_alpha_of_two_ranks_is_that_of_all_their_tokens() -> None:
    settings = asymmetric(alpha_mode="target")
    trace, groups = decisions(settings, layers=1), resolve(settings)[1]
    routing = trace.entries[0][1]
    halves = [
        Routing(*(part[own] for part in (routing.logits, routing.index, routing.weights, routing.modality_group)),
                {"alpha": routing.extras["alpha"][own]})
        for own in (slice(0, 3), slice(3, 8))
    ]  # fmt: skip
    sums: list[Tensor] = []
    for half in halves:
        alpha_target_loss([[half]], groups, 0.3, lambda value: sums.append(value) or value)  # type: ignore[func-returns-value]
    found = [alpha_target_loss([[half]], groups, 0.3, lambda value: sums[0] + sums[1]) for half in halves]
    expected = alpha_target_loss([[routing]], groups, 0.3)
    assert [loss.item() for loss in found] == [pytest.approx(expected.item(), abs=1e-7)] * 2
