"""One bank per expert group: global numbers, sides, cascades, starts from a dense FFN, counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from moiety.groups import ExpertGroup, ExpertGroups
from moiety.moe.asymoe.context import Context
from moiety.moe.dispatch import Slots, dispatch
from moiety.moe.experts.bank import ExpertBank
from moiety.moe.experts.kinds import FFNExperts
from moiety.moe.experts.mixed import MixedExperts
from moiety.moe.kernels import reference_experts
from moiety.recipe.recipe import MoESettings
from tests.moe.slots import answer

WIDTHS = {"hyp_dim": 4, "inter_ffn": 5, "vision_ffn": 7, "evidence_dim": 3, "context_dim": 8}
HIDDEN, DENSE = 6, 9
MODALITIES = {0: "text", 1: "vision", 3: "audio"}


def table(inter: str = "lorentz", text: str = "evidence", texts: int = 1) -> ExpertGroups:
    """vision x 1, audio x 1, inter x 2, text: experts 0, 1, 2-3, 4 and on; modality groups vision, audio, text."""
    names = ("vision", "audio", "text")
    groups = [ExpertGroup("vision", 1, names[:1]), ExpertGroup("audio", 1, names[1:2])]
    groups += [ExpertGroup("inter", 2, names, inter), ExpertGroup("text", texts, names[2:], text)]
    return ExpertGroups(tuple(groups), {1: "vision", 3: "audio", 0: "text"})


def mixed(groups: ExpertGroups | None = None, bank: Any = FFNExperts, **own: Any) -> MixedExperts:
    settings = MoESettings(scheme="asymoe", modality_groups=MODALITIES, asymoe=WIDTHS | own)
    return MixedExperts(groups or table(), HIDDEN, DENSE, settings, "silu", bank).double()


def stirred(bank: MixedExperts) -> MixedExperts:
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return bank


GROUP = torch.tensor([0, 1, 2, 2, 0, -1, 2])
INDEX = torch.tensor([[0, 2], [3, 1], [4, 2], [2, 3], [3, 2], [5, 5], [3, 4]])


def given(experts: int = 5) -> tuple[Tensor, Tensor, Tensor, Context]:
    torch.manual_seed(0)
    index = INDEX.masked_fill(INDEX == 5, experts)
    weights = torch.rand(7, 2, dtype=torch.float64)
    context = Context(torch.randn(7, HIDDEN).double(), torch.rand(7).double())
    return torch.randn(7, HIDDEN).double(), index, weights, context


def alone(bank: ExpertBank, x: Tensor, expert: int, context: Context, token: int) -> Tensor:
    """What one expert of one bank says to one token."""
    own = slice(token, token + 1)
    one = Context(context.output[own], context.mass[own])
    return answer(bank, x[own], torch.tensor([[expert]]), torch.ones(1, 1).double(), one, GROUP[own])[0]


@pytest.mark.parametrize("inter", ["lorentz", "euclidean", "product", "ffn"])
@pytest.mark.parametrize("text", ["evidence", "context", "ffn"])
def test_each_bank_answers_for_its_own_experts(inter: str, text: str) -> None:
    bank, (x, index, weights, context) = stirred(mixed(table(inter, text))), given()
    out = answer(bank, x, index, weights, context, GROUP)
    owner = {0: ("vision", 0), 1: ("audio", 0), 2: ("inter", 0), 3: ("inter", 1), 4: ("text", 0)}
    for token in range(7):
        expected = torch.zeros(HIDDEN).double()
        for expert, weight in zip(index[token].tolist(), weights[token], strict=True):
            if expert < 5:
                name, local = owner[expert]
                expected = expected + weight * alone(bank.bank(name), x, local, context, token)
        torch.testing.assert_close(out[token], expected, atol=1e-12, rtol=1e-12)
    assert not out[5].any()


@pytest.mark.parametrize("mode", ["cascade", "cascade_residual"])
@pytest.mark.parametrize("texts", [1, 2])
def test_in_a_cascade_text_reaches_inter_experts_through_the_text_expert(mode: str, texts: int) -> None:
    """eq. 13; the other modalities give their own hidden states."""
    bank = stirred(mixed(table(texts=texts), inter_text_input=mode))
    x, index, weights, context = given(bank.num_experts)
    if texts == 2:
        index[6, 1] = 5  # the second text expert
    out, direct = answer(bank, x, index, weights, context, GROUP), stirred(mixed(table(texts=texts)))
    direct.load_state_dict(bank.state_dict())
    for token in range(7):
        text, fed = int(GROUP[token]) == 2, x.clone()
        if text:
            fed[token] = alone(bank.bank("text"), x, 0, context, token) + (x[token] if mode != "cascade" else 0)
        inter = index[token].masked_fill((index[token] < 2) | (index[token] > 3), bank.num_experts)
        others = index[token].masked_fill(inter < bank.num_experts, bank.num_experts)
        expected = sum(
            answer(direct, source, chosen.expand(7, 2), weights, context, GROUP)[token]
            for source, chosen in ((fed, inter), (x, others))
        )
        torch.testing.assert_close(out[token], expected, atol=1e-12, rtol=1e-12)


def test_sides_change_only_the_projection_of_inter_experts() -> None:
    bank, (x, _, weights, context) = stirred(mixed()), given()
    index = torch.full((7, 1), 2)
    groups = [torch.full((7,), group) for group in (0, 1, 2)]
    vision, audio, text = (answer(bank, x, index, weights[:, :1], context, group) for group in groups)
    with torch.no_grad():  # vision 0, text 1, audio 2
        lorentz = bank.bank("inter")
        for name in ("projection", "log_scale"):
            getattr(lorentz, name)[0, 2] = getattr(lorentz, name)[0, 0]
            getattr(lorentz, name)[0, 1] = getattr(lorentz, name)[0, 0]
    assert not torch.allclose(vision, audio)
    assert not torch.allclose(audio, text)
    for group in groups:
        torch.testing.assert_close(answer(bank, x, index, weights[:, :1], context, group), vision)


def dense() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2 * DENSE, HIDDEN).double(), torch.randn(HIDDEN, DENSE).double()


def dense_answer(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


@pytest.mark.parametrize("inter", ["lorentz", "euclidean", "ffn"])
@pytest.mark.parametrize("text", ["evidence", "context", "ffn"])
def test_full_width_equals_the_dense_ffn_at_step_0(inter: str, text: str) -> None:
    """Whatever the routing, the context and alpha; every part then learns, at once or from the next step."""
    widths = {"vision_ffn": DENSE, "evidence_dim": DENSE, "inter_ffn": DENSE, "hyp_dim": 4}
    bank = mixed(table(inter, text), size_plan="full", inter_kind=inter, text_kind=text, **widths)
    bank.load_from_dense(*dense())
    x, index, weights, context = given()
    weights = (weights / weights.sum(-1, keepdim=True)).masked_fill(index == 5, 0)
    expected = dense_answer(x, *dense()) * weights.sum(-1, keepdim=True)
    torch.testing.assert_close(answer(bank, x, index, weights, context, GROUP), expected, atol=1e-12, rtol=1e-12)
    target = torch.randn(7, HIDDEN).double()
    optimiser = torch.optim.SGD(bank.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        (answer(bank, x, index, weights, context, GROUP) - target).square().sum().backward()
        optimiser.step()
    still = [n for n, p in bank.named_parameters() if not n.endswith("cone_log_scale") and not p.grad.any()]
    assert still == []


def test_narrower_banks_keep_the_units_that_say_most() -> None:
    gate_up, down = dense()
    size = gate_up[:DENSE].norm(dim=1) * gate_up[DENSE:].norm(dim=1) * down.norm(dim=0)
    kept = size.argsort(descending=True)[:7].sort().values
    bank = mixed(evidence_form="swiglu", inter_residual=True, residual_ffn=3)
    bank.load_from_dense(gate_up, down)
    x, _, _, context = given()
    seven = dense_answer(x, gate_up[torch.cat([kept, kept + DENSE])], down[:, kept])
    three = size.argsort(descending=True)[:3].sort().values
    small = dense_answer(x, gate_up[torch.cat([three, three + DENSE])], down[:, three])
    for expert, expected in ((0, seven), (1, seven), (2, small), (4, small)):
        out = answer(bank, x, torch.full((7, 1), expert), torch.ones(7, 1).double(), context, GROUP)
        torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)


def test_a_gelu_branch_takes_ups_and_downs() -> None:
    bank = mixed()
    before = bank.bank("inter").down_proj.clone()
    bank.load_from_dense(*dense())
    text, (x, _, _, context) = bank.bank("text"), given()
    gate_up, down = dense()
    size = gate_up[:DENSE].norm(dim=1) * gate_up[DENSE:].norm(dim=1) * down.norm(dim=0)
    kept = size.argsort(descending=True)[:3].sort().values
    expected = F.linear(F.gelu(F.linear(x, gate_up[DENSE + kept])), down[:, kept])
    out = answer(text, x, torch.zeros(7, 1).long(), torch.ones(7, 1).double(), context, GROUP)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    assert torch.equal(
        bank.bank("inter").down_proj, before
    )  # without a residual an inter expert starts from new weights


def test_counts_follow_the_formulas() -> None:
    d, n, f_s, m_e, f_v = HIDDEN, 4, 5, 3, 7
    inter = d * n + 2 * f_s * (n + 1) + d * (f_s + 1) + 3
    bank = mixed()
    assert [bank.activated_of(expert, 2) for expert in range(5)] == [
        *(3 * d * f_v, 3 * d * f_v, inter, inter, 5 * d * m_e + 3 * d + 2)
    ]
    assert bank.activated_parameters() == max(inter, 3 * d * f_v)
    assert mixed(evidence_form="swiglu", gate_input="x").activated_of(4, 2) == 8 * d * m_e + d + 1
    assert bank.activated_by((2, 3), 2) == 2 * inter
    cascade = mixed(inter_text_input="cascade")
    assert cascade.activated_by((2, 3), 2) == cascade.activated_by((2, 3, 4), 2) == 2 * inter + bank.activated_of(4, 2)
    assert cascade.activated_by((2, 3), 0) == 2 * inter


def test_the_twin_has_the_same_parameters() -> None:
    sizes = [{name: p.shape for name, p in mixed(table(kind)).named_parameters()} for kind in ("lorentz", "euclidean")]
    assert sizes[0] == sizes[1]


def test_a_foreign_bank_serves_plain_groups() -> None:
    """A bank that sorts for itself reads the index of the slots and nothing else."""

    class Foreign(FFNExperts):
        def forward(self, x: Tensor, slots: Slots, weights: Tensor, context: Any = None) -> Tensor:
            return reference_experts(x, slots.index, weights, self.gate_up_proj, self.down_proj, self.act_fn)

    bank, (x, index, weights, context) = stirred(mixed(bank=Foreign)), given()
    ours = mixed()
    ours.load_state_dict(bank.state_dict())
    torch.testing.assert_close(
        answer(bank, x, index, weights, context, GROUP), answer(ours, x, index, weights, context, GROUP)
    )


@pytest.mark.parametrize("inter", ["lorentz", "product"])
@pytest.mark.parametrize("branches", ["gelu", "swiglu"])
def test_one_grouped_product_equals_one_for_each_run(
    inter: str, branches: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on GPU, here on CPU in float32: worst difference 2e-7 of the largest entry."""
    torch.manual_seed(2)
    widths = {"hyp_dim": 16, "inter_ffn": 8, "vision_ffn": 8, "evidence_dim": 8, "context_dim": 8}
    own = widths | {"product_factors": 2, "evidence_form": branches}
    settings = MoESettings(scheme="asymoe", modality_groups=MODALITIES, asymoe=own)
    bank = stirred(MixedExperts(table(inter, texts=2), 16, 8, settings))
    x, context = (torch.randn(32, 16).requires_grad_() for _ in range(2))
    group = torch.randint(-1, 3, (32,))
    index = torch.stack([torch.randint(2, 4, (32,)), torch.randint(4, 6, (32,))], dim=1)
    mass = torch.rand(32)
    leaves = [x, context, *bank.parameters()]
    found = []
    for form in ("loop", "grouped"):
        for module in ("lorentz", "evidence_kernel"):
            monkeypatch.setattr(f"moiety.moe.asymoe.experts.{module}.choose_form", lambda *_, form=form: form)
        weights = torch.rand(32, 2, generator=torch.Generator().manual_seed(0))
        out = answer(bank, x, index, weights, Context(context, mass), group)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
    for loop, one in zip(*found, strict=True):
        assert float((loop - one).abs().max()) <= 2e-6 * max(1.0, float(loop.abs().max()))


def test_alpha_passes_through() -> None:
    bank, (x, _, _, context) = stirred(mixed(table(texts=2))), given()
    assert torch.equal(bank(x, context=context), bank.bank("text").alpha(x, context.output, context.mass))
    assert mixed(table(text="ffn")).weighing == ()


def test_messages() -> None:
    with pytest.raises(
        ValueError, match=r"kind 'lorentz' \(expert group 'inter'\) get their widths from moe.asymoe, w"
    ):
        MixedExperts(table(), HIDDEN, DENSE, MoESettings(scheme="moiie"))
    with pytest.raises(ValueError, match=r"expert group 'inter' is of kind 'lorenz'; .*did you mean 'lorentz'"):
        mixed(table("lorenz"))
    with pytest.raises(ValueError, match=r"experts of group 'vision' need a width; give moe.asymoe.vision_ffn"):
        mixed(vision_ffn=None)
    x, index, weights, context = given()
    with pytest.raises(RuntimeError, match=r"mixed experts need slots sorted by 3 sides, got 1; call dispatch\("):
        mixed()(x, dispatch(index, 5), weights, context)
    with pytest.raises(
        RuntimeError, match=r"evidence experts read what the evidence says to each token; pass the Cont"
    ):
        answer(mixed(), x, index, weights, None, GROUP)
    with pytest.raises(RuntimeError, match=r"context experts add what the evidence says to each token; pass the Cont"):
        answer(mixed(table(text="context")), x, index, weights, None, GROUP)
    with pytest.raises(RuntimeError, match=r"slots sorted by 1 sides reached experts of 3 sides"):
        mixed().bank("inter")(x, dispatch(index.clamp(max=2), 2), weights)
