"""The plain bank; what every kind promises stands in ``test_kind_laws.py``."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from moiety.moe.experts.kinds import EXPERTS, FFNExperts
from moiety.moe.kernels import KERNELS
from tests.moe.laws import law
from tests.reference import expert, gelu_tanh, silu

every_kind = pytest.mark.parametrize("kind", ["ffn"])


def routing(tokens: int, experts: int, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(tokens, experts).topk(top_k).indices, torch.rand(tokens, top_k).softmax(-1)


@every_kind
@law
@given(
    experts=st.sampled_from([1, 2, 5]),
    tokens=st.sampled_from([1, 3, 8]),
    hidden=st.sampled_from([1, 4, 7]),
    wider=st.sampled_from([0, 1, 3, 11]),
)
def test_copies_of_a_dense_ffn_behave_as_it(kind: str, experts: int, tokens: int, hidden: int, wider: int) -> None:
    """I01 for one layer; also when experts are wider by any amount, less or more than double."""
    torch.manual_seed(experts * 31 + wider)
    dense = 5
    gate_up, down = torch.randn(2 * dense, hidden).double(), torch.randn(hidden, dense).double()
    bank = EXPERTS[kind](experts, hidden, dense + wider, "silu").double()
    bank.load_from_dense(gate_up, down)
    x, (index, weights) = torch.randn(tokens, hidden).double(), routing(tokens, experts, min(2, experts))
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    torch.testing.assert_close(
        bank(x, index, weights.double()), F.linear(F.silu(gate) * up, down), atol=1e-6, rtol=1e-6
    )


@every_kind
def test_wider_copies_part_with_the_first_gradient(kind: str) -> None:
    bank = EXPERTS[kind](1, 4, 10, "silu").double()
    bank.load_from_dense(torch.randn(10, 4).double(), torch.randn(4, 5).double())
    bank(torch.randn(6, 4).double(), torch.zeros(6, 1).long(), torch.ones(6, 1).double()).square().sum().backward()
    grad = bank.down_proj.grad[0]
    assert grad[:, 5:].abs().min() > 0  # the zero columns learn at once …
    assert not bank.gate_up_proj.grad[0, 5:10].any()  # … and their gate rows as soon as those are no longer 0


@every_kind
def test_activated_parameters_are_those_of_one_expert(kind: str) -> None:
    bank = EXPERTS[kind](6, 8, 12, "silu")
    assert bank.activated_parameters() * 6 == sum(p.numel() for p in bank.parameters())


@every_kind
def test_no_bank_owns_a_buffer(kind: str) -> None:
    """Buffers that are not saved come back as garbage from a load through the meta device."""
    assert not list(EXPERTS[kind](2, 8, 8, "silu").buffers())


@every_kind
@pytest.mark.parametrize(("act", "function"), [("silu", silu), ("gelu_pytorch_tanh", gelu_tanh)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_each_token_gets_the_weighted_sum(kind: str, act: str, function: object, kernel: str) -> None:
    bank = EXPERTS[kind](3, 8, 16, act)
    bank.kernel = kernel
    x, index, weights = torch.randn(4, 8), torch.tensor([[0, 1], [2, 3], [3, 3], [1, 2]]), torch.rand(4, 2)
    weights = weights.masked_fill(index == 3, 0)
    out = bank(x, index, weights)
    for token in range(4):
        expected = sum(
            (w * expert(x[token], bank.gate_up_proj[e], bank.down_proj[e], function))
            for e, w in zip(index[token].tolist(), weights[token], strict=True)
            if e < 3
        )
        torch.testing.assert_close(out[token], torch.zeros(8) + expected, atol=1e-6, rtol=1e-5)


@every_kind
@pytest.mark.parametrize("kernel", KERNELS)
def test_idle_expert_gets_zero_not_none(kind: str, kernel: str) -> None:
    bank = EXPERTS[kind](3, 8, 16, "silu")
    bank.kernel = kernel
    bank(torch.randn(4, 8), torch.tensor([[0], [2], [0], [2]]), torch.ones(4, 1)).sum().backward()
    for parameter in bank.parameters():
        assert not parameter.grad[1].any()
        assert parameter.grad[0].any()


def test_narrower_experts_take_the_largest_units_and_promise_nothing() -> None:
    gate_up, down, bank = torch.randn(10, 8), torch.randn(8, 5), FFNExperts(2, 8, 4)
    bank.load_from_dense(gate_up, down)
    size = gate_up[:5].norm(dim=1) * gate_up[5:].norm(dim=1) * down.norm(dim=0)
    kept = [unit for unit in range(5) if unit != int(size.argmin())]
    assert torch.equal(bank.down_proj[1], down[:, kept])
    assert torch.equal(bank.gate_up_proj[1], torch.cat([gate_up[kept], gate_up[5:][kept]]))
    assert [bank.starts_as_dense(width) for width in (3, 4, 5)] == [True, True, False]


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"has gate_up \(2\*ffn, 8\) and down \(8, ffn\), got \(10, 7\) and \(8, 5\)"):
        FFNExperts(2, 8, 6).load_from_dense(torch.zeros(10, 7), torch.zeros(8, 5))


def test_a_bank_prints_its_sizes() -> None:
    assert "num_experts=2, hidden=8, ffn=6, kernel=auto" in repr(FFNExperts(2, 8, 6))
