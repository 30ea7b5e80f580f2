"""Balancing by a selection bias, against a loop in float64 and over two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed as dist
from torch import multiprocessing

from moiety.moe.balance import LoadBalance, SelectionBias
from moiety.moe.layer import ModalityMoE
from moiety.moe.losses import auxiliary_losses
from moiety.moe.routers import ROUTERS, resolve
from moiety.moe.trace import Routing, RoutingTrace, recording
from moiety.recipe.recipe import MoESettings
from tests import apart  # noqa: F401  tells the fork server what to import
from tests.moe.laws import BY_GATES, law, problems

BIAS: dict[str, Any] = {"balance": "bias", "bias_rate": 0.25}


@pytest.mark.parametrize("scheme", BY_GATES)
@law
@given(data=st.data())
def test_the_bias_counts_in_the_choice_and_not_in_the_weights(scheme: str, data: st.DataObject) -> None:
    problem = data.draw(problems(scheme))
    settings = problem.settings.model_copy(update=BIAS)
    torch.manual_seed(0)
    router: Any = ROUTERS[scheme](problem.groups, 5, settings).double()
    with torch.no_grad():
        router.selection.bias.normal_()
    with torch.no_grad():
        routing = router(problem.x, problem.modality_ids)
    for token, name in enumerate(problem.names):
        if name is None:
            assert (routing.weights[token] == 0).all()
            continue
        row = problem.groups.names.index(name)
        scores = {e: float(routing.logits[token, e]) for e in problem.groups.visible(name)}
        biased = {e: score + float(router.selection.bias[row, e]) for e, score in scores.items()}
        best = sorted(biased, key=lambda e: -biased[e])[: problem.top_k]
        best.sort(key=lambda e: -scores[e])  # the largest weight comes first
        assert routing.index[token].tolist() == best
        over = best if settings.norm_topk else list(scores)
        total = sum(torch.tensor(scores[e], dtype=torch.float64).exp() for e in over)
        expected = torch.stack([torch.tensor(scores[e], dtype=torch.float64).exp() / total for e in best])
        torch.testing.assert_close(routing.weights[token], expected)


@pytest.mark.parametrize("scheme", BY_GATES)
@law
@given(data=st.data())
def test_biases_move_against_the_load_of_each_modality(scheme: str, data: st.DataObject) -> None:
    problem = data.draw(problems(scheme))
    settings, groups = problem.settings.model_copy(update=BIAS), problem.groups
    router: Any = ROUTERS[scheme](groups, 5, settings).double()
    balance, trace = LoadBalance([(3, router.selection)]), RoutingTrace()
    for _ in range(2):  # two micro-batches are counted together
        trace.append(3, router(problem.x, problem.modality_ids))
    balance.add(trace)
    balance.step()
    index = trace.entries[0][1].index.tolist()
    for row, name in enumerate(groups.names):
        load = dict.fromkeys(groups.visible(name), 0)
        for token, other in enumerate(problem.names):
            for expert in index[token] if other == name else ():
                load[expert] += 1
        mean = sum(load.values()) / len(load)
        for expert in range(groups.num_experts):
            lack = mean - load[expert] if expert in load else 0
            assert float(router.selection.bias[row, expert]) == 0.25 * ((lack > 0) - (lack < 0))
    before = router.selection.bias.clone()
    balance.step()  # nothing was counted since
    assert torch.equal(router.selection.bias, before)


def test_a_bias_of_zero_chooses_as_no_bias_to_the_bit() -> None:
    x, ids = torch.randn(2, 9, 8), torch.randint(-1, 2, (2, 9))
    layers = []
    for settings in (MoESettings(), MoESettings(balance="both")):
        torch.manual_seed(0)
        layers.append(ModalityMoE(8, 16, settings))
    assert torch.equal(layers[0](x, ids), layers[1](x, ids))
    counts = [layer.num_parameters for layer in layers]
    assert counts[0] == counts[1]  # a bias is state, and no parameter


@pytest.mark.parametrize(("balance", "factor"), [("loss", 1.0), ("both", 1.0), ("bias", 0.0)])
def test_a_bias_alone_takes_the_loss_out(balance: Any, factor: float) -> None:
    settings = MoESettings(balance=balance, aux_coef=0.5)
    layer = ModalityMoE(8, 16, settings)
    with recording() as trace:
        layer(torch.randn(1, 6, 8), torch.tensor([[0, 1, 0, 1, 1, -1]]))
    losses = auxiliary_losses(trace, layer.groups, settings)
    torch.testing.assert_close(losses.total, factor * 0.5 * sum(losses.balance.values()))


def test_the_bias_stays_in_float32_and_is_saved() -> None:
    layer = ModalityMoE(8, 16, MoESettings(**BIAS)).bfloat16()
    assert layer.router.selection.bias.dtype == torch.float32
    assert layer.router.gates["text"].weight.dtype == torch.bfloat16
    layer.router.selection.move(torch.tensor([[3.0, 1, 0, 0], [0.0, 0, 2, 2]]))
    other = ModalityMoE(8, 16, MoESettings(**BIAS)).bfloat16()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.router.selection.bias, torch.tensor([[-0.25, 0.25, 0.25, 0], [0, 0.25, -0.25, -0.25]]))


def test_a_scheme_without_gates_has_no_bias() -> None:
    with pytest.raises(
        ValueError, match=r"moe.balance is 'bias', but scheme 'always_on' has no gates that a selection"
    ):
        resolve(MoESettings(scheme="always_on", balance="bias"))


def test_a_skewed_gate_is_spread() -> None:
    """A gate that sends every image token to the same two of three experts uses all three after some steps."""
    torch.manual_seed(0)
    settings = MoESettings(balance="bias", bias_rate=0.02)
    layer = ModalityMoE(8, 16, settings)
    with torch.no_grad():
        layer.router.gates["vision"].weight.zero_()[:2, :2] = torch.eye(2)
    x, ids = torch.randn(1, 64, 8), torch.ones(1, 64, dtype=torch.long)
    x[..., :2] = 1 + torch.rand(1, 64, 2)  # the third expert has score 0 and is never among the two largest
    balance = LoadBalance([(0, layer.router.selection)])

    def least() -> float:
        with recording() as trace:
            layer(x, ids)
        balance.add(trace)
        return min((trace.entries[0][1].index == e).sum().item() for e in range(3)) / (128 / 3)

    before = least()
    for _ in range(100):
        balance.step()
        after = least()
    assert before == 0
    assert after > 0.5


IDS = torch.tensor([1, 1, 0, 1, 0, 0, 0, -1, 0, 0, 0])
SHARES = (slice(0, 4), slice(4, 11))  # the second rank has neither as many tokens nor an image


def moved(rows: slice) -> torch.Tensor:
    groups, trace = resolve(MoESettings())[1], RoutingTrace()
    torch.manual_seed(0)
    index = torch.stack([torch.randperm(3)[:2] for _ in IDS]) + (IDS == 0).long()[:, None]
    index[IDS < 0] = groups.num_experts
    group = torch.where(IDS < 0, -1, 1 - IDS)
    trace.append(0, Routing(torch.zeros(len(IDS), 4)[rows], index[rows], torch.ones(len(IDS), 2)[rows], group[rows]))
    bias = SelectionBias(groups, 0.5)
    balance = LoadBalance([(0, bias)])
    balance.add(trace)
    balance.step()
    return bias.bias


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(moved(SHARES[rank]), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.ranks
def test_two_processes_move_as_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(worker, (str(tmp_path),), nprocs=2, start_method="forkserver")
    expected = moved(slice(0, 11))
    assert expected.any()
    assert not torch.equal(moved(SHARES[1]), expected)  # one rank alone would move otherwise
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"rank{rank}.pt"), expected)
