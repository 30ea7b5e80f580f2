"""Triplets by hand, their order, and where gradient goes (P10 to P12)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.intent.data.samples import make_batch
from moiety.intent.network.synchronise import (
    batch_triplet_loss,
    distances,
    info_nce_loss,
    mine_negatives,
    synchrony,
    triplet_loss,
)
from tests.intent.small import DIMS, network, utterances

law = settings(max_examples=30, deadline=None, derandomize=True, database=None)


@st.composite
def points(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    samples, classes, dim = draw(st.integers(1, 7)), draw(st.integers(2, 5)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    unit = [torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=-1) for n in (samples, classes)]
    return unit[0], unit[1], torch.randint(0, classes, (samples,), generator=generator)


def by_hand(distance: torch.Tensor, y: torch.Tensor, margin: float, kind: str) -> float:
    """The definition, row by row."""
    total = 0.0
    for row, own in zip(distance.tolist(), y.tolist(), strict=True):
        others = [value for label, value in enumerate(row) if label != own]
        farther = [value for value in others if value > row[own]]
        near = min(farther) if kind == "semihard" and farther else min(others)
        total += max(0.0, margin + row[own] - near)
    return total / len(y)


@law
@given(points(), st.sampled_from(["hard", "semihard"]))
def test_triplets_equal_their_definition(drawn: tuple, kind: str) -> None:
    f, g, y = drawn
    distance = distances(f, g)
    assert triplet_loss(distance, y, 0.3, kind).item() == pytest.approx(by_hand(distance, y, 0.3, kind), abs=1e-6)


@law
@given(points())
def test_harder_negatives_cost_more(drawn: tuple) -> None:
    f, g, y = drawn
    distance = distances(f, g)
    hard, semihard = (triplet_loss(distance, y, 0.3, kind).item() for kind in ("hard", "semihard"))
    drawn_ones = triplet_loss(distance, y, 0.3, "random", torch.Generator().manual_seed(0)).item()
    assert hard >= semihard - 1e-6
    assert hard >= drawn_ones - 1e-6
    assert semihard >= 0


@law
@given(points())
def test_names_of_classes_and_the_kind_of_distance_do_not_matter(drawn: tuple) -> None:
    f, g, y = drawn
    order = torch.randperm(len(g))
    renamed = torch.argsort(order)[y]
    loss = triplet_loss(distances(f, g), y, 0.3)
    torch.testing.assert_close(triplet_loss(distances(f, g[order]), renamed, 0.3), loss)
    torch.testing.assert_close(triplet_loss(distances(f, g, "squared_l2"), y, 0.6), 2 * loss)
    direct = (f[:, None] - g[None]).square().sum(-1)
    torch.testing.assert_close(distances(f, g, "squared_l2"), direct, atol=1e-5, rtol=0)


def test_no_cost_once_the_own_description_is_nearer_by_the_margin() -> None:
    distance = torch.tensor([[0.1, 0.4], [0.9, 0.2]])
    assert triplet_loss(distance, torch.tensor([0, 1]), 0.3).item() == 0
    assert triplet_loss(distance, torch.tensor([0, 1]), 0.4).item() == pytest.approx(0.05)


def test_random_negatives_are_never_the_own_class() -> None:
    y = torch.arange(5).repeat(40)
    found = mine_negatives(torch.rand(200, 5), y, "random")
    assert (found != y).all()
    assert set(found.tolist()) == set(range(5))


def test_one_class_or_no_sample_costs_a_differentiable_nothing() -> None:
    for shape in ((3, 1), (0, 4)):
        distance = torch.rand(shape, requires_grad=True)
        for loss in (triplet_loss(distance, torch.zeros(shape[0]).long(), 0.3),
                     batch_triplet_loss(distance, torch.zeros(shape[0]).long(), 0.3)):  # fmt: skip
            loss.backward()
            assert loss.item() == 0
        assert (distance.grad == 0).all()


def test_batch_form_by_hand() -> None:
    distance, y = torch.tensor([[0.1, 0.5], [0.2, 0.9], [0.6, 0.3]]), torch.tensor([0, 0, 1])
    # description 0 to samples: .1 .2 .6, foreign nearest .6; description 1: .5 .9 .3, foreign nearest .5
    expected = (max(0, 0.5 + 0.1 - 0.6) + max(0, 0.5 + 0.2 - 0.6) + max(0, 0.5 + 0.3 - 0.5)) / 3
    assert batch_triplet_loss(distance, y, 0.5).item() == pytest.approx(expected)


def test_info_nce_at_equal_cosines_is_the_log_of_the_classes() -> None:
    f, g = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]] * 5)
    assert info_nce_loss(f, g, torch.tensor([2]), 0.1).item() == pytest.approx(math.log(5))


def test_descriptions_stay_and_both_projections_learn() -> None:
    built = network(descriptions=True)
    f, g = built.synchronised(built(make_batch(utterances(), DIMS)).embedding)
    triplet_loss(distances(f, g), torch.arange(len(utterances())) % 4, 0.5).backward()
    assert not built.label_embeddings.requires_grad
    for part in (built.projections.sample, built.projections.label):
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in part.parameters())
    assert built.body.join.weight.grad.abs().sum() > 0


def test_half_precision_input_gives_the_value_of_its_rounding() -> None:
    built = network(descriptions=True)
    embedding = torch.randn(3, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        f, _ = built.synchronised(embedding.bfloat16())
    exact, _ = built.synchronised(embedding.bfloat16().float())
    assert f.dtype == torch.float32
    torch.testing.assert_close(f, exact)


def test_watched_numbers() -> None:
    g = torch.nn.functional.normalize(torch.ones(3, 4), dim=-1)
    found = synchrony(distances(g[:1], g), g, torch.tensor([0]), 0.3)
    assert found == pytest.approx(
        {"own_distance": 0, "other_distance": 0, "active_share": 1, "description_cosine": 1}, abs=1e-6
    )


def test_without_descriptions_there_is_nothing_to_synchronise() -> None:
    with pytest.raises(RuntimeError, match="no label descriptions; build it with label_embeddings"):
        network().synchronised(torch.zeros(1, 16))
