"""Intent from text, audio and video: A-MESS and its baselines. Shares the ground with the mixture wing, not code."""

from __future__ import annotations

from moiety.intent.classifier import IntentClassifier
from moiety.intent.samples import IntentSample, SampleError
from moiety.intent.settings import IntentSettings

__all__ = ["IntentClassifier", "IntentSample", "IntentSettings", "SampleError"]
