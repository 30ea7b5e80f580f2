"""Mixes all channels to one, in the same way for every kind of file.

Source:
    ITU-R BS.775, annex 4, 3/2 to mono: M = C + 0.7071 (L + R) + 0.5 (LS + RS), without the LFE. Where there is no
    centre we scale the sum by 0.7071, so that two channels become their mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
from jaxtyping import Float

_ROOT = 0.5**0.5
_CENTRE = {"FC", "AMBI0"}
"""The centre, and of a sound field (ambisonics) the part that has no direction."""
_FRONT = {"FL", "FR", "FLC", "FRC", "WL", "WR", "DL", "DR"}
_PLACELESS = ("NONE", "UNK", "UNSD", "USR")
USUAL = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""Number of channels -> layout that is assumed where a file names no places: that of wav and FLAC (RFC 9639)."""
CANCELLED = 1e-2
"""Channels cancel if their sum has less than this share of the power that they have one by one."""


def channel_weights(names: Sequence[str]) -> Float[np.ndarray, " channels"]:
    """The weight of each channel in the mix.

    Args:
        names: Places in the names of FFmpeg: FL, FR, FC, LFE, BL, BR, SL, SR and others. Places above and behind count
            like those at the side. If a name is no place, all channels have the same weight.

    Example:
        >>> channel_weights(["FL", "FR", "FC", "LFE", "BL", "BR"]).round(4).tolist()
        [0.7071, 0.7071, 1.0, 0.0, 0.5, 0.5]
        >>> channel_weights(["FL", "FR"]).round(4).tolist(), channel_weights(["FC"]).tolist()
        ([0.5, 0.5], [1.0])
    """
    weights = np.array([_weight(name) for name in names])
    if not weights.any() or any(name.startswith(_PLACELESS) for name in names):
        return np.full(len(names), 1 / len(names))
    return weights if _CENTRE & {*names} else weights * _ROOT


def _weight(name: str) -> float:
    if name in _CENTRE:
        return 1.0
    if name.startswith(("LFE", "AMBI")):
        return 0.0
    return _ROOT if name in _FRONT else 0.5


def mixed(
    samples: Float[np.ndarray, "samples channels"], names: Sequence[str]
) -> tuple[Float[np.ndarray, " samples"], float]:
    """The mix, float32, and the power of the channels one by one: the sum of their weighted squares."""
    usual = USUAL.get(len(names))
    if usual is not None and any(name.startswith(_PLACELESS) for name in names):
        names = [channel.name for channel in av.AudioLayout(usual).channels]
    weights = channel_weights(names).astype(np.float32)
    return samples @ weights, float(np.square(samples, dtype=np.float64).sum(0) @ np.square(weights, dtype=np.float64))


class Mixer:
    """Mixes decoded frames to one channel; their format may change within a file, as it does in broadcasts."""

    def __init__(self) -> None:
        self._format: tuple[Any, ...] | None = None
        self._floats: Any = None

    def pieces(self, frame: Any, rate: int) -> Iterator[tuple[Float[np.ndarray, " samples"], float]]:
        """The mix of a PyAV frame, as :func:`mixed` makes it, resampled to `rate` if the frame has another rate."""
        given = (frame.format.name, frame.layout.name, frame.sample_rate)
        if given != self._format:
            # packed: PyAV 18 cannot hand out more than seven channels side by side
            self._format, self._floats = given, av.AudioResampler(format="flt", rate=rate)
        for part in self._floats.resample(frame):
            names = [channel.name for channel in part.layout.channels]
            yield mixed(part.to_ndarray().reshape(-1, len(names)), names)
