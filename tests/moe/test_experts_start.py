"""How the experts of AsyMoE start, and what their parts are: T5, T13, dead gradients, the clamp of alpha."""

from __future__ import annotations

import math

import pytest
import torch
import transformers.initialization as hf_init
from torch import Tensor, nn
from torch.nn import functional as F

from moiety.moe.asymoe.context import Context
from moiety.moe.asymoe.experts.lorentz_maps import Maps
from moiety.moe.asymoe.geometry import lift, log_origin, radius_cap
from moiety.moe.experts.kinds import ContextFFNExperts, EvidenceExperts, LorentzExperts, clamped_alpha
from moiety.recipe.asymoe import AsyMoESettings
from tests.moe.asymoe import reference as paper
from tests.moe.slots import answer


def context_of(tokens: int, hidden: int, output: Tensor | None = None) -> Context:
    return Context(torch.randn(tokens, hidden).double() if output is None else output, torch.rand(tokens).double())


def run(bank: nn.Module, x: Tensor, given: Context) -> Tensor:
    index, weights = torch.zeros(len(x), 1).long(), torch.ones(len(x), 1, dtype=x.dtype)
    return answer(bank, x, index, weights, given, torch.ones(len(x)).long())


def evidence(**own: object) -> EvidenceExperts:
    torch.manual_seed(0)
    bank = EvidenceExperts(1, 6, AsyMoESettings(evidence_dim=5, **own)).double()
    nn.init.normal_(bank.w_alpha)
    return bank


# -- evidence experts -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["gelu", "swiglu"])
def test_alpha_1_remembers_and_0_reads(form: str) -> None:
    """T13."""
    bank, x, given = evidence(evidence_form=form), torch.randn(4, 6).double(), context_of(4, 6)
    parts = [
        paper.branches(t, a, 0, dict(bank.named_parameters()), bank.gated) for t, a in zip(x, given.output, strict=True)
    ]
    for value, branch in ((1.0, 0), (0.0, 1)):
        with clamped_alpha(value):
            torch.testing.assert_close(run(bank, x, given), torch.stack([part[branch] for part in parts]))
            assert torch.equal(bank.alpha(x, None, None), torch.full((4, 1), value).double())
    assert not torch.allclose(run(bank, x, given), parts[0][1])


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_the_gated_form_equals_the_ffn_whatever_alpha(value: float) -> None:
    """T13: worst difference 2e-15 in float64."""
    bank, x = evidence(size_plan="full"), torch.randn(4, 6).double()
    gate_up, down = torch.randn(10, 6).double(), torch.randn(6, 5).double()
    bank.load_from_dense(gate_up, down)
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    with clamped_alpha(value):
        out = run(bank, x, context_of(4, 6))
    torch.testing.assert_close(out, F.linear(F.silu(gate) * up, down), atol=1e-12, rtol=1e-12)


def test_gated_branches_take_over_the_activation_of_the_decoder() -> None:
    """GeGLU of Gemma: the same function, and gradients as by finite differences."""
    torch.manual_seed(0)
    bank = EvidenceExperts(1, 6, AsyMoESettings(evidence_dim=5, size_plan="full"), act="gelu_pytorch_tanh").double()
    x, given = torch.randn(3, 6).double(), context_of(3, 6)
    gate_up, down = torch.randn(10, 6).double(), torch.randn(6, 5).double()
    bank.load_from_dense(gate_up, down)
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    torch.testing.assert_close(run(bank, x, given), F.linear(F.gelu(gate, approximate="tanh") * up, down))
    assert torch.autograd.gradcheck(lambda x: run(bank, x, given), (x.requires_grad_(),))


def test_no_gradient_is_dead() -> None:
    """§5.2: what reads the context starts at 0 and learns at step 0, the context itself from step 1."""
    bank, x = evidence(size_plan="full"), torch.randn(4, 6).double()
    bank.load_from_dense(torch.randn(10, 6).double(), torch.randn(6, 5).double())
    output = nn.Linear(3, 6, bias=False).double()  # W_O, never 0
    inner = torch.randn(4, 3).double().requires_grad_()
    optimiser = torch.optim.SGD([*bank.parameters(), *output.parameters()], lr=0.1)
    for step in range(2):
        inner.grad = None
        optimiser.zero_grad()
        run(bank, x, context_of(4, 6, output(inner))).square().sum().backward()
        assert bank.context_proj.grad.abs().min() > 0
        if step:
            assert output.weight.grad.any()
            assert inner.grad.any()
        optimiser.step()


@pytest.mark.parametrize(("span", "bias"), [((0.0, 1.0), -0.847), ((0.02, 0.98), -0.887)])
def test_alpha_starts_at_the_best_of_table_3(span: tuple[float, float], bias: float) -> None:
    bank = EvidenceExperts(2, 6, AsyMoESettings(evidence_dim=5, alpha_range=span))
    assert bank.b_alpha.tolist() == pytest.approx([bias] * 2, abs=1e-3)
    alpha = bank.alpha(torch.randn(4, 6), torch.randn(4, 6), torch.rand(4))
    torch.testing.assert_close(alpha, torch.full((4, 2), 0.3))


def test_alpha_of_one_value_is_a_control() -> None:
    """alpha_range (1, 1) is the control without evidence; mode fixed keeps the start and gives no gradient."""
    x, given = torch.randn(4, 6).double(), context_of(4, 6)
    always = evidence(alpha_range=(1.0, 1.0))
    assert torch.equal(always.alpha(x, given.output, given.mass), torch.ones(4, 1).double())
    fixed = evidence(alpha_mode="fixed")
    run(fixed, x, given).sum().backward()
    assert fixed.w_alpha.grad is None


def test_alpha_is_float32_in_a_bfloat16_model() -> None:
    bank = EvidenceExperts(1, 6, AsyMoESettings(evidence_dim=5)).bfloat16()
    assert bank.alpha(torch.randn(3, 6).bfloat16(), torch.randn(3, 6).bfloat16(), torch.rand(3)).dtype == torch.float32


def test_evidence_messages() -> None:
    with pytest.raises(ValueError, match=r"evidence experts need a width; give moe.asymoe.evidence_dim"):
        EvidenceExperts(1, 6, AsyMoESettings())
    with pytest.raises(ValueError, match=r"context experts need a width; give moe.asymoe.evidence_dim"):
        ContextFFNExperts(1, 6, AsyMoESettings())
    with pytest.raises(ValueError, match=r"alpha_start=0.3 must lie inside alpha_range=\(0.5, 0.9\)"):
        evidence(alpha_range=(0.5, 0.9))
    with pytest.raises(ValueError, match=r"alpha is clamped to a value from 0 .* to 1 .*, got 1.5"):
        clamped_alpha(1.5).__enter__()
    with pytest.raises(RuntimeError, match=r"a rich gate reads context and mass of each token; pass both"):
        evidence().alpha(torch.randn(3, 6).double(), None, None)
    for act in (torch.relu, "tanh"):
        with pytest.raises(ValueError, match=r"gated evidence branches know gelu, .*evidence_form: gelu"):
            EvidenceExperts(1, 6, AsyMoESettings(evidence_dim=5, evidence_form="swiglu"), act=act)
    EvidenceExperts(1, 6, AsyMoESettings(evidence_dim=5, evidence_form="gelu"), act=torch.relu)


# -- Lorentz experts --------------------------------------------------------------------------------------------------
def lorentz(hidden: int = 48, num_experts: int = 1, **own: object) -> LorentzExperts:
    torch.manual_seed(0)
    settings = AsyMoESettings(hyp_dim=16, inter_ffn=40, **own)
    return LorentzExperts(num_experts, hidden, settings, 2, residual_ffn=8 if settings.has_residual else None)


@pytest.mark.parametrize(("curvature", "low", "high"), [(1e-4, 1e-4, 0.02), (1.0, 0.05, 2.0)])
def test_curvature_changes_the_function(curvature: float, low: float, high: float) -> None:
    """T5: against the flat limit (space = tangent vector, no time, no cap) 0.95 % at 1e-4 and 102 % at 1."""
    bank, x = lorentz(curvature=curvature).double(), torch.randn(64, 48).double()
    gate, up = F.linear(
        math.sqrt(16) * bank.log_scale[0, 1].exp() * F.linear(x, bank.projection[0, 1]), bank.gate_up_proj[0]
    ).chunk(2, dim=-1)
    flat = bank.out_log_scale.exp() * F.linear(F.silu(gate) * up / math.sqrt(40), bank.down_proj[0])
    out = run(bank, x, context_of(64, 48))
    assert low < float(((out - flat).norm() / flat.norm()).detach()) < high


def test_a_tangent_space_sandwich_is_the_mlp() -> None:
    """T5, why experts act on coordinates: logarithm, MLP, exponential map and back change nothing (2e-7)."""
    torch.manual_seed(0)
    mlp, z, kappa = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8)), torch.randn(32, 8), torch.tensor(1.0)
    through = log_origin(lift(mlp(log_origin(lift(z, kappa)[1], kappa)), kappa)[1], kappa)
    assert float(((through - mlp(z)).norm() / mlp(z).norm()).detach()) < 1e-6


@pytest.mark.parametrize("kappa", [0.1, 1.0, 10.0])
def test_factors_are_the_geometry(kappa: float) -> None:
    """Multiplying by a factor of the squared norm is what moe.geometry does to vectors; 2e-7 in float32."""
    torch.manual_seed(0)
    u, curvature = torch.randn(16, 5) * torch.logspace(-3, 2, 16)[:, None], torch.tensor(kappa)
    maps, log_kappa = Maps(False, 3.0, 4), curvature.log().expand(16, 1)
    factor, time = maps.lift(u.square().sum(-1, keepdim=True), torch.zeros(16, 1), log_kappa)
    expected_time, space = lift(radius_cap(u, curvature, 3.0), curvature)
    torch.testing.assert_close(factor * u, space, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(time[:, 0], expected_time, rtol=1e-5, atol=1e-9)
    scale = maps.inner_scale(torch.zeros(16))  # of a state that was divided by it
    back = maps.log_origin((u / scale[:, None]).square().sum(-1), torch.zeros(16), torch.zeros(16), log_kappa[:, 0])
    back = back.unsqueeze(-1) * u / scale[:, None]
    torch.testing.assert_close(back, log_origin(u, curvature), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["lorentz", "euclidean"])
@pytest.mark.parametrize("hidden", [64, 256])
def test_start_of_a_lorentz_expert(kind: str, hidden: int) -> None:
    """Orthonormal rows, and outputs of root mean square 0.0455 to 0.0500 for both kinds and widths."""
    torch.manual_seed(0)
    bank = LorentzExperts(2, hidden, AsyMoESettings(hyp_dim=hidden // 4, inter_ffn=hidden, inter_kind=kind), 2)
    rows = bank.projection @ bank.projection.transpose(-1, -2)
    torch.testing.assert_close(rows, torch.eye(hidden // 4).expand_as(rows), atol=1e-5, rtol=0)
    assert bank.log_scale.flatten().tolist() == pytest.approx([-0.5 * math.log(hidden // 4)] * 4)
    out = run(bank, torch.randn(256, hidden), context_of(256, hidden))
    assert 0.035 < float(out.detach().square().mean().sqrt()) < 0.055


def test_a_residual_branch_starts_silent_and_learns_from_its_end() -> None:
    bank = lorentz(inter_residual=True)
    assert not bank.down_proj.any()
    assert not bank.down_time.any()
    out = run(bank, torch.randn(8, 48), context_of(8, 48))
    out.square().sum().backward()
    assert bank.down_proj.grad.any()
    assert not bank.projection.grad.any()


def test_transformers_leaves_loaded_tensors_alone() -> None:
    for bank in (lorentz(num_experts=2), lorentz(inter_residual=True), evidence(), evidence(preset="faithful")):
        first = next(iter(bank.parameters()))
        before = {name: parameter.clone() for name, parameter in bank.named_parameters()}
        first._is_hf_initialized = True  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter in bank.parameters():
                parameter.add_(1.0)
        bank.initialise(hf_init)
        assert torch.equal(first, before[next(iter(before))] + 1)
        others = [(p, before[n] + 1) for n, p in bank.named_parameters() if p is not first]
        assert not any(torch.equal(now, old) for now, old in others)


def test_lorentz_messages() -> None:
    with pytest.raises(ValueError, match=r"hyperbolic experts need widths; give moe.asymoe.hyp_dim and moe.asymoe.int"):
        LorentzExperts(1, 8, AsyMoESettings(hyp_dim=4), 2)
    with pytest.raises(ValueError, match=r"hyp_dim=16 must be a multiple of product_factors=3"):
        lorentz(inter_kind="product", product_factors=3)
    with pytest.raises(ValueError, match=r"has gate_up \(2\*ffn, 48\) and down \(48, ffn\)"):
        lorentz().load_from_dense(torch.zeros(10, 7), torch.zeros(8, 5))
    assert "space=16, inner=40, kind=lorentz, sides=2" in repr(lorentz())
    assert "width=5, form=gelu" in repr(evidence())
