"""Channels to one, the same for every kind of file.

Source:
    ITU-R BS.775, annex 4, 3/2 to mono: M = C + 0.7071 (L + R) + 0.5 (LS + RS), the LFE left out. Where there is no
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
"""Number of channels -> what they are taken for where a file names no places: the order of wav and FLAC (RFC 9639)."""
CANCELLED = 1e-2
"""Channels cancel where their sum has less than this share of the power that they have one by one."""


def channel_weights(names: Sequence[str]) -> Float[np.ndarray, " channels"]:
    """Weight of each channel in the one that is made of them.

    Args:
        names: Places as FFmpeg calls them: FL, FR, FC, LFE, BL, BR, SL, SR and others; places above and behind count as
            those at the side. Where a name says nothing all channels weigh the same.

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
    """One channel, float32, and the power of all by themselves: the sum of their weighted squares."""
    usual = USUAL.get(len(names))
    if usual is not None and any(name.startswith(_PLACELESS) for name in names):
        names = [channel.name for channel in av.AudioLayout(usual).channels]
    weights = channel_weights(names).astype(np.float32)
    return samples @ weights, float(np.square(samples, dtype=np.float64).sum(0) @ np.square(weights, dtype=np.float64))


class Mixer:
    """Decoded frames to one channel, whatever their format, which a broadcast may change on the way."""

    def __init__(self) -> None:
        self._format: tuple[Any, ...] | None = None
        self._floats: Any = None

    def pieces(self, frame: Any, rate: int) -> Iterator[tuple[Float[np.ndarray, " samples"], float]]:
        """What :func:`mixed` makes of a PyAV frame, brought to `rate` where its own is another."""
        given = (frame.format.name, frame.layout.name, frame.sample_rate)
        if given != self._format:
            # packed: PyAV 18 cannot hand out more than seven channels side by side
            self._format, self._floats = given, av.AudioResampler(format="flt", rate=rate)
        for part in self._floats.resample(frame):
            names = [channel.name for channel in part.layout.channels]
            yield mixed(part.to_ndarray().reshape(-1, len(names)), names)
