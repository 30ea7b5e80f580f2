"""The gate objective against its float64 loop, its gradient and its empty cases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.moe.asymoe.gate_loss import Gates, gate_loss


def drawn(layers: int, samples: int, score: bool, seed: int) -> list[Gates]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.rand(samples, generator=generator, dtype=torch.float64)  # noqa: E731
    return [Gates(draw(), draw() if score else None) for _ in range(layers)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.booleans(), st.floats(0, 0.5))
def test_it_is_the_mean_of_both_hinges(layers: int, samples: int, score: bool, margin: float) -> None:
    present, masked = drawn(layers, samples, score, 1), drawn(layers, samples, score, 2)
    found = gate_loss(present, masked, margin)
    expected = gaps = 0.0
    for own, other in zip(present, masked, strict=True):
        for b in range(samples):
            expected += max(0.0, margin + float(own.alpha[b] - other.alpha[b]))
            gaps += float(other.alpha[b] - own.alpha[b])
            if score:
                expected += max(0.0, margin + float(other.score[b] - own.score[b]))
    assert found.total.item() == pytest.approx(expected / (layers * samples), abs=1e-12)
    assert found.alpha_gap.item() == pytest.approx(gaps / (layers * samples), abs=1e-12)
    assert (found.score.item() == 0) >= (not score)
    assert found.num_samples == samples


def test_the_gradient_opens_the_gap() -> None:
    """A step against the gradient lowers alpha with evidence, raises it without, and turns the score around."""
    present, masked = drawn(1, 3, True, 3), drawn(1, 3, True, 4)
    leaves = [tensor.requires_grad_() for gates in (*present, *masked) for tensor in (gates.alpha, gates.score)]
    gate_loss(present, masked, margin=2.0).total.backward()
    assert [torch.sign(leaf.grad).unique().tolist() for leaf in leaves] == [[1.0], [-1.0], [-1.0], [1.0]]


def test_a_gap_beyond_the_margin_costs_nothing() -> None:
    wide = Gates(torch.tensor([0.1]), torch.tensor([0.9])), Gates(torch.tensor([0.3]), torch.tensor([0.6]))
    assert gate_loss([wide[0]], [wide[1]], 0.1).total == 0


def test_means_weigh_each_sample_alike() -> None:
    sample = torch.tensor([1, 1, 1, 2])
    alpha = torch.tensor([[0.0, 0.2], [0.2, 0.4], [0.4, 0.6], [1.0, 0.0]])
    gates = Gates.mean(alpha, None, sample, 3)
    assert torch.allclose(gates.alpha, torch.tensor([0.0, 0.3, 0.5]))
    assert gates.score is None


def test_no_sample_is_a_differentiable_zero() -> None:
    alpha, score = torch.zeros(0, 2, requires_grad=True), torch.zeros(0, requires_grad=True)
    empty = Gates.mean(alpha, score, torch.zeros(0, dtype=torch.long), 0)
    loss = gate_loss([empty], [empty], 0.1)
    loss.total.backward()
    assert (loss.total.item(), loss.alpha_gap.item(), loss.num_samples) == (0, 0, 0)
    assert alpha.grad is not None
    assert score.grad is not None


def test_layers_must_match() -> None:
    gates = drawn(1, 2, True, 0)
    with pytest.raises(ValueError, match="gates of 1 layers with evidence, of 2 without; give the same layers"):
        gate_loss(gates, gates * 2, 0.1)
    with pytest.raises(ValueError, match="gates of 0 layers"):
        gate_loss([], [], 0.1)
