"""Shares for logs and pictures, against counting by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moiety.moe import statistics
from moiety.moe.routers import ROUTERS, resolve
from moiety.moe.trace import Routing
from moiety.recipe.recipe import MoESettings
from tests.moe.laws import SCHEMES, law, problems
from tests.reference import co_selected, entropy, softmax


def example() -> tuple[Routing, object]:
    """The two tokens of the worked example in the specification, and one of padding."""
    _, groups, _ = resolve(MoESettings(scheme="moiie"))
    inf = float("inf")
    logits = torch.tensor([[1.0, 0, -1, -inf], [-inf, 0, 2, 1], [5, 5, 5, 5]])
    return Routing(
        logits,
        torch.tensor([[0, 1], [2, 3], [4, 4]]),
        torch.tensor([[0.7311, 0.2689], [0.7311, 0.2689], [0, 0]]),
        torch.tensor([0, 1, -1]),
    ), groups


def test_worked_example() -> None:
    routing, groups = example()
    count = statistics.tally(routing, groups)
    assert statistics.load_share(count).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert statistics.inter_share(count, groups).tolist() == [0.5, 0.5]
    assert statistics.inter_mix(count, groups).tolist() == [[1, 0], [0, 1]]
    assert statistics.max_violation(count, groups).tolist() == [0.5, 0.5]
    torch.testing.assert_close(statistics.weight_share(count)[0], torch.tensor([0.7311, 0.2689, 0, 0]))
    torch.testing.assert_close(statistics.entropy(count), torch.tensor([0.8324, 0.8324]), atol=1e-4, rtol=0)
    normalised = statistics.normalised_entropy(count, groups)
    torch.testing.assert_close(normalised, torch.tensor([0.7577, 0.7577]), atol=1e-4, rtol=0)
    torch.testing.assert_close(statistics.top1(count), torch.tensor([0.6652, 0.6652]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
@law
@given(data=st.data())
def test_shares_are_counts_by_hand(scheme: str, data: st.DataObject) -> None:
    problem = data.draw(problems(scheme))
    torch.manual_seed(0)
    groups = problem.groups
    router = ROUTERS[scheme](groups, 5, problem.settings).double()
    routing = router(problem.x, problem.modality_ids)
    count = statistics.tally([routing, routing], groups)  # two equal batches: twice the sums, the same shares
    load, together = statistics.load_share(count), statistics.co_select(count)
    for number, name in enumerate(groups.names):
        mine = [t for t, other in enumerate(problem.names) if other == name]
        assert count.tokens[number] == 2 * len(mine)
        chosen = [routing.index[t].tolist() for t in mine]
        for e in range(groups.num_experts):
            by_hand = sum(e in c for c in chosen) / max(problem.top_k * len(mine), 1)
            assert float(load[number, e]) == pytest.approx(by_hand, abs=1e-6)
            for f in range(groups.num_experts):
                assert float(together[number, e, f]) == pytest.approx(co_selected(chosen, e, f), abs=1e-6)
        if mine:
            visible = list(groups.visible(name))
            ps = [softmax(routing.logits[t, visible]) for t in mine]
            by_hand = sum(map(entropy, ps)) / len(ps)
            assert float(statistics.entropy(count)[number]) == pytest.approx(by_hand, abs=1e-5)
            assert float(statistics.normalised_entropy(count, groups)[number]) == pytest.approx(
                by_hand / math.log(max(len(visible), 2)), abs=1e-5
            )
            assert float(load[number].sum()) == pytest.approx(1, abs=1e-6)
            inter = sum(float(load[number, e]) for e in groups.inter)
            assert float(statistics.inter_share(count, groups)[number]) == pytest.approx(inter, abs=1e-6)


def test_a_group_without_tokens_has_shares_of_zero() -> None:
    routing, groups = example()
    only_text = Routing(routing.logits[1:], routing.index[1:], routing.weights[1:], routing.modality_group[1:])
    count = statistics.tally(only_text, groups)
    for shares in (
        statistics.load_share(count),
        statistics.weight_share(count),
        statistics.entropy(count),
        statistics.max_violation(count, groups),
        statistics.top1(count),
    ):
        assert (shares[0] == 0).all()
        assert shares.isfinite().all()


def test_padding_changes_nothing() -> None:
    """I07 for the statistics."""
    routing, groups = example()
    bare = Routing(routing.logits[:2], routing.index[:2], routing.weights[:2], routing.modality_group[:2])
    first, second = statistics.tally(routing, groups), statistics.tally(bare, groups)
    for name in ("slots", "weight", "together", "entropy", "largest", "tokens"):
        assert getattr(first, name).equal(getattr(second, name))


def test_nothing_to_count_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no routing to count; was the forward run inside `with recording\(\)`\?"):
        statistics.tally([], example()[1])
