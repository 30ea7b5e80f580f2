"""The second of each decoded frame, counted from the start of the file, even if time stamps are missing or restart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

MAX_BACK_S = 1.0
"""If time stamps go back further, they restart: files were joined end to end."""

Timed = tuple[Any, float]
"""A frame and its second."""


class FrameClock:
    """The seconds of the frames of one stream, in the order in which they are decoded.

    Frames before the first time stamp are counted back from it. Later frames without a stamp follow the frame before.
    Where the stamps restart, the second part goes on where the first part ended.

    Args:
        container: The open PyAV container.
        stream: One of its streams.
        zero_s: The time stamp of the start, seconds.
    """

    def __init__(self, container: Any, stream: Any, zero_s: float) -> None:
        # avi stores only the order of decoding, which is counted from its first frame
        self.by_order = container.format.name == "avi" and stream.type == "video"
        self.stream, self.zero_s = stream, zero_s
        self.after_s, self._shift_s = 0.0, 0.0
        self._first: Any = None
        self._early: list[Any] = []
        self._is_running = False

    def timed(self, frames: Iterable[Any]) -> Iterator[Timed]:
        """The frames with their seconds. Early frames wait until the first second is known."""
        for frame in frames:
            time = self._stamp(frame)
            if time is None and not self._is_running:
                self._early.append(frame)
                continue
            if time is not None and self._is_running and time + self._shift_s < self.after_s - MAX_BACK_S:
                self._shift_s = self.after_s - time
            if time is not None and not self._is_running:
                self.after_s = time - sum(self._length(one) for one in self._early)
                yield from self.rest()
            time = self.after_s if time is None else time + self._shift_s
            self.after_s, self._is_running = time + self._length(frame), True
            yield frame, time

    def rest(self) -> Iterator[Timed]:
        """The frames that still wait; if no second was ever known, they are counted from 0."""
        early, self._early = self._early, []
        for frame in early:
            time, self.after_s = self.after_s, self.after_s + self._length(frame)
            yield frame, time

    def _stamp(self, frame: Any) -> float | None:
        if not self.by_order:
            return None if frame.time is None else frame.time - self.zero_s
        if frame.dts is None:
            return self.after_s
        self._first = frame.dts if self._first is None else self._first
        return float((frame.dts - self._first) * self.stream.time_base)

    def _length(self, frame: Any) -> float:
        if self.stream.type == "audio":
            return frame.samples / frame.sample_rate
        if frame.duration and frame.time_base:
            return float(frame.duration * frame.time_base)
        return float(1 / (self.stream.average_rate or self.stream.guessed_rate or 25))
