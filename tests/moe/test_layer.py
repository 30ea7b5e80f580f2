"""The sparse layer as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from moiety.moe.asymoe.context import Evidence
from moiety.moe.experts.kinds import FFNExperts
from moiety.moe.kernels import KERNELS
from moiety.moe.layer import ModalityMoE
from moiety.moe.routers import ROUTERS
from moiety.moe.trace import Routing, recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.placeholders import without_padding
from tests.moe.laws import BY_GATES, OWN, SCHEMES, Problem, law, problems
from tests.reference import mixture

every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
IDS = torch.tensor([[0, 1, 1, 1, 0, -1], [0, 0, 2, 2, 0, 0]])
REAL = IDS >= 0


def layer_of(scheme: str = "moiie", dtype: torch.dtype = torch.float64, **known: Any) -> ModalityMoE:
    torch.manual_seed(0)
    settings = MoESettings(scheme=scheme, router_init_std=0.5, **{**OWN.get(scheme, {}), **known})
    layer = ModalityMoE(8, 16, settings, layer_index=3)
    for parameter in layer.experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer.to(dtype)


def take(layer: ModalityMoE, kernel: str) -> None:
    """Let all plain banks of the layer use one kernel."""
    for module in layer.modules():
        if isinstance(module, FFNExperts):
            module.kernel = kernel


def states(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 6, 8, dtype=dtype)


def named_gates(layer: ModalityMoE, problem: Problem) -> dict[str, Tensor] | None:
    if not ROUTERS[problem.settings.scheme].has_gate:
        return None
    weights = [gate.weight for gate in layer.router.gates.values()]
    return {name: weights[layer.groups.gate_of(name)] for name in layer.groups.names}


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s in BY_GATES or (s in ROUTERS and not ROUTERS[s].has_gate)])
@law
@given(data=st.data(), kernel=st.sampled_from(["loop", "reference"]))
def test_equals_the_paper_token_by_token(scheme: str, data: st.DataObject, kernel: str) -> None:
    """I08, I09, D03: outputs and all gradients, for any number of tokens of each modality."""
    problem = data.draw(problems(scheme))
    torch.manual_seed(0)
    layer = ModalityMoE(5, 4, problem.settings).double()
    take(layer, kernel)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x, experts = problem.x.requires_grad_(), layer.experts
    leaves = [x, *layer.parameters()]
    visible = {name: layer.groups.visible(name) for name in layer.groups.names}
    expected = mixture(
        x,
        problem.names,
        named_gates(layer, problem),
        visible,
        experts.gate_up_proj.unbind(),
        experts.down_proj.unbind(),
        problem.top_k,
        problem.settings.norm_topk,
    )
    found = layer(x, problem.modality_ids)
    torch.testing.assert_close(found, expected)
    probe = torch.randn_like(found)
    ours, theirs = ((out * probe).sum() + 0 * sum(leaf.sum() for leaf in leaves) for out in (found, expected))
    torch.testing.assert_close(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves))


@every_scheme
def test_engines_agree_and_repeat_bit_for_bit(scheme: str) -> None:
    """I09."""
    layer, x = layer_of(scheme, torch.float32), states(torch.float32)
    results = {}
    for kernel in KERNELS:
        take(layer, kernel)
        runs = [
            [y.detach(), *torch.autograd.grad(y.square().sum(), list(layer.experts.parameters()))]
            for y in (layer(x, IDS), layer(x, IDS))
        ]
        assert all(a.equal(b) for a, b in zip(*runs, strict=True))
        results[kernel] = runs[0]
    for kernel in KERNELS:
        torch.testing.assert_close(results[kernel], results["reference"], rtol=1e-5, atol=1e-5)


@every_scheme
def test_step_0_equals_the_dense_layer(scheme: str) -> None:
    """I01 for one layer, one bfloat16 run within the looser bound."""
    gate_up, down = torch.randn(32, 8) * 0.3, torch.randn(8, 16) * 0.3
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        layer, x = layer_of(scheme, dtype), states(dtype)
        layer.experts.load_from_dense(gate_up, down)
        gate, up = F.linear(x, gate_up.to(dtype)).chunk(2, -1)
        dense = F.linear(F.silu(gate) * up, down.to(dtype))[REAL].double()
        assert (layer(x, IDS)[REAL].double() - dense).norm() <= bound * dense.norm()


@every_scheme
def test_padding_is_exactly_zero_and_changes_nothing(scheme: str) -> None:
    """I03, I07: neither what padding holds nor how much there is matters to real positions or gradients."""
    layer, x = layer_of(scheme), states()
    other = torch.where(REAL[..., None], x, 1e3 * torch.randn_like(x))
    first, second = layer(x, IDS), layer(other, IDS)
    assert not first[~REAL].any()
    assert not second[~REAL].any()
    assert first[REAL].equal(second[REAL])
    bare = layer(x[REAL], IDS[REAL])  # (tokens, hidden) without any padding
    torch.testing.assert_close(first[REAL], bare)
    parameters = list(layer.parameters())
    for a, b in zip(
        torch.autograd.grad(first.square().sum(), parameters),
        torch.autograd.grad(second.square().sum(), parameters),
        strict=True,
    ):
        assert a.equal(b)


@every_scheme
def test_no_mask_equals_a_mask_of_ones(scheme: str) -> None:
    """D14, on the layer's side."""
    layer, x, ids = layer_of(scheme), states(), IDS.clamp(min=0)
    ones = torch.ones_like(ids)
    assert layer(x, without_padding(ids, None)).equal(layer(x, without_padding(ids, ones)))


@every_scheme
def test_only_real_tokens_are_dispatched(scheme: str) -> None:
    """D17, I14: K experts for each real token, none for padding."""
    layer = layer_of(scheme)
    with recording() as trace:
        layer(states(), IDS)
    index = trace.entries[0][1].index
    assert int((index < layer.groups.num_experts).sum()) == layer.top_k * int(REAL.sum())


@pytest.mark.parametrize("scheme", ["moiie", "modality", "modality_routed", "always_on"])
@pytest.mark.parametrize("owner", ["vision", "text"])
def test_private_experts_touch_only_their_own_tokens(scheme: str, owner: str) -> None:
    """I02: perturb private experts; the tokens of the other modality keep every bit."""
    layer, x = layer_of(scheme), states()
    before = layer(x, IDS)
    with torch.no_grad():
        for parameter in layer.experts.parameters():
            parameter[layer.groups.slice_of(owner)] += 1
    changed = (layer(x, IDS) != before).any(-1)
    own = (IDS == 0) if owner == "text" else (IDS > 0)
    assert not changed[~own].any()
    assert changed[own].any()


def test_text_only_leaves_vision_a_gradient_of_zero() -> None:
    """I04: zero, not missing."""
    layer = layer_of()
    layer(states(), torch.zeros_like(IDS)).square().sum().backward()
    assert not layer.router.gates["vision"].weight.grad.any()
    assert layer.router.gates["text"].weight.grad.any()
    assert not layer.experts.gate_up_proj.grad[0].any()
    assert not layer.experts.down_proj.grad[0].any()


@pytest.mark.parametrize("experts", [{"vision": 2, "inter": 3, "text": 2}, {"vision": 3, "inter": 2, "text": 4}])
def test_relabelling_experts_inside_a_group_changes_nothing(experts: dict[str, int]) -> None:
    """I15: move experts of one group together with the rows of every gate that sees them."""
    layer, x = layer_of(experts=experts), states()
    before = layer(x, IDS)
    place = torch.arange(layer.groups.num_experts)
    for group in layer.groups.groups:
        place[layer.groups.slice_of(group.name)] = place[layer.groups.slice_of(group.name)].flip(0)
    with torch.no_grad():
        for parameter in layer.experts.parameters():
            parameter.copy_(parameter[place].clone())
        for name, gate in layer.router.gates.items():
            visible = layer.groups.visible(name)
            gate.weight.copy_(gate.weight[[visible.index(int(place[e])) for e in visible]].clone())
    torch.testing.assert_close(layer(x, IDS), before)


@pytest.mark.parametrize("ids", [[[1] * 7], [[0, 1, 0, 0, 1, 1, 0]], [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, -1, -1]]])
@every_scheme
def test_any_number_of_vision_tokens_takes_a_training_step(scheme: str, ids: list[list[int]]) -> None:
    """D03, D04: indivisible by the batch, all vision, adjacent images."""
    layer, ids_ = layer_of(scheme), torch.tensor(ids)
    x = torch.randn(*ids_.shape, 8).double().requires_grad_()
    layer(x, ids_).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@every_scheme
def test_text_reads_images_exactly_where_its_router_declares_it(scheme: str) -> None:
    """Other image tokens of the prompt reach later text through its routing and its experts, or not at all."""
    layer, x = layer_of(scheme), states()
    if ROUTERS[scheme].text_reads_images:
        nn.init.normal_(layer.router.score.weight, std=5)
    found = []
    for pictures in (x, torch.where((IDS > 0)[..., None], -3 * x + 1, x)):
        with recording() as trace:
            output = layer(pictures, IDS, Evidence(REAL))
        found.append((output, trace.entries[0][1].weights.view(*IDS.shape, -1)))
    after_pictures = (IDS > 0).cumsum(dim=1) > 0
    for one, other in zip(*found, strict=True):
        changed = ~torch.isclose(one, other, rtol=0, atol=1e-9).all(dim=-1)
        assert not changed[(IDS == 0) & ~after_pictures].any()
        assert bool(changed[(IDS == 0) & after_pictures].any()) == ROUTERS[scheme].text_reads_images


@every_scheme
def test_evidence_that_is_ignored_changes_nothing_and_none_means_none(scheme: str) -> None:
    layer, x = layer_of(scheme), states()
    assert layer(x, IDS).equal(layer(x, IDS, Evidence(torch.zeros_like(REAL))))
    found = layer(x, IDS, Evidence(REAL))
    assert layer(x, IDS).equal(found) != ROUTERS[scheme].text_reads_images
    with layer.bound(IDS, Evidence(REAL)):
        assert layer(x).equal(found)


def test_ids_are_bound_for_callers_that_pass_hidden_states_only() -> None:
    layer, x = layer_of(), states()
    with layer.bound(IDS):
        outer = layer(x)
        with layer.bound(IDS.clamp(min=0)):
            inner = layer(x)
        assert layer(x).equal(outer)
    assert outer.equal(layer(x, IDS))
    assert inner.equal(layer(x, IDS.clamp(min=0)))
    with pytest.raises(KeyError), layer.bound(IDS):
        raise KeyError
    with pytest.raises(RuntimeError, match="sparse layer 3 was called without modality ids; pass modality_ids or call"):
        layer(x)


def test_missing_ids_never_mean_text() -> None:
    layer = layer_of()
    with layer.bound(None), pytest.raises(RuntimeError, match="A missing id never means text"):
        layer(states())


def test_ids_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 5\) do not fit hidden states of shape \(2, 6, 8\); give one id"):
        layer_of()(states(), IDS[:, :5])


def test_decisions_are_traced_under_the_layer_index() -> None:
    layer = layer_of()
    layer(states(), IDS)
    with recording() as trace:
        layer(states(), IDS)
    assert [index for index, _ in trace.entries] == [3]
    routing = trace.entries[0][1]
    assert isinstance(routing, Routing)
    assert routing.logits.shape == (12, 4)
    assert routing.modality_group.tolist() == [1, 0, 0, 0, 1, -1, 1, 1, 0, 0, 1, 1]


def test_jitter_moves_router_and_experts_together_in_training_only() -> None:
    layer, x = layer_of(router_jitter=0.2), states()
    layer.eval()
    assert layer(x, IDS).equal(layer_of()(x, IDS))
    layer.train()
    torch.manual_seed(5)
    found = layer(x, IDS)
    torch.manual_seed(5)
    flat = x.reshape(12, 8)
    moved = flat * torch.empty_like(flat).uniform_(0.8, 1.2)
    torch.testing.assert_close(found, layer_of()(moved.view(2, 6, 8), IDS))
    assert not found.equal(layer(x, IDS))


@every_scheme
@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_checkpointing_recomputes_the_same_routing(scheme: str, jitter: float) -> None:
    """I13: two forwards in flight, gradients equal to the last bit."""
    layer, x = layer_of(scheme, router_jitter=jitter), states()
    other_ids = IDS.roll(1, dims=1)

    def gradients(wrap: Any) -> list[Tensor]:
        torch.manual_seed(1)
        first, second = wrap(x, IDS), wrap(x, other_ids)
        return list(torch.autograd.grad(first.square().sum() + second.sum(), list(layer.parameters())))

    plain = gradients(layer)
    recomputed = gradients(lambda *args: checkpoint(layer, *args, use_reentrant=False))
    assert all(a.equal(b) for a, b in zip(plain, recomputed, strict=True))


def test_a_bank_class_can_be_replaced() -> None:
    seen = []

    def bank(*sizes: Any) -> nn.Module:
        seen.append(sizes)
        return nn.Module()

    ModalityMoE(8, 16, MoESettings(), act="gelu_pytorch_tanh", bank=bank)
    assert seen == [(4, 8, 16, "gelu_pytorch_tanh")]


def test_a_batch_without_tokens() -> None:
    assert layer_of()(torch.zeros(2, 0, 8).double(), torch.zeros(2, 0).long()).shape == (2, 0, 8)
