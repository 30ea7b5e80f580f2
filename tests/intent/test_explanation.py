"""Explanations say what the network did: shares of one, frames that are real, times of the frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from moiety.intent import IntentClassifier, IntentSample, SampleError
from moiety.intent.answers import answers
from tests.intent.small import utterance, utterances
from tests.intent.small_folder import SMALL

SHORT: dict[str, Any] = {**SMALL, "max_epochs": 1, "label_descriptions": None}


def timed(rows: int) -> tuple[list[IntentSample], list[str]]:
    """Text and audio; frames of the audio are half a second apart."""
    draw, samples = np.random.default_rng(0), []
    for number in range(rows):
        length = int(draw.integers(4, 8))
        times = {"audio": 0.5 * np.arange(length, dtype=np.float32)}
        text, audio = draw.normal(size=(2, 3)), draw.normal(size=(length, 4))
        samples.append(IntentSample(f"k{number}", None, text, None, audio, times=times))
    return samples, ["ab"[number % 2] for number in range(rows)]


@pytest.fixture(scope="module")
def fitted() -> IntentClassifier:
    return IntentClassifier(**{**SHORT, "num_anchors": 2}).fit([utterance(i) for i in range(24)], list("ab") * 12)


def test_shares_sum_to_one_over_what_is_present(fitted: IntentClassifier) -> None:
    samples = utterances()
    for sample, told in zip(samples, fitted.explain(samples), strict=True):
        present = {name for name in ("text", "video", "audio") if sample.frames(name) is not None}
        assert set(told.shares) <= present
        assert sum(told.shares.values()) == pytest.approx(1, abs=1e-5)  # measured 1.2e-7
        for name in present:
            own = [anchor for anchor in told.anchors if anchor.modality == name]
            frames = [anchor.frame for anchor in own]
            assert len(set(frames)) == len(frames) == min(2, len(sample.frames(name)))
            assert all(0 <= frame < len(sample.frames(name)) for frame in frames)
            assert sum(anchor.weight for anchor in own) == pytest.approx(1, abs=1e-5)
            assert sum(anchor.share for anchor in own) <= told.shares.get(name, 0) + 1e-6


def test_answers_are_those_of_predict_and_do_not_depend_on_the_batch(fitted: IntentClassifier) -> None:
    samples = utterances()
    together, alone = fitted.explain(samples), [fitted.explain([sample])[0] for sample in samples]
    assert [told.label for told in together] == fitted.predict(samples).tolist()
    assert np.allclose([told.probability for told in together], fitted.predict_proba(samples).max(1))
    for a, b in zip(together, alone, strict=True):
        assert a.shares == pytest.approx(b.shares, abs=1e-5)
        assert {(x.modality, x.frame) for x in a.anchors} == {(x.modality, x.frame) for x in b.anchors}


def test_the_frames_are_those_that_score_highest_with_their_times() -> None:
    samples, labels = timed(16)
    model = IntentClassifier(**{**SHORT, "num_anchors": 2, "anchor_score": "norm"}).fit(samples, labels)
    for told, sample in zip(model.explain(samples), model.preparation_.transform(samples), strict=True):
        frames = torch.from_numpy(sample.frames("audio"))[None]
        states = model.model_.body.encoders["audio"](frames, torch.ones(frames.shape[:2], dtype=torch.bool))[0][0, 1:]
        best = states.norm(dim=-1).argsort(descending=True)[:2].tolist()
        own = [anchor for anchor in told.anchors if anchor.modality == "audio"]
        assert {anchor.frame for anchor in own} == set(best)
        assert all(anchor.seconds == 0.5 * anchor.frame for anchor in own)
        assert {anchor.seconds for anchor in told.anchors if anchor.modality == "text"} == {None}, "no times are known"


def test_hidden_modalities_have_no_share(fitted: IntentClassifier) -> None:
    told = fitted.explain([utterance(5)], hide=("audio",))[0]
    assert set(told.shares) == {"text", "video"}
    assert {anchor.modality for anchor in told.anchors} == {"text", "video"}


def test_a_sentence_for_people(fitted: IntentClassifier) -> None:
    told = fitted.explain([utterance(5)])[0]
    assert told.sentence().startswith(f"s5: {told.label} ({told.probability:.2f}) · ")
    assert told.sentence().count(" %") == len(told.shares)
    first = told.anchors[0]
    timed = replace(told, anchors=[replace(first, seconds=1.5)])
    assert timed.sentence().endswith(f" · {first.modality} 1.50 s ({first.share:.2f})")


def test_without_anchors_only_shares_are_told() -> None:
    model = IntentClassifier(**{**SHORT, "anchor_score": "none"}).fit([utterance(i) for i in range(12)], list("ab") * 6)
    told = model.explain([utterance(3)])[0]
    assert list(told.anchors) == []
    assert sum(told.shares.values()) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_explained_is_refused(fitted: IntentClassifier) -> None:
    other = IntentClassifier(**{**SHORT, "method": "concat"}).fit([utterance(i) for i in range(12)], list("ab") * 6)
    with pytest.raises(ValueError, match="method 'concat' chooses no frames, so there is nothing to explain"):
        other.explain(utterances())
    with pytest.raises(NotFittedError):
        IntentClassifier().explain(utterances())
    with pytest.raises(ValueError, match="cannot hide 'smell'"):
        fitted.explain(utterances(), hide=("smell",))
    rows = [utterance(1), utterance(5, (0, 0, 3)), utterance(7, (0, 0, 2))]
    with pytest.raises(SampleError, match="2 samples have none of text, video: s5, s7"):
        fitted.explain(rows, hide=("audio",))


def test_answers_are_plain_rows(fitted: IntentClassifier) -> None:
    samples = [utterance(1), utterance(2, (0, 3, 0))]
    first, second = answers(fitted, samples, with_frames=True)
    assert [entry["label"] for entry in first["top"]] == ["a", "b"] or first["top"][0]["label"] == "b"
    assert first["probability"] == first["top"][0]["probability"] >= first["top"][1]["probability"]
    assert sum(entry["probability"] for entry in first["top"]) == pytest.approx(1)
    assert (first["label"], second["modalities"]) == (fitted.predict(samples)[0], ["video"])
    assert first["oos_score"] == pytest.approx(1 - first["probability"]), "msp without a rule of its own"
    assert set(second["shares"]) == {"video"}
    with pytest.raises(SampleError, match=r"1 of 2 samples have none of text, video, audio: empty; give one of these"):
        answers(fitted, [utterance(1), IntentSample("empty", text=" ")])
    with torch.no_grad():
        assert answers(fitted, samples[:1], hide=("audio",))[0]["modalities"] == ["text", "video"]
