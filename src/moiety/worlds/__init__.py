"""Made worlds that ask one thing each: small enough to learn in a minute, and seen through a tower all the same."""

from moiety.worlds.conflict import bayes_accuracy, write_conflict
from moiety.worlds.containment import write_containment
from moiety.worlds.files import WorldFiles

__all__ = ["WorldFiles", "bayes_accuracy", "write_conflict", "write_containment"]
