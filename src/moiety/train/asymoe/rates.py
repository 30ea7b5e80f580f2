"""Parameters of scheme ``asymoe`` for which the optimizer has other settings. The end of a name decides."""

from __future__ import annotations

SCALE_RATE = 0.1
"""Learning rate of scales and curvatures, as a multiple of the rate of their part. It is small, because they stand in
exponents."""

_SCALES = frozenset({"log_scale", "cone_log_scale", "inner_log_scale", "out_log_scale", "log_curvature"})
_UNDECAYED = _SCALES | {"k_null", "w_alpha", "b_alpha", "gain", "log_gain"}
_SCORE = ("router", "score", "weight")


def is_scale(name: str) -> bool:
    """Whether the parameter called `name` is the log of a scale or of a curvature.

    Example:
        >>> is_scale("model.layers.0.mlp.experts.banks.inter.cone_log_scale"), is_scale("model.layers.0.mlp.gain")
        (True, False)
    """
    return name.rpartition(".")[2] in _SCALES


def is_undecayed(name: str) -> bool:
    """Whether the parameter called `name` has no weight decay.

    Decay pulls a value to 0. For these parameters 0 has a meaning, such as an even gate, no null key or a scale of 1.

    Example:
        >>> is_undecayed("mlp.router.score.weight"), is_undecayed("mlp.router.gates.text.weight")
        (True, False)
    """
    words = tuple(name.split("."))
    return words[-1] in _UNDECAYED or words[-3:] == _SCORE
