"""Scheme asymoe: MoIIE's decision, moved towards evidence experts by what the prompt says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from moiety.groups import TEXT_GROUP
from moiety.moe.asymoe.context import Context
from moiety.moe.asymoe.router import AsymmetricRouter, EvidenceScore, at_layer, own_settings
from moiety.moe.routers import MoIIE, resolve
from moiety.recipe.recipe import MoESettings
from tests.moe.laws import TWO, law

HIDDEN, TOKENS = 6, 40
IDS = torch.arange(TOKENS) % 3 - (torch.arange(TOKENS) == 7).long() * 9  # text, image, video; one of padding
IDS[7] = -1


def settings_of(**own: Any) -> MoESettings:
    return MoESettings(scheme="asymoe", router_init_std=0.5, asymoe=own)


def router_of(settings: MoESettings | None = None, seed: int = 0) -> AsymmetricRouter:
    settings = settings or settings_of()
    torch.manual_seed(seed)
    router = AsymmetricRouter(resolve(settings)[1], HIDDEN, settings).double()
    if router.score is not None:
        nn.init.normal_(router.score.weight)
    return router


def seen(seed: int = 1) -> tuple[Tensor, Context]:
    generator = torch.Generator().manual_seed(seed)
    x, a = torch.randn(2, TOKENS, HIDDEN, generator=generator, dtype=torch.float64)
    return x, Context(a, torch.rand(TOKENS, generator=generator, dtype=torch.float64))


# -- table -----------------------------------------------------------------------------------------------------------
def test_kinds_and_plain_text_experts_stand_in_the_table() -> None:
    groups = resolve(settings_of(plain_text=2, inter_kind="product"))[1]
    assert groups.describe() == "vision×1 + inter×2 + text×1 + plain×2"
    assert [group.kind for group in groups.groups] == ["ffn", "product", "evidence", "ffn"]
    assert groups.visible("text") == (1, 2, 3, 4, 5)
    assert groups.visible("vision") == (0, 1, 2)
    three = MoESettings(scheme="asymoe", modality_groups={**TWO, 3: "audio"})
    assert resolve(three)[1].describe() == "vision×1 + audio×1 + inter×2 + text×1"


def test_counts_that_were_written_out_rebuild_the_table() -> None:
    settings = settings_of(plain_text=2)
    groups = resolve(settings)[1]
    written = settings.model_copy(update={"experts": {group.name: group.count for group in groups.groups}})
    assert resolve(MoESettings.model_validate(written.model_dump()))[1] == groups
    counts = {"vision": 1, "inter": 2, "text": 1, "plain": 3}
    with pytest.raises(ValueError, match=r"gives 3 plain experts, moe\.asymoe\.plain_text 2; give the number in one"):
        resolve(settings.model_copy(update={"experts": counts}))


def test_deepest_half_has_evidence_experts_and_the_rest_plain_ones() -> None:
    settings = settings_of(evidence_layers="deepest_half").model_copy(update={"layers": [0, 2, 3, 5, 6]})
    kinds = [own_settings(at_layer(settings, layer)).text_kind for layer in settings.layers]
    assert kinds == ["ffn", "ffn", "evidence", "evidence", "evidence"]
    assert at_layer(settings_of(), 0) == settings_of()
    assert at_layer(MoESettings(), 0) == MoESettings()
    with pytest.raises(ValueError, match=r"moe\.scheme is 'moiie'; scheme 'asymoe' alone has a section"):
        own_settings(MoESettings())


# -- the decision ----------------------------------------------------------------------------------------------------
def test_without_a_score_it_decides_as_moiie() -> None:
    x, context = seen()
    moiie = MoIIE(resolve(MoESettings())[1], HIDDEN, MoESettings()).double()
    for own in ({"score": "off"}, {"text_kind": "context"}, {"text_kind": "ffn"}):
        router = router_of(settings_of(**own))
        assert router.score is None
        moiie.load_state_dict(router.state_dict())
        ours, theirs = router(x, IDS, context), moiie(x, IDS)
        assert ours.index.equal(theirs.index)
        assert ours.weights.equal(theirs.weights)
        assert set(ours.extras) == {"mass"}


@law
@given(
    seed=st.integers(0, 99),
    score=st.sampled_from(["sigmoid", "mass"]),
    gain=st.sampled_from([0.5, 1.0, 3.0, "learned"]),
    plain=st.integers(0, 2),
    norm_topk=st.booleans(),
)
def test_equals_the_paper_token_by_token(seed: int, score: str, gain: float | str, plain: int, norm_topk: bool) -> None:
    """Eq. 18-20: boosted logits decide index and weights; raw ones are what the trace keeps."""
    settings = settings_of(score=score, evidence_gain=gain, plain_text=plain).model_copy(
        update={"norm_topk": norm_topk}
    )
    router, (x, context) = router_of(settings, seed), seen(seed)
    if gain == "learned":
        nn.init.constant_(router.score.log_gain, 0.7)
    routing = router(x, IDS, context)
    evidence = range(*router.groups.slice_of(TEXT_GROUP).indices(router.groups.num_experts))
    factor = math.log1p(math.exp(0.7)) if gain == "learned" else gain
    for t, modality in enumerate(IDS.tolist()):
        if modality < 0:
            continue
        name = router.groups.modality_groups[modality]
        visible = router.groups.visible(name)
        z = router.gates[name].weight @ x[t]
        s = torch.sigmoid(router.score.weight @ context.output[t] + router.score.bias[0])
        s = s * context.mass[t] if score == "mass" else s
        boosted = torch.stack(
            [value + factor * s if expert in evidence else value for expert, value in zip(visible, z, strict=True)]
        )
        shares, chosen = boosted.softmax(0).topk(2)
        assert routing.index[t].tolist() == [visible[row] for row in chosen]
        torch.testing.assert_close(routing.weights[t], shares / shares.sum() if norm_topk else shares)
        torch.testing.assert_close(routing.logits[t, list(visible)], z)
        torch.testing.assert_close(routing.extras["score"][t], s)


def test_a_score_favours_evidence_experts_e_fold_at_most() -> None:
    """T14: P(E_L) grows with s; odds against s = 0 are exp(gain * s)."""
    router, (x, context) = router_of(), seen()
    text = IDS == 0
    column = router.groups.slice_of(TEXT_GROUP).start
    odds = []
    for s in (0.0, 0.25, 0.5, 1.0):
        boosted = router._boosted(router(x, IDS, context).logits, torch.full((TOKENS,), s, dtype=torch.float64))
        share = boosted.softmax(dim=-1)[text, column]
        odds.append(share / (1 - share))
    for s, found in zip((0.25, 0.5, 1.0), odds[1:], strict=True):
        torch.testing.assert_close(found / odds[0], torch.full_like(found, math.exp(s)))
        assert (found / odds[0] <= math.e + 1e-12).all()
    score = torch.full((TOKENS,), 0.4, dtype=torch.float64, requires_grad=True)
    share = router._boosted(router(x, IDS, context).logits.detach(), score).softmax(dim=-1)[:, column]
    (slope,) = torch.autograd.grad(share[text].sum(), score)
    assert (slope[text] > 0).all()
    assert not slope[~text].any()


def test_vision_tokens_never_reach_evidence_experts_nor_text_private_vision_experts() -> None:
    """T18, with a gain that would move everything there."""
    router, (x, context) = router_of(settings_of(evidence_gain=1e4, plain_text=1)), seen()
    routing = router(x, IDS, context)
    for name, own in (("text", IDS == 0), ("vision", IDS > 0)):
        assert set(routing.index[own].flatten().tolist()) <= set(router.groups.visible(name))
    assert (routing.index[IDS == 0] == router.groups.slice_of(TEXT_GROUP).start).any(dim=-1).all()
    torch.testing.assert_close(routing.weights[IDS >= 0].sum(-1), torch.ones(TOKENS - 1).double())
    assert (routing.index[IDS < 0] == router.groups.num_experts).all()
    assert not routing.weights[IDS < 0].any()


def test_boosted_scores_stand_beside_raw_ones_only_where_the_balance_loss_reads_them() -> None:
    x, context = seen()
    assert set(router_of()(x, IDS, context).extras) == {"mass", "score"}
    router = router_of(settings_of(balance_logits="boosted"))
    routing = router(x, IDS, context)
    column = router.groups.slice_of(TEXT_GROUP).start
    text = IDS == 0
    raised = routing.extras["balance_logits"][text] - routing.logits[text]
    torch.testing.assert_close(raised[:, column], routing.extras["score"][text])
    assert not raised[:, 1:column].any()


def test_gradient_reaches_the_score_through_the_weights() -> None:
    """T13 for w_evd: at 0 it learns from the first step, because a is not 0."""
    router, (x, context) = router_of(settings_of(evidence_gain="learned")), seen()
    nn.init.zeros_(router.score.weight)
    routing = router(x, IDS, context)
    assert (routing.extras["score"] == 0.5).all()
    (routing.weights * torch.randn_like(routing.weights)).sum().backward()
    assert router.score.weight.grad.any(), "w_evd"
    assert router.score.bias.grad.any()
    assert router.score.log_gain.grad.any()


def test_the_score_stays_precise_in_a_narrow_model() -> None:
    router = router_of().float().bfloat16()
    assert router.gates["text"].weight.dtype == torch.bfloat16
    assert {p.dtype for p in router.score.parameters()} == {torch.float32}
    before = router.score.weight.clone()
    assert router.to(torch.float16).score.weight.equal(before), "no bit was lost on the way"
    x, context = seen()
    routing = router.bfloat16()(x.bfloat16(), IDS, Context(context.output.bfloat16(), context.mass.float()))
    assert routing.extras["score"].dtype == torch.float32
    assert routing.weights.dtype == torch.bfloat16


def test_a_score_starts_at_one_half_with_gain_one() -> None:
    score = EvidenceScore(HIDDEN, own_settings(settings_of(evidence_gain="learned")))
    context = Context(torch.randn(3, HIDDEN), torch.rand(3))
    assert score(context).tolist() == [0.5] * 3
    assert score.gain.item() == pytest.approx(1, abs=1e-6)
    literal = EvidenceScore(HIDDEN, own_settings(settings_of(preset="faithful")))
    assert literal.bias is None
    assert literal.gain == 1
