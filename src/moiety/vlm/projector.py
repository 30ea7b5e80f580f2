"""Tells whether a projector still has the weights that transformers drew for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from moiety.vlm.parts import is_of_projector

_DEVIATIONS = 5
_USUAL_RANGE = 0.02


def projector_of(model: Any) -> dict[str, Tensor]:
    """Name -> parameter of the projector of a model."""
    return {name: tensor for name, tensor in model.named_parameters() if is_of_projector(name)}


def projector_in(folder: str | Path) -> dict[str, Tensor]:
    """The same from the weights of a local folder; no other tensor is read."""
    found: dict[str, Tensor] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys() if is_of_projector(name)}  # noqa: SIM118
    return found


def is_as_drawn(projector: Mapping[str, Tensor], config: Any) -> bool:
    r"""Whether a projector has the statistics of transformers' initialisation.

    Both must hold: every bias is exactly zero, and the standard deviation of every matrix is ``initializer_range`` of
    the config. A matrix of *n* drawn numbers has it within a relative error of :math:`1 / \sqrt{2 n}`; five times that
    is allowed. The first step of an optimizer moves the biases, so a projector whose biases were trained is never
    counted as drawn. A projector without biases says nothing for sure and is not counted as drawn either.

    Args:
        projector: Of :func:`projector_of` or :func:`projector_in`.
        config: Of the model.

    Returns:
        True if nothing speaks for training.
    """
    biases = [tensor for name, tensor in projector.items() if name.endswith("bias")]
    matrices = [tensor for tensor in projector.values() if tensor.dim() > 1]
    if not biases or not matrices or any(bool(bias.any()) for bias in biases):
        return False
    ranges = _ranges(config)
    return all(_has_spread(matrix, ranges) for matrix in matrices)


def _ranges(config: Any) -> set[float]:
    """Every ``initializer_range`` in a config, and the default of transformers."""
    parts = (config, config.get_text_config(), getattr(config, "vision_config", None))
    found = (getattr(part, "initializer_range", None) for part in parts)
    return {_USUAL_RANGE, *(float(value) for value in found if value)}


def _has_spread(matrix: Tensor, ranges: set[float]) -> bool:
    spread = float(matrix.detach().float().std(correction=0))
    return any(abs(spread / value - 1) <= _DEVIATIONS / math.sqrt(2 * matrix.numel()) for value in ranges)
