"""Synthetic data, one world for each research question. Models learn a world in minutes, through a vision tower."""

from moiety.worlds.conflict import bayes_accuracy, write_conflict
from moiety.worlds.containment import write_containment
from moiety.worlds.files import WorldFiles

__all__ = ["WorldFiles", "bayes_accuracy", "write_conflict", "write_containment"]
