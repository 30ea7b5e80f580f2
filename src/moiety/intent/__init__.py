"""Intent from text, audio and video: A-MESS and its baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moiety.intent.classifier import IntentClassifier
from moiety.intent.data.samples import IntentSample, SampleError
from moiety.intent.settings import IntentSettings

if TYPE_CHECKING:
    from moiety.intent.clips.reading import read_clips as read_clips

__all__ = ["IntentClassifier", "IntentSample", "IntentSettings", "SampleError", "read_clips"]


def __getattr__(name: str) -> Any:
    """``read_clips`` is imported on first use: users who bring features need no decoder."""
    if name == "read_clips":
        from moiety.intent.clips.reading import read_clips

        return read_clips
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
