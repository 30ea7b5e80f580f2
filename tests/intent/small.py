"""Random utterances of any shape, and small networks over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from moiety.intent import IntentSample, IntentSettings
from moiety.intent.network.baselines import METHODS
from moiety.intent.network.model import IntentNetwork

DIMS = {"text": 7, "video": 5, "audio": 3}
CLASSES = 4


def utterance(number: int, lengths: tuple[int, int, int] = (4, 6, 5), marks: bool = False) -> IntentSample:
    """A random sample; length 0 means absent."""
    draw = np.random.default_rng(number)
    frames = {
        name: draw.normal(size=(length, dim)).astype(np.float32) if length else None
        for (name, dim), length in zip(DIMS.items(), lengths, strict=True)
    }
    return IntentSample(f"s{number}", None, frames["text"], frames["video"], frames["audio"], text_marks=marks)


def utterances() -> list[IntentSample]:
    """Lengths from one frame on, every pattern of absence."""
    lengths = [(4, 6, 5), (1, 1, 1), (9, 0, 2), (0, 3, 3), (2, 2, 0), (0, 0, 8), (0, 5, 0), (3, 0, 0)]
    return [utterance(number, length) for number, length in enumerate(lengths)]


def network(method: str = "amess", descriptions: bool = False, **settings: Any) -> IntentNetwork:
    """A small one in evaluation mode, every weight away from its start."""
    torch.manual_seed(3)
    known = IntentSettings(method=method, hidden=16, num_heads=2, num_anchors=3, **settings)
    described = torch.randn(CLASSES, 9) if descriptions else None
    built = IntentNetwork(METHODS[method](DIMS, known), CLASSES, known, described)
    for parameter in built.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return built.eval()
