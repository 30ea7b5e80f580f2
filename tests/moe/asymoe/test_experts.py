"""Laws of the banks of AsyMoE: sorted, fused and grouped, they are the loop over tokens that reads like the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moiety.moe.asymoe.context import Context
from moiety.moe.experts.bank import ExpertBank
from moiety.moe.experts.kinds import EXPERTS, ContextFFNExperts, EvidenceExperts, LorentzExperts
from moiety.recipe.asymoe import AsyMoESettings
from tests.moe.asymoe import reference as paper
from tests.moe.laws import law
from tests.moe.slots import answer as run_bank
from tests.reference import expert as ffn_expert

HIDDEN = 6


@dataclass
class Kind:
    """How to build a bank, and what one of its experts says to one token."""

    settings: dict[str, Any]
    build: Callable[..., ExpertBank]

    def bank(self, experts: int, sides: int) -> ExpertBank:
        settings = AsyMoESettings(hyp_dim=4, inter_ffn=5, evidence_dim=3, **self.settings)
        bank = self.build(experts, settings, sides).double()
        with torch.no_grad():  # away from the start, where gates are 0 and scales equal
            for parameter in bank.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        return bank


def lorentz(experts: int, settings: AsyMoESettings, sides: int) -> ExpertBank:
    return LorentzExperts(experts, HIDDEN, settings, sides, residual_ffn=7 if settings.has_residual else None)


def evidence(experts: int, settings: AsyMoESettings, sides: int) -> ExpertBank:
    return EvidenceExperts(experts, HIDDEN, settings)


def context_ffn(experts: int, settings: AsyMoESettings, sides: int) -> ExpertBank:
    return ContextFFNExperts(experts, HIDDEN, settings)


KINDS = {
    "lorentz": Kind({"curvature": 0.7}, lorentz),
    "lorentz learned": Kind({"learn_curvature": True}, lorentz),
    "lorentz residual": Kind({"inter_residual": True}, lorentz),
    "euclidean": Kind({"inter_kind": "euclidean", "radius_cap": 1.5}, lorentz),
    "product": Kind({"inter_kind": "product", "product_factors": 2, "learn_curvature": True}, lorentz),
    "evidence": Kind({}, evidence),
    "evidence faithful": Kind({"preset": "faithful"}, evidence),
    "evidence gated": Kind({"evidence_form": "swiglu"}, evidence),
    "context": Kind({"text_kind": "context"}, context_ffn),
}
every_kind = pytest.mark.parametrize("name", list(KINDS))


def answer(
    bank: ExpertBank, params: dict[str, Tensor], x: Tensor, a: Tensor, e: Tensor, expert: int, side: int
) -> Tensor:
    """One expert on one token, by the reference."""
    if isinstance(bank, EvidenceExperts):
        memory, read = paper.branches(x, a, expert, params, bank.gated)
        share = paper.alpha(x, a, e, expert, params, bank.rich, bank.settings.alpha_range)
        return share * memory + (1 - share) * read
    if isinstance(bank, ContextFFNExperts):
        ffn = ffn_expert(x, params["ffn.gate_up_proj"][expert], params["ffn.down_proj"][expert])
        return ffn + params["gain"][expert] * a
    assert isinstance(bank, LorentzExperts)
    kappas = torch.full((bank.num_factors,), bank.settings.curvature, dtype=x.dtype)
    if "log_curvature" in params:
        kappas = params["log_curvature"][expert].exp().clamp(0.1, 10)
    flat = bank.settings.inter_kind == "euclidean"
    out = paper.lorentz(x, expert, side, params, bank.settings.radius_cap, flat, kappas)
    if "residual.down_proj" in params:
        out = out + ffn_expert(x, params["residual.gate_up_proj"][expert], params["residual.down_proj"][expert])
    return out


@dataclass
class Case:
    bank: ExpertBank
    x: Tensor
    index: Tensor
    weights: Tensor
    context: Context
    group: Tensor

    @classmethod
    def draw(cls, name: str, experts: int, tokens: int, top_k: int, sides: int, seed: int) -> Case:
        """Random slots; some without expert, and the last token is padding."""
        torch.manual_seed(seed)
        bank = KINDS[name].bank(experts, sides)
        index = torch.rand(tokens, experts + 1).topk(top_k).indices  # num_experts among them: no expert
        index[-1] = experts
        group = torch.randint(0, sides, (tokens,))
        group[-1] = -1
        normal = lambda *size: torch.randn(*size, dtype=torch.float64).requires_grad_()  # noqa: E731
        context = Context(normal(tokens, HIDDEN), torch.rand(tokens, dtype=torch.float64).requires_grad_())
        weights = torch.rand(tokens, top_k, dtype=torch.float64).requires_grad_()
        return cls(bank, normal(tokens, HIDDEN), index, weights, context, group)

    def loop(self, params: dict[str, Tensor]) -> Tensor:
        sides = {-1: 0, 0: 0, self.bank.num_sides - 1: 1} if self.bank.num_sides > 1 else {}
        rows = []
        for t in range(len(self.x)):
            side = sides.get(int(self.group[t]), 2 if self.bank.num_sides == 3 else 0)
            row = torch.zeros(HIDDEN, dtype=torch.float64)
            for expert, weight in zip(self.index[t].tolist(), self.weights[t], strict=True):
                if expert < self.bank.num_experts:
                    a, e = self.context.output[t], self.context.mass[t]
                    row = row + weight * answer(self.bank, params, self.x[t], a, e, expert, side)
            rows.append(row)
        return torch.stack(rows)

    def out(self) -> Tensor:
        return run_bank(self.bank, self.x, self.index, self.weights, self.context, self.group)

    def leaves(self) -> tuple[list[Tensor], list[str]]:
        """What gets gradients: everything but the scales of the cone loss."""
        named = {n: p for n, p in self.bank.named_parameters() if n != "cone_log_scale"}
        given = [self.x, self.weights, self.context.output, self.context.mass]
        return [*given, *named.values()], ["x", "weights", "context", "mass", *named]


@every_kind
@law
@given(
    experts=st.sampled_from([1, 2, 3]),
    tokens=st.sampled_from([2, 3, 8]),
    top_k=st.sampled_from([1, 2]),
    sides=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_sorted_is_the_loop_over_tokens(
    name: str, experts: int, tokens: int, top_k: int, sides: int, seed: int
) -> None:
    """Output and every gradient; worst relative difference over 500 draws 1e-12."""
    case = Case.draw(name, experts, tokens, top_k, sides, seed)
    params = dict(case.bank.named_parameters())
    mine, expected = case.out(), case.loop(params)
    torch.testing.assert_close(mine, expected, atol=1e-9, rtol=1e-9)
    assert not mine[-1].any()  # padding: exactly 0
    leaves, names = case.leaves()
    upstream = torch.randn_like(mine)
    idle = set(range(experts)) - set(case.index.flatten().tolist())
    ours = torch.autograd.grad(mine, leaves, upstream, allow_unused=True)
    theirs = [None] * len(leaves)  # where no slot has an expert the loop has no graph
    if expected.requires_grad:
        theirs = torch.autograd.grad(expected, leaves, upstream, allow_unused=True)
    for leaf, given_, want, found in zip(names, leaves, theirs, ours, strict=True):
        want = torch.zeros_like(given_) if want is None else want
        if leaf in ("context", "mass") and found is None:
            assert not want.any(), leaf
            continue
        torch.testing.assert_close(found, want, atol=1e-9, rtol=1e-8, msg=lambda m, leaf=leaf: f"{leaf}: {m}")
        if given_.dim() and leaf not in ("x", "weights", "context", "mass"):
            assert not any(found[expert].any() for expert in idle), f"{leaf}: an idle expert moves"


@every_kind
def test_permuting_tokens_permutes_answers(name: str) -> None:
    case = Case.draw(name, 3, 9, 2, 2, 0)
    order = torch.randperm(9)
    context = Context(case.context.output[order], case.context.mass[order])
    permuted = run_bank(case.bank, case.x[order], case.index[order], case.weights[order], context, case.group[order])
    torch.testing.assert_close(permuted, case.out()[order], atol=1e-12, rtol=1e-12)


@every_kind
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_close_and_finite(name: str, autocast: bool) -> None:
    """Products in bfloat16, maps and gates in float32: at most 0.7 % off in norm."""
    case = Case.draw(name, 2, 64, 2, 2, 1)
    truth = case.out().detach()
    dtype = torch.float32 if autocast else torch.bfloat16
    bank = case.bank.to(dtype)
    x = case.x.detach().to(dtype).requires_grad_()
    context = Context(case.context.output.detach().to(dtype), case.context.mass.float())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = run_bank(bank, x, case.index, case.weights.detach().to(dtype), context, case.group)
    out.square().sum().backward()
    assert out.dtype == dtype
    assert float((out.detach().double() - truth).norm() / truth.norm()) < 0.015
    assert torch.isfinite(x.grad).all()


@every_kind
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e2, 1e4])
def test_finite_at_every_scale(name: str, scale: float) -> None:
    """T4 for whole experts, values and gradients, in float32."""
    case = Case.draw(name, 2, 8, 2, 2, 2)
    bank, x = case.bank.float(), (case.x.detach().float() * scale).requires_grad_()
    context = Context(case.context.output.detach().float() * scale, case.context.mass.float())
    out = run_bank(bank, x, case.index, case.weights.detach().float(), context, case.group)
    out.sum().backward()
    grads = [p.grad for n, p in bank.named_parameters() if n != "cone_log_scale"]
    assert all(torch.isfinite(tensor).all() for tensor in (out, x.grad, *grads))


@every_kind
def test_nobody_chose_this_bank(name: str) -> None:
    """No token at all, or none that wants it: answers of 0, and gradients of 0 rather than None."""
    for tokens in (0, 3):
        case = Case.draw(name, 2, max(tokens, 1), 1, 2, 3)
        x, context = case.x[:tokens], Context(case.context.output[:tokens], case.context.mass[:tokens])
        nobody, weights = torch.full((tokens, 1), 2), torch.zeros(tokens, 1).double()
        out = run_bank(case.bank, x, nobody, weights, context, case.group[:tokens])
        assert out.shape == (tokens, HIDDEN)
        assert not out.any()
        out.sum().backward()
        for leaf, parameter in case.bank.named_parameters():
            if leaf != "cone_log_scale":
                assert parameter.grad is not None, leaf
                assert not parameter.grad.any(), leaf


@every_kind
def test_activated_parameters_are_those_one_slot_can_feel(name: str) -> None:
    """T19 for one expert: exactly the parameters with a gradient that is not 0 by construction."""
    case = Case.draw(name, 2, 6, 1, 2, 4)
    index, group = torch.zeros(6, 1).long(), torch.ones(6).long()
    run_bank(case.bank, case.x, index, case.weights, case.context, group).square().sum().backward()
    felt = sum(int((p.grad != 0).sum()) for p in case.bank.parameters() if p.grad is not None)
    assert felt == case.bank.activated_of(0, 1) == case.bank.activated_parameters()


@every_kind
def test_a_bank_owns_no_buffer(name: str) -> None:
    assert not list(Case.draw(name, 2, 3, 1, 2, 5).bank.buffers())


@every_kind
def test_alpha_that_is_known_is_not_computed_again(name: str) -> None:
    """The layer computes it once; a bank takes it as it is."""
    case = Case.draw(name, 2, 6, 2, 2, 6)
    if not isinstance(case.bank, EvidenceExperts):
        return
    alpha = case.bank(case.x, context=case.context)
    known, other = (case.context._replace(alpha=value) for value in (alpha, 1 - alpha))
    out = case.out()
    assert torch.equal(run_bank(case.bank, case.x, case.index, case.weights, known, case.group), out)
    assert not torch.allclose(run_bank(case.bank, case.x, case.index, case.weights, other, case.group), out)


def test_every_kind_has_a_class() -> None:
    assert list(EXPERTS) == ["ffn", "lorentz", "euclidean", "product", "evidence", "context"]
