"""Why a classifier answered as it did: which frames became anchors, how much each counted, and when they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from moiety.intent.classifier import IntentClassifier
from moiety.intent.data.samples import IntentSample, SampleError
from moiety.intent.network.model import Fused


@dataclass(frozen=True)
class AnchorFrame:
    """One chosen frame.

    Args:
        modality: Where it is from.
        frame: Its number in the sample, from 0.
        weight: Its part of what the modality's score gave all its anchors, 0..1.
        share: Its part of the pooled vector, 0..1.
        seconds: When it was, where the sample knows.
    """

    modality: str
    frame: int
    weight: float
    share: float
    seconds: float | None = None


@dataclass(frozen=True)
class Explanation:
    """What one answer rests on.

    Args:
        key: Of the sample.
        label: The answer.
        probability: What the model gave it, 0..1.
        shares: Modality -> its part of the pooled vector, its summary state and its anchors together; they sum to 1.
            The text vector that joins afterwards (setting ``text_shortcut``) is not counted.
        anchors: The chosen frames, largest share first.
    """

    key: str
    label: str
    probability: float
    shares: Mapping[str, float]
    anchors: Sequence[AnchorFrame]

    def sentence(self, most: int = 3) -> str:
        """For people: ``k1: thank (0.91) · audio 62 %, text 38 % · audio 1.20 s (0.31), text frame 2 (0.12)``."""
        shares = ", ".join(
            f"{name} {100 * share:.0f} %" for name, share in sorted(self.shares.items(), key=lambda entry: -entry[1])
        )
        frames = ", ".join(f"{anchor.modality} {_when(anchor)} ({anchor.share:.2f})" for anchor in self.anchors[:most])
        return f"{self.key}: {self.label} ({self.probability:.2f}) · {shares}" + (f" · {frames}" if frames else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        anchors = [vars(anchor) for anchor in self.anchors]
        return {"key": self.key, "label": self.label, "probability": self.probability} | {
            "shares": dict(self.shares),
            "anchors": anchors,
        }


def explain(model: IntentClassifier, samples: Sequence[Any], hide: Sequence[str] = ()) -> list[Explanation]:
    """Which frames the answer to each sample rests on.

    Args:
        model: Fitted, of method ``amess``.
        samples: As for ``predict``.
        hide: Modalities taken away from every sample.

    Raises:
        ValueError: the method chooses no frames.
        SampleError: a sample has nothing left to read; all are named.
    """
    if model.method != "amess":
        raise ValueError(f"method {model.method!r} chooses no frames, so there is nothing to explain; use method amess")
    given = [IntentSample.of(sample, number) for number, sample in enumerate(samples)]
    model.decision_function(given[:1], hide)  # says what is wrong with model or `hide` before anything is computed
    kept = [name for name in model.dims_ if name not in hide]
    empty = [sample.key for sample in given if not model.preparation_.has_any(sample, kept)]
    if empty:
        raise SampleError(f"{len(empty)} samples have none of {', '.join(kept)}: {', '.join(empty[:5])}")
    prepared = model.preparation_.transform(given)
    found: list[Explanation] = []
    model.model_.eval()
    for start in range(0, len(prepared), model.batch_size):
        part = prepared[start : start + model.batch_size]
        with torch.no_grad():
            output = model.model_(model.preparation_.batch(part, hide).to(model.device))
        best = output.logits.double().softmax(-1).max(-1)
        for row, sample in enumerate(part):
            label, probability = str(model.classes_[best.indices[row]]), best.values[row].item()
            found.append(_explained(model, sample, output.fused, row, (label, probability)))
    return found


def _explained(
    model: IntentClassifier, sample: IntentSample, fused: Fused, row: int, answer: tuple[str, float]
) -> Explanation:
    """One row of a batch."""
    assert fused.pooling is not None
    pooling, place = fused.pooling[row].tolist(), 0
    shares: dict[str, float] = {}
    anchors: list[AnchorFrame] = []
    for name in model.dims_:
        chosen = list(_frames(fused, name, row, sample))
        number = fused.anchors[name].index.shape[1] if name in fused.anchors else 0
        own = pooling[place : place + 1 + number]
        place += 1 + number
        if sum(own):
            shares[name] = sum(own)
        anchors += [
            AnchorFrame(name, frame, weight, own[1 + position], seconds) for position, frame, weight, seconds in chosen
        ]
    anchors.sort(key=lambda anchor: -anchor.share)
    return Explanation(sample.key, *answer, shares, anchors)


def _frames(fused: Fused, name: str, row: int, sample: IntentSample) -> Iterator[tuple[int, int, float, float | None]]:
    """Position among the anchors, frame, weight and time of every valid anchor of one modality."""
    if name not in fused.anchors:
        return
    anchors, times = fused.anchors[name], sample.times.get(name)
    for position in range(anchors.index.shape[1]):
        if anchors.valid[row, position]:
            frame = int(anchors.index[row, position])
            seconds = None if times is None or frame >= len(times) else float(times[frame])
            yield position, frame, float(anchors.weight[row, position]), seconds


def _when(anchor: AnchorFrame) -> str:
    return f"frame {anchor.frame}" if anchor.seconds is None else f"{anchor.seconds:.2f} s"
