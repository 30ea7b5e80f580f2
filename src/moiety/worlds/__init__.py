"""Synthetic worlds, each for one question. They are learned in a minute, and still pass through a vision tower."""

from moiety.worlds.conflict import bayes_accuracy, write_conflict
from moiety.worlds.containment import write_containment
from moiety.worlds.files import WorldFiles

__all__ = ["WorldFiles", "bayes_accuracy", "write_conflict", "write_containment"]
