"""Laws of every method: what must not matter does not (P01 to P07, P09, P25)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from moiety.intent import SampleError
from moiety.intent.data.samples import IntentBatch, make_batch
from moiety.intent.network.anchors import ANCHOR_SCORES
from moiety.intent.network.baselines import METHODS, to_bins
from moiety.intent.network.model import sinusoid
from tests.intent.small import DIMS, network, utterance, utterances

every_method = pytest.mark.parametrize("method", METHODS)
KINDS = [("attention", {}), *((score, {"anchor_score": score}) for score in ANCHOR_SCORES[1:])]
every_network = pytest.mark.parametrize(
    ("method", "settings"),
    [*((name, {}) for name in METHODS), *(("amess", kind) for _, kind in KINDS[1:]), ("amess", {"pooling": "cls"}),
     ("amess", {"pooling": "mean", "text_shortcut": False}), ("amess", {"anchor_weighting": False})],
    ids=str,
)  # fmt: skip
CLOSE = {"rtol": 0, "atol": 1e-5}  # worst seen 8e-7


def text_users(method: str) -> list:
    """Samples that a method can tell apart."""
    return [sample for sample in utterances() if method != "text" or sample.text_features is not None]


@every_network
def test_a_sample_in_a_batch_is_the_sample_alone(method: str, settings: dict) -> None:
    built, samples = network(method, **settings), text_users(method)
    together = built(make_batch(samples, DIMS))
    for number, sample in enumerate(samples):
        alone = built(make_batch([sample], DIMS))
        torch.testing.assert_close(alone.logits[0], together.logits[number], **CLOSE)
    assert torch.isfinite(together.logits).all()


@pytest.mark.parametrize("junk", [1e4, float("nan")])
@every_network
def test_what_stands_under_a_false_mask_changes_nothing(method: str, settings: dict, junk: float) -> None:
    built, batch = network(method, **settings), make_batch(utterances(), DIMS)
    hidden = {name: ~mask.unsqueeze(-1) for name, mask in batch.frame_mask.items()}
    loud = {name: x.masked_fill(hidden[name], junk) for name, x in batch.x.items()}
    wider = {name: torch.cat([x, torch.full_like(x, junk)], dim=1) for name, x in loud.items()}
    masks = [
        {name: torch.cat([m, torch.zeros_like(m)], dim=1) for name, m in part.items()}
        for part in (batch.frame_mask, batch.anchor_mask)
    ]
    padded = IntentBatch(wider, *masks, batch.text_marks)
    torch.testing.assert_close(built(padded).logits, built(batch).logits, **CLOSE)


@every_method
def test_shuffled_samples_shuffle_the_result(method: str) -> None:
    built, samples = network(method), text_users(method)
    order = torch.randperm(len(samples))
    before = built(make_batch(samples, DIMS)).logits
    after = built(make_batch([samples[i] for i in order], DIMS)).logits
    torch.testing.assert_close(after, before[order], **CLOSE)


@every_method
def test_absent_hidden_and_empty_are_the_same(method: str) -> None:
    built, whole = network(method), utterance(1)
    for name, field in (("video", "video"), ("audio", "audio")):
        absent = built(make_batch([replace(whole, **{field: None})], DIMS)).logits
        hidden = built(make_batch([whole], DIMS, hide=(name,))).logits
        empty = built(make_batch([replace(whole, **{field: np.zeros((0, DIMS[name]))})], DIMS)).logits
        torch.testing.assert_close(hidden, absent, **CLOSE)
        torch.testing.assert_close(empty, absent, **CLOSE)


def test_hiding_in_a_batch_touches_no_other_sample() -> None:
    built, batch = network(), make_batch([utterance(0), utterance(1)], DIMS)
    some = built(batch.hiding({"audio": torch.tensor([True, False])})).logits
    torch.testing.assert_close(some[1], built(batch).logits[1], **CLOSE)
    alone = built(make_batch([utterance(0)], DIMS, hide=("audio",))).logits
    torch.testing.assert_close(some[:1], alone, **CLOSE)


def test_order_matters_to_amess_and_not_to_concat() -> None:
    whole = utterance(1)
    turned = replace(whole, video=whole.video[::-1].copy())
    for method, same in (("concat", True), ("amess", False), ("mult", False)):
        built = network(method)
        a, b = (built(make_batch([sample], DIMS)).logits for sample in (whole, turned))
        assert torch.allclose(a, b, atol=1e-6) is same


@pytest.mark.parametrize("score", ANCHOR_SCORES)
def test_shares_are_shares_and_go_to_real_anchors(score: str) -> None:
    fused = network(anchor_score=score)(make_batch(utterances(), DIMS)).fused
    torch.testing.assert_close(fused.pooling.sum(1), torch.ones(len(utterances())))
    for name, anchors in fused.anchors.items():
        for number, sample in enumerate(utterances()):
            frames = sample.frames(name)
            chosen = anchors.index[number][anchors.valid[number]].tolist()
            assert len(set(chosen)) == len(chosen)
            assert all(frame < len(frames) for frame in chosen)
            most = len(frames) if frames is not None else 0
            assert len(chosen) == (most if score == "all" else min(3, most))


def test_marks_of_the_text_encoder_are_never_anchors() -> None:
    batch = make_batch([utterance(2, (5, 2, 2), marks=True), utterance(3, (4, 2, 2), marks=True)], DIMS)
    anchors = network()(batch).fused.anchors["text"]
    for row, last in ((0, 4), (1, 3)):
        assert not {0, last} & set(anchors.index[row][anchors.valid[row]].tolist())


def test_all_frames_as_unweighted_anchors_is_fusion_without_choice() -> None:
    """Put every state where it is instead of where its score sorts it: the sum over anchors cannot tell."""
    batch = make_batch([utterance(0), utterance(1)], DIMS)
    free = network(anchor_score="all", anchor_weighting=False)
    by_norm = network(anchor_score="norm", anchor_weighting=False)
    by_norm.body.settings = by_norm.body.settings.model_copy(update={"num_anchors": 99})
    torch.testing.assert_close(by_norm(batch).logits, free(batch).logits, **CLOSE)


@pytest.mark.parametrize(("weighting", "learns"), [(True, True), (False, False)])
def test_weighting_alone_lets_the_gate_learn(weighting: bool, learns: bool) -> None:
    built = network(anchor_score="gate", anchor_weighting=weighting)
    built(make_batch(utterances(), DIMS)).logits.square().sum().backward()
    gates = [parameter.grad for parameter in built.body.gates.parameters()]
    assert [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gates] == [learns] * len(gates)


def test_random_anchors_are_fixed_once_training_is_over() -> None:
    built = network(anchor_score="random")
    a = built(make_batch([utterance(0)], DIMS)).fused.anchors["video"].index
    b = built(make_batch([utterance(5), utterance(6)], DIMS)).fused.anchors["video"].index
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[0], b[1])


def test_bins_average_what_falls_into_them() -> None:
    x = torch.tensor([[[1.0], [3.0], [5.0], [7.0]], [[2.0], [9.0], [0.0], [0.0]]])
    x_mask = torch.tensor([[True] * 4, [True, True, False, False]])
    target = torch.tensor([[True, True, False], [True, True, True]])
    found = to_bins(x, x_mask, target)
    assert found[0, :2, 0].tolist() == [2.0, 6.0]
    assert found[1, :, 0].tolist() == [2.0, 9.0, 9.0]


def test_positions_have_any_length_and_differ() -> None:
    waves = sinusoid(700, 16, torch.zeros(()))
    assert waves.shape == (700, 16)
    assert torch.cdist(waves, waves).add(torch.eye(700)).min() > 1e-2


@pytest.mark.parametrize("method", ["text", "mag"])
def test_methods_of_text_say_that_they_need_it(method: str) -> None:
    from moiety.intent import IntentSettings

    with pytest.raises(ValueError, match=f"method '{method}' needs text, but the data has only video; use amess"):
        METHODS[method]({"video": 3}, IntentSettings())


def test_bad_frames_are_named() -> None:
    bad = replace(utterance(7), video=np.full((2, 5), np.nan))
    with pytest.raises(SampleError, match="s7: video is not finite in 2 of 2 frames"):
        make_batch([bad], DIMS)
    with pytest.raises(SampleError, match=r"s7: audio has shape \(3,\), expected \(frames, dim\)"):
        make_batch([replace(utterance(7), audio=np.zeros(3))], DIMS)
    with pytest.raises(SampleError, match="s7: video frames are 2 wide, the model takes 5"):
        make_batch([replace(utterance(7), video=np.zeros((1, 2)))], DIMS)
    with pytest.raises(
        SampleError, match="s7: none of text, video, audio is present once text, video, audio is hidden"
    ):
        make_batch([utterance(7)], DIMS, hide=tuple(DIMS))
    with pytest.raises(SampleError, match="s7: video holds <U3, expected numbers"):
        make_batch([replace(utterance(7), video=np.array([["abc"]]))], DIMS)
