"""The formulas of contrastive decoding, by hand and by law."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moiety.evaluate.contrast import (
    context_aware,
    contrast_layers,
    diffusion_noise,
    early_layers,
    layer_divergence,
    plausible,
    visual_contrastive,
)

INF = math.inf
RULED_OUT = torch.tensor([[1.0, 3.0, 2.0, -INF]])  # token 3 is suppressed


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_context_aware_by_hand() -> None:
    without = torch.tensor([[0.0, 5.0, 0.0, -INF]])
    # token 1 is likeliest in both: what the evidence adds is token 2
    assert context_aware(RULED_OUT, without, 1.0).tolist() == [[2.0, 1.0, 4.0, -INF]]
    assert context_aware(RULED_OUT, without, 0.5).tolist() == [[1.5, 2.0, 3.0, -INF]]


@given(st.integers(0, 99), st.floats(0, 3))
def test_a_contrast_with_itself_or_of_weight_0_changes_nothing(seed: int, weight: float) -> None:
    logits, other = drawn(seed, 2, 7), drawn(seed + 100, 2, 7)
    assert torch.equal(context_aware(logits, logits, weight), logits)
    assert torch.equal(context_aware(logits, other, 0.0), logits)
    assert torch.equal(visual_contrastive(logits, other, 0.0, 0.0), logits)
    assert torch.equal(visual_contrastive(logits, other, 0.0, 0.1).argmax(-1), logits.argmax(-1))


def test_only_plausible_tokens_are_left() -> None:
    logits, noised = torch.tensor([[4.0, 3.0, 0.0]]), torch.tensor([[4.0, 0.0, -9.0]])
    # without the cut token 2 would win: 0 + (0 + 9) = 9 against 4 and 6
    assert visual_contrastive(logits, noised, 1.0, 0.1).tolist() == [[4.0, 6.0, -INF]]
    assert visual_contrastive(logits, noised, 1.0, 0.0).tolist() == [[4.0, 6.0, 9.0]]
    assert plausible(RULED_OUT, 0.0).tolist() == [[True, True, True, False]]
    assert plausible(RULED_OUT, 1.0).tolist() == [[False, True, False, False]]


@given(st.integers(0, 99), st.floats(0.01, 1))
def test_the_cut_is_on_probabilities(seed: int, cut: float) -> None:
    logits = drawn(seed, 3, 9)
    share = logits.double().softmax(-1) / logits.double().softmax(-1).amax(-1, keepdim=True)
    kept, near = plausible(logits, cut), (share - cut).abs() < 1e-5
    assert torch.equal(kept | near, (share >= cut) | near)
    assert kept.any(-1).all()


def test_the_noise_has_the_schedule_of_the_paper() -> None:
    picture = torch.full((200_000,), 2.0)
    kept = 0.7447985260430766  # float64 product of 1 - beta over steps 0..500, computed apart with math.exp
    noised = diffusion_noise(picture, 500, torch.Generator().manual_seed(0))
    assert noised.mean().item() == pytest.approx(2 * math.sqrt(kept), abs=0.005)  # found 0.001 off
    assert noised.var().item() == pytest.approx(1 - kept, rel=0.01)  # found 0.4 %
    first = diffusion_noise(picture, 0, torch.Generator().manual_seed(0))
    assert (first - picture).abs().mean().item() < 0.01
    again = diffusion_noise(picture, 500, torch.Generator().manual_seed(0))
    assert torch.equal(noised, again)


def test_candidate_layers_of_the_paper() -> None:
    assert early_layers(32, "low") == list(range(0, 16, 2))
    assert early_layers(32, "high") == list(range(16, 32, 2))
    assert early_layers(4, "high") == [2]
    assert early_layers(1, "high") == [0]


@given(st.integers(0, 99))
def test_divergences_equal_their_definition(seed: int) -> None:
    final, early = drawn(seed, 2, 6), drawn(seed + 100, 3, 2, 6)
    final[:, 2] = -INF  # a token that is ruled out takes no part
    p = final.double().softmax(-1)
    q = early.double().index_fill(-1, torch.tensor([2]), -INF).softmax(-1)
    m = (p + q) / 2
    kept = [0, 1, 3, 4, 5]

    def kl(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one * (one / other).log())[..., kept].sum(-1)

    p, wanted = p.expand_as(q), {}
    wanted["jensen_shannon"] = (kl(p, m) + kl(q, m)) / 2
    wanted["published"] = (kl(m, p) + kl(m, q)) / 2
    for form, value in wanted.items():
        found = layer_divergence(final, early, form)  # type: ignore[arg-type]
        torch.testing.assert_close(found.double(), value, rtol=1e-4, atol=1e-6)  # float32; found 4e-6 relative
    assert (wanted["jensen_shannon"] <= math.log(2)).all()


def test_the_orders_of_divergence_can_choose_different_layers() -> None:
    final = torch.tensor([[0.0, -20.0, -1.0]])
    early = torch.tensor([[[0.0, -1.0, -25.0]], [[-3.0, -2.0, 0.0]]])
    assert layer_divergence(final, early, "published").argmax(0).item() == 0
    assert layer_divergence(final, early, "jensen_shannon").argmax(0).item() == 1


def test_dola_takes_the_farthest_layer_of_each_row() -> None:
    final = torch.tensor([[2.0, 1.5, -9.0], [2.0, 1.5, -9.0]])
    near, far = [2.0, 1.4, -9.0], [2.5, -1.0, -9.0]
    early = torch.tensor([[near, far], [far, near]])  # (layers, batch, vocab)
    found = contrast_layers(final, early, 0.1)
    wanted = final[0].log_softmax(-1) - torch.tensor(far).log_softmax(-1)
    for row in found:
        torch.testing.assert_close(row[:2], wanted[:2])
        assert row[2] == -INF
        assert row.argmax() == 1, "what the early layer did not know yet"


def test_dola_keeps_ruled_out_tokens_out() -> None:
    found = contrast_layers(RULED_OUT, torch.zeros(2, 1, 4), 0.0)
    assert found[0, 3] == -INF
    assert torch.isfinite(found[0, :3]).all()
