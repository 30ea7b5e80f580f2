"""Laws that every router keeps, whoever wrote it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from torch import Tensor

from moiety.moe.asymoe.context import Context
from moiety.moe.routers import ROUTERS, Router
from moiety.moe.trace import Routing
from tests.moe.laws import GATES_SCORE, SCHEMES, Problem, law, problems
from tests.moe.toy_router import TOY
from tests.reference import choose

every_router = pytest.mark.parametrize("scheme", SCHEMES)


def build(problem: Problem, hidden: int = 5) -> Router:
    torch.manual_seed(0)
    try:
        router = ROUTERS[problem.settings.scheme](problem.groups, hidden, problem.settings).double()
    except ValueError:  # a router may refuse a switch or a number of choices that it does not know
        reject()
    with torch.no_grad():
        for parameter in router.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return router


def route(problem: Problem) -> Routing:
    return build(problem)(problem.x, problem.modality_ids, problem.context)


def decided_on(routing: Routing) -> Tensor:
    """The scores that index and weights were made of; most schemes keep no others."""
    return routing.extras.get("balance_logits", routing.logits)


@every_router
@law
@given(data=st.data())
def test_each_choice_is_distinct_open_and_best(scheme: str, data: st.DataObject) -> None:
    problem = data.draw(problems(scheme))
    routing = route(problem)
    for name, index, logits in zip(problem.names, routing.index.tolist(), decided_on(routing), strict=True):
        if name is None:
            continue
        visible = problem.groups.visible(name)
        assert set(index) <= set(visible)
        assert len(set(index)) == problem.top_k
        assert [e for e in range(problem.groups.num_experts) if logits[e] > float("-inf")] == list(visible)
        assert min(logits[index]) >= max([logits[e] for e in visible if e not in index], default=float("-inf"))


@every_router
@law
@given(data=st.data())
def test_weights_are_shares(scheme: str, data: st.DataObject) -> None:
    problem = data.draw(problems(scheme))
    weights, real = route(problem).weights, problem.modality_ids >= 0
    assert (weights >= 0).all()
    if problem.settings.norm_topk or not ROUTERS[scheme].has_gate:
        torch.testing.assert_close(weights[real].sum(-1), torch.ones(int(real.sum()), dtype=weights.dtype))


@every_router
@law
@given(data=st.data())
def test_padding_reaches_no_expert(scheme: str, data: st.DataObject) -> None:
    problem = data.draw(problems(scheme))
    routing, padding = route(problem), problem.modality_ids < 0
    assert (routing.index[padding] == problem.groups.num_experts).all()
    assert (routing.weights[padding] == 0).all()
    assert (routing.modality_group[padding] == -1).all()
    assert (routing.modality_group[~padding] >= 0).all()
    assert torch.isfinite(routing.logits).any(dim=-1).all()  # a row of -inf would be NaN in every softmax


@every_router
@law
@given(data=st.data())
def test_permuting_tokens_permutes_the_routing(scheme: str, data: st.DataObject) -> None:
    problem = data.draw(problems(scheme))
    order = torch.tensor(data.draw(st.permutations(range(len(problem.x)))))
    router = build(problem)
    given = problem.context
    moved = None if given is None else Context(given.output[order], given.mass[order])
    before = router(problem.x, problem.modality_ids, problem.context)
    after = router(problem.x[order], problem.modality_ids[order], moved)
    assert after.index.equal(before.index[order])
    torch.testing.assert_close(after.weights, before.weights[order])
    torch.testing.assert_close(after.logits, before.logits[order])


@every_router
@law
@given(data=st.data())
def test_other_modalities_do_not_matter(scheme: str, data: st.DataObject) -> None:
    """Given what the prompt says to a token; whether that may matter, ``test_layer.py`` asks of every scheme."""
    problem = data.draw(problems(scheme))
    router, text = build(problem), problem.modality_ids == 0
    before = router(problem.x, problem.modality_ids, problem.context)
    other = torch.where(text[:, None], problem.x, -3 * problem.x + 1)
    after = router(other, problem.modality_ids, problem.context)
    assert after.index[text].equal(before.index[text])
    torch.testing.assert_close(after.weights[text], before.weights[text])


@every_router
@law
@given(data=st.data())
def test_gradient_reaches_the_router_and_each_gate_that_has_tokens(scheme: str, data: st.DataObject) -> None:
    problem = data.draw(problems(scheme))
    router = build(problem)
    routing = router(problem.x, problem.modality_ids, problem.context)
    if not router.has_gate:
        assert not list(router.parameters())
        assert not routing.weights.requires_grad
        return
    assume(problem.top_k > 1)  # one renormalised choice has the constant weight 1
    (routing.weights * torch.randn_like(routing.weights)).sum().backward()
    grads = [parameter.grad for parameter in router.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert any(bool(grad.any()) for grad in grads) == any(problem.names)
    if scheme not in (*GATES_SCORE, TOY):  # what else a router may own, nobody can know here
        return
    for gate, members in zip(router.gates.values(), problem.groups.gates, strict=True):
        assert gate.weight.grad.isfinite().all()
        assert bool(gate.weight.grad.any()) == any(name in members for name in problem.names if name)


@every_router
@law
@given(data=st.data())
def test_same_seed_same_result(scheme: str, data: st.DataObject) -> None:
    problem = data.draw(problems(scheme))
    first, second = route(problem), route(problem)
    assert first.index.equal(second.index)
    assert first.weights.equal(second.weights)


@pytest.mark.parametrize("scheme", GATES_SCORE)
@law
@given(data=st.data())
def test_one_fused_product_equals_a_softmax_for_each_token(scheme: str, data: st.DataObject) -> None:
    """I08 for the router: the gates one by one, as the paper writes them."""
    problem = data.draw(problems(scheme))
    router = build(problem)
    routing = router(problem.x, problem.modality_ids, problem.context)
    gates = list(router.gates.values())
    for t, name in enumerate(problem.names):
        if name is None:
            continue
        visible = problem.groups.visible(name)
        z = gates[problem.groups.gate_of(name)].weight @ problem.x[t]
        scores = decided_on(routing)[t, list(visible)]
        assert problem.context is not None or scores.equal(routing.logits[t, list(visible)])
        chosen, weights = choose(scores, problem.top_k, problem.settings.norm_topk)
        assert routing.index[t].tolist() == [visible[row] for row in chosen]
        torch.testing.assert_close(routing.weights[t], torch.stack(weights))
        torch.testing.assert_close(routing.logits[t, list(visible)], z)
