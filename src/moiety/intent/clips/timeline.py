"""Puts pieces of sound at the seconds of their time stamps, with silence in the gaps."""

from __future__ import annotations

import numpy as np
import soxr
from jaxtyping import Float

from moiety.intent.clips.containers import MediaError
from moiety.intent.clips.downmix import CANCELLED

MAX_DRIFT_S = 0.04
"""Time stamps may differ this much from the count of samples (1/25 s); more is a gap or an overlap."""
MAX_GAP_S = 3600.0
"""A longer gap is taken for damage."""
SILENT = 2.0**-17
"""Samples below half a step of 16 bits count as 0."""


class Timeline:
    """Pieces of one channel, in the order in which they are decoded.

    Args:
        rate: Samples a second of the pieces.
        unit_s: The unit of their time stamps, seconds, which limits their precision.
    """

    def __init__(self, rate: int, unit_s: float = 0.0) -> None:
        self.rate, self.end_s = rate, 0.0
        self.drift_s = max(MAX_DRIFT_S, 1.01 * unit_s)
        self.runs: list[tuple[float, list[np.ndarray]]] = []
        self.powers: list[tuple[float, float, float, float]] = []

    def add(self, time_s: float, samples: Float[np.ndarray, " samples"], power: float) -> None:
        """Add a piece. It continues the piece before, unless its second says something else.

        Args:
            time_s: Second of its first sample.
            samples: The sound.
            power: The power of its channels, as :func:`moiety.intent.clips.downmix.mixed` returns it.

        Raises:
            MediaError: the gap before the piece is longer than an hour.
        """
        if self.runs and time_s - self.end_s > MAX_GAP_S:
            raise MediaError(f"its sound stops at {self.end_s:.2f} s and goes on at {time_s:.2f} s; is it damaged?")
        if not self.runs or abs(time_s - self.end_s) > self.drift_s:
            self.runs.append((time_s, []))
            self.end_s = time_s
        self.runs[-1][1].append(samples)
        begin_s, self.end_s = self.end_s, self.end_s + len(samples) / self.rate
        self.powers.append((begin_s, self.end_s, float(np.square(samples, dtype=np.float64).sum()), power))

    def between(self, begin_s: float, end_s: float, rate: int) -> Float[np.ndarray, " samples"]:
        """The sound from `begin_s` to `end_s`, at another rate; 0 in gaps. Where pieces overlap, the later one counts.

        Returns:
            ``(samples,)`` float32.
        """
        found = np.zeros(max(0, round((end_s - begin_s) * rate)), np.float32)
        for start_s, pieces in self.runs:
            run = np.concatenate(pieces)
            run = run if rate == self.rate else soxr.resample(run, self.rate, rate)
            place = round((start_s - begin_s) * rate)
            run = run[max(0, -place) :]
            place = max(0, place)
            part = found[place : place + len(run)]
            part[:] = run[: len(part)]
        return found

    def cancels(self, begin_s: float, end_s: float) -> bool:
        """Whether the channels of this stretch of time cancel each other in their sum."""
        inside = [(mixed, apart) for start, end, mixed, apart in self.powers if start < end_s and end > begin_s]
        return sum(mixed for mixed, _ in inside) < CANCELLED * sum(apart for _, apart in inside)


def silence_of(samples: Float[np.ndarray, " samples"], cancels: bool) -> str:
    """The reason why nothing can be heard, in words; empty if something can."""
    if cancels:
        return "its channels cancel each other (is one of them in opposite phase?)"
    return "" if np.abs(samples).max(initial=0) >= SILENT else "every sample of it is 0"
