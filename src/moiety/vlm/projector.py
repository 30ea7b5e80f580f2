"""Tells whether a projector still has the weights that transformers drew for it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from moiety.vlm.parts import part_of

_DEVIATIONS = 5
_USUAL_RANGE = 0.02


def is_as_drawn(model: Any) -> bool:
    r"""Whether the projector has the statistics of transformers' initialisation.

    Both must hold: every bias is exactly zero, and the standard deviation of every matrix is ``initializer_range`` of
    the config. A matrix of *n* drawn numbers has it within a relative error of :math:`1 / \sqrt{2 n}`; five times that
    is allowed. The first step of an optimizer moves the biases, so a projector whose biases were trained is never
    counted as drawn. A projector without biases says nothing for sure and is not counted as drawn either.

    Args:
        model: A vision-language model with its weights, dense or sparse.

    Returns:
        True if nothing speaks for training.
    """
    tensors = {name: tensor for name, tensor in model.named_parameters() if part_of(name) == "projector"}
    biases = [tensor for name, tensor in tensors.items() if name.endswith("bias")]
    matrices = [tensor for tensor in tensors.values() if tensor.dim() > 1]
    if not biases or not matrices or any(bool(bias.any()) for bias in biases):
        return False
    ranges = _ranges(model.config)
    return all(_has_spread(matrix, ranges) for matrix in matrices)


def _ranges(config: Any) -> set[float]:
    """Every ``initializer_range`` in a config, and the default of transformers."""
    parts = (config, config.get_text_config(), getattr(config, "vision_config", None))
    found = (getattr(part, "initializer_range", None) for part in parts)
    return {_USUAL_RANGE, *(float(value) for value in found if value)}


def _has_spread(matrix: Tensor, ranges: set[float]) -> bool:
    spread = float(matrix.detach().float().std(correction=0))
    return any(abs(spread / value - 1) <= _DEVIATIONS / math.sqrt(2 * matrix.numel()) for value in ranges)
