"""Laws that every kind of experts keeps, whoever wrote it; a new line in ``EXPERTS`` is held to account by itself."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from moiety.groups import ExpertGroup
from moiety.moe.asymoe.activated import largest_layer
from moiety.moe.asymoe.context import Context
from moiety.moe.dispatch import deal
from moiety.moe.experts.bank import ExpertBank, Place
from moiety.moe.experts.kinds import EXPERTS, bank_class
from moiety.moe.layer import ModalityMoE
from moiety.moe.routers import ROUTERS
from moiety.recipe.recipe import MoESettings
from tests.moe.slots import answer, slots_of

HIDDEN, DENSE, EXPERTS_HERE = 6, 5, 3
WIDTHS = {"hyp_dim": 4, "context_dim": 4, "inter_ffn": DENSE, "vision_ffn": DENSE, "evidence_dim": DENSE}
SETTINGS = {
    "asymoe": MoESettings(scheme="asymoe", asymoe={**WIDTHS, "residual_ffn": DENSE, "size_plan": "full"}),
    "moiie": MoESettings(scheme="moiie"),
}
NEEDS_ASYMOE = ("lorentz", "euclidean", "product", "evidence", "context")
every_kind = pytest.mark.parametrize("kind", list(EXPERTS))


class Read(NamedTuple):
    """What a bank may read of each token beside its hidden state."""

    context: Context
    group: Tensor


def place_of(kind: str, scheme: str = "asymoe", count: int = EXPERTS_HERE) -> Place:
    group = ExpertGroup("inter", count, ("vision", "text"), kind)
    return Place(group, HIDDEN, DENSE, 2, SETTINGS[scheme])


def bank_of(kind: str, *, stirred: bool = True, count: int = EXPERTS_HERE) -> ExpertBank:
    """A bank of this kind, away from its start, where parts of it may be silent."""
    torch.manual_seed(0)
    place = place_of(kind, count=count)
    bank = bank_class(place.group).at(place).double()
    if stirred:
        with torch.no_grad():
            for parameter in bank.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return bank


def given(tokens: int = 7, top_k: int = 2) -> tuple[Tensor, Tensor, Tensor, Read]:
    """Hidden states, choices, weights, and what else a bank may read; the last token is padding and chose no expert."""
    torch.manual_seed(1)
    index = torch.rand(tokens, EXPERTS_HERE).topk(top_k).indices
    index[-1:] = EXPERTS_HERE
    group = torch.randint(0, 2, (tokens,))
    group[-1:] = -1
    read = Read(Context(torch.randn(tokens, HIDDEN).double(), torch.rand(tokens).double()), group)
    return torch.randn(tokens, HIDDEN).double(), index, torch.rand(tokens, top_k).double(), read


def one_token(read: Read, token: int) -> Read:
    own = slice(token, token + 1)
    return Read(Context(read.context.output[own], read.context.mass[own]), read.group[own])


def dense_ffn() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(2 * DENSE, HIDDEN).double(), torch.randn(HIDDEN, DENSE).double()


def felt(bank: ExpertBank, expert: int, tokens: int = 64) -> int:
    """How many parameters change what one expert answers to a text token."""
    torch.manual_seed(3)
    read = Read(Context(torch.randn(tokens, HIDDEN).double(), torch.rand(tokens).double()), torch.ones(tokens).long())
    bank.zero_grad()
    x, index = torch.randn(tokens, HIDDEN).double(), torch.full((tokens, 1), expert)
    out = answer(bank, x, index, torch.ones(tokens, 1), *read)
    out.square().sum().backward()
    return sum(int((p.grad != 0).sum()) for p in bank.parameters() if p.grad is not None)


@every_kind
def test_each_token_gets_the_weighted_sum_of_what_its_experts_say(kind: str) -> None:
    """So a token is answered for itself, whatever stands beside it in the batch; no expert answers exactly 0."""
    bank, (x, index, weights, read) = bank_of(kind), given()
    out = answer(bank, x, index, weights, *read)
    assert not out[-1].any()
    for token in range(len(x) - 1):
        expected = torch.zeros(HIDDEN).double()
        for expert, weight in zip(index[token], weights[token], strict=True):
            one = torch.ones(1, 1).double()
            alone = answer(bank, x[token : token + 1], expert.view(1, 1), one, *one_token(read, token))
            expected = expected + weight * alone[0]
        torch.testing.assert_close(out[token], expected, atol=1e-10, rtol=1e-10)


@every_kind
def test_slots_that_are_sorted_already_get_the_same_answer(kind: str) -> None:
    """Beside banks of other kinds the slots of all are sorted once, by expert and by side."""
    bank, (x, index, weights, read) = bank_of(kind), given()
    (slots,) = deal(slots_of(bank, index, read.group), [EXPERTS_HERE])
    extra = (read.context,) if bank.reads_context else ()
    torch.testing.assert_close(bank(x, slots, weights, *extra), answer(bank, x, index, weights, *read))


@every_kind
@pytest.mark.parametrize("tokens", [0, 3])
def test_where_nobody_chose_it_a_bank_answers_0_and_learns_nothing(kind: str, tokens: int) -> None:
    """Gradients are 0 and not None: every rank has the same graph."""
    bank, (x, index, weights, read) = bank_of(kind), given(tokens)
    out = answer(bank, x, torch.full_like(index, EXPERTS_HERE), torch.zeros_like(weights), *read)
    assert out.shape == (tokens, HIDDEN)
    assert not out.any()
    out.sum().backward()
    for name, parameter in bank.named_parameters():
        if name != "cone_log_scale":  # of the order loss alone
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


@every_kind
def test_an_idle_expert_gets_a_gradient_of_0(kind: str) -> None:
    bank, (x, index, weights, read) = bank_of(kind), given(top_k=1)
    answer(bank, x, index.clamp(max=EXPERTS_HERE).masked_fill(index == 1, 0), weights, *read).square().sum().backward()
    for name, parameter in bank.named_parameters():
        if name != "cone_log_scale" and len(parameter) == EXPERTS_HERE:
            assert not parameter.grad[1].any(), name
            assert parameter.grad[0].any(), name


@every_kind
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    bank, (x, index, weights, read) = bank_of(kind), given(3)
    leaves = (x.requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x, weights: answer(bank, x, index, weights, *read), leaves, atol=1e-5, rtol=1e-4
    )


@every_kind
def test_the_count_of_one_expert_is_what_a_token_can_feel(kind: str) -> None:
    bank = bank_of(kind)
    for expert in range(EXPERTS_HERE):
        assert bank.activated_of(expert, 1) == felt(bank, expert)


@every_kind
def test_a_design_counts_what_the_layer_counts(kind: str) -> None:
    """Widths are designed from what the banks say of themselves; once a formula stood beside and was wrong."""
    for group in ("inter", "text"):
        own = SETTINGS["asymoe"].asymoe.model_copy(update={f"{group}_kind": kind})
        settings = SETTINGS["asymoe"].model_copy(update={"asymoe": own})
        layer = ModalityMoE(HIDDEN, DENSE, settings)
        for name in layer.groups.names:
            assert layer.activated_parameters(name) == largest_layer(settings, HIDDEN, name)


@every_kind
@pytest.mark.parametrize("width", [DENSE - 2, DENSE, DENSE + 3])
def test_a_bank_keeps_its_promise_to_start_as_the_dense_ffn(kind: str, width: int) -> None:
    """Every bank takes a dense FFN of any width; where it promises equality it is equal, whoever is asked."""
    gate_up, down = dense_ffn()
    own = dict.fromkeys(("inter_ffn", "vision_ffn", "evidence_dim", "residual_ffn"), width)
    place = dataclasses.replace(
        place_of(kind), settings=MoESettings(scheme="asymoe", asymoe={**WIDTHS, **own, "size_plan": "full"})
    )
    bank = bank_class(place.group).at(place).double()
    bank.load_from_dense(gate_up, down)
    x, index, weights, read = given()
    out = answer(bank, x, index, weights, *read)
    assert out.isfinite().all()
    if bank.starts_as_dense(DENSE):
        gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
        expected = F.linear(F.silu(gate) * up, down) * weights.masked_fill(index == EXPERTS_HERE, 0).sum(-1, True)
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)


@every_kind
def test_no_bank_owns_a_buffer(kind: str) -> None:
    """Buffers that are not saved come back as garbage from a load through the meta device."""
    assert not list(bank_of(kind).buffers())


@every_kind
def test_a_bank_can_be_built_without_memory(kind: str) -> None:
    """Models are counted on the meta device, and loaded through it."""
    place = place_of(kind)
    with torch.device("meta"):
        bank = bank_class(place.group).at(place)
    assert {parameter.device.type for parameter in bank.parameters()} == {"meta"}
    assert bank.activated_of(0, 1) == bank_of(kind).activated_of(0, 1)


@every_kind
def test_new_weights_can_be_drawn_again(kind: str) -> None:
    """Loading draws what a checkpoint lacks through ``initialise``; nothing may stay as the memory was."""
    bank = bank_of(kind, stirred=False)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.fill_(torch.nan)
    bank.initialise()
    assert all(parameter.isfinite().all() for parameter in bank.parameters())


@every_kind
@pytest.mark.parametrize("scheme", [name for name in ROUTERS if name != "asymoe"])
def test_a_kind_works_in_every_scheme_or_says_what_it_needs(kind: str, scheme: str) -> None:
    """``kinds`` of a recipe, for each group of each scheme in turn."""
    groups = [group.name for group in ROUTERS[scheme].layout(None, {0: "text", 1: "vision"}).groups]
    x, ids = torch.randn(1, 5, HIDDEN), torch.tensor([[0, 1, 1, 0, -1]])
    for name in groups:
        settings = MoESettings(scheme=scheme, kinds={name: kind})
        if kind in NEEDS_ASYMOE:
            with pytest.raises(ValueError, match=f"kind '{kind}' .* get their widths from moe.asymoe, which scheme"):
                ModalityMoE(HIDDEN, DENSE, settings)
            continue
        layer = ModalityMoE(HIDDEN, DENSE, settings)
        out = layer(x, ids)
        assert out[0, :4].any()
        assert not out[0, 4].any()
        out.square().sum().backward()
        assert all(parameter.grad is not None for parameter in layer.parameters())
        own = layer.experts if kind == "ffn" else layer.experts.bank(name)
        assert type(own) is EXPERTS[kind]
