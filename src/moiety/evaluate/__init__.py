"""Asking a model questions and scoring its answers, per type of question and with intervals."""

from moiety.evaluate.intervals import Estimate, paired_difference, seed_interval, wilson_interval
from moiety.evaluate.report import EvaluationResult, TypeScore, percent, score_predictions
from moiety.evaluate.run import evaluate_model

__all__ = [
    "Estimate",
    "EvaluationResult",
    "TypeScore",
    "evaluate_model",
    "paired_difference",
    "percent",
    "score_predictions",
    "seed_interval",
    "wilson_interval",
]
