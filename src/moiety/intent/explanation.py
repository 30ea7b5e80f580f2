"""Why a classifier gave an answer: which frames became anchors, how much each one counted, and when it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moiety.intent.data.samples import IntentSample
from moiety.intent.network.model import Fused, IntentOutput


@dataclass(frozen=True)
class AnchorFrame:
    """One chosen frame.

    Args:
        modality: ``text``, ``video`` or ``audio``.
        frame: Its number among the frames of the sample, from 0.
        weight: Its share of the score of all anchors of its modality, 0..1.
        share: Its share of the pooled vector, 0..1.
        seconds: When the frame was; None where the sample does not know.
    """

    modality: str
    frame: int
    weight: float
    share: float
    seconds: float | None = None

    def when(self) -> str:
        """The second of the frame, or its number where no second is known."""
        return f"frame {self.frame}" if self.seconds is None else f"{self.seconds:.2f} s"


@dataclass(frozen=True)
class Explanation:
    """What one answer rests on.

    Args:
        key: Key of the sample.
        label: The answer: the class with the highest probability.
        probability: The probability of that class, 0..1.
        shares: Modality -> its share of the pooled vector: that of its cls state and of its anchors together. The
            shares sum to 1. The text vector that is joined afterwards (setting ``text_shortcut``) is not counted.
        anchors: The chosen frames of all modalities, the largest share first.
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
        frames = ", ".join(f"{anchor.modality} {anchor.when()} ({anchor.share:.2f})" for anchor in self.anchors[:most])
        return f"{self.key}: {self.label} ({self.probability:.2f}) · {shares}" + (f" · {frames}" if frames else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        anchors = [vars(anchor) for anchor in self.anchors]
        return {"key": self.key, "label": self.label, "probability": self.probability} | {
            "shares": dict(self.shares),
            "anchors": anchors,
        }


def explanations(
    output: IntentOutput, samples: Sequence[IntentSample], classes: np.ndarray, modalities: Sequence[str]
) -> list[Explanation]:
    """One explanation for each sample of a batch.

    Args:
        output: What the network made of the batch, in evaluation mode; its method chooses anchors.
        samples: The samples of the batch, in the same order.
        classes: Labels, ``(classes,)``, in the order of the logits.
        modalities: The modalities that the network reads, in its order.
    """
    best = output.logits.double().softmax(-1).max(-1)
    return [
        _explanation(sample, output.fused, row, (str(classes[best.indices[row]]), best.values[row].item()), modalities)
        for row, sample in enumerate(samples)
    ]


def _explanation(
    sample: IntentSample, fused: Fused, row: int, answer: tuple[str, float], modalities: Sequence[str]
) -> Explanation:
    """The explanation of one row of a batch."""
    assert fused.pooling is not None
    pooling, start = fused.pooling[row].tolist(), 0
    shares: dict[str, float] = {}
    anchors: list[AnchorFrame] = []
    for name in modalities:  # the pooled vector holds, for each modality, its cls state and then its anchors
        number = fused.anchors[name].index.shape[1] if name in fused.anchors else 0
        cls_share, *frame_shares = pooling[start : start + 1 + number]
        start += 1 + number
        if share := sum([cls_share, *frame_shares]):
            shares[name] = share
        anchors += [
            AnchorFrame(name, frame, weight, frame_shares[place], seconds)
            for place, frame, weight, seconds in _frames(fused, name, row, sample)
        ]
    anchors.sort(key=lambda anchor: -anchor.share)
    return Explanation(sample.key, *answer, shares, anchors)


def _frames(fused: Fused, name: str, row: int, sample: IntentSample) -> Iterator[tuple[int, int, float, float | None]]:
    """Place among the anchors, frame, weight and second of every valid anchor of one modality."""
    if name not in fused.anchors:
        return
    anchors, times = fused.anchors[name], sample.times.get(name)
    for place in range(anchors.index.shape[1]):
        if anchors.valid[row, place]:
            frame = int(anchors.index[row, place])
            seconds = None if times is None or frame >= len(times) else float(times[frame])
            yield place, frame, float(anchors.weight[row, place]), seconds
