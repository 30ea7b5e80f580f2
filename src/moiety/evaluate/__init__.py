"""Asks a model questions and scores its answers, with intervals, for each type of question."""

from moiety.evaluate.report import Conflict, EvaluationResult, TypeScore, percent, score_predictions
from moiety.evaluate.run import evaluate_model
from moiety.stats.intervals import Estimate, paired_difference, seed_interval, wilson_interval
from moiety.stats.permutation import SignFlip, holm, sign_flip_test

__all__ = [
    "Conflict",
    "Estimate",
    "EvaluationResult",
    "SignFlip",
    "TypeScore",
    "evaluate_model",
    "holm",
    "paired_difference",
    "percent",
    "score_predictions",
    "seed_interval",
    "sign_flip_test",
    "wilson_interval",
]
