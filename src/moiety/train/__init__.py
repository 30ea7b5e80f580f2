"""Training in stages: what learns, from which rows, at which rate.

A stage turns one model folder into another (:func:`run_stage`). A recipe is a sequence of stages (:func:`run_recipe`).
Both train with :class:`MoietyTrainer`, a ``transformers.Trainer``. :class:`RoutingLossMixin` is the part of it that can
also stand before the trainers of TRL.
"""

from __future__ import annotations

from moiety.train.arguments import training_arguments
from moiety.train.checkpoints import CheckpointError
from moiety.train.ledger import StageChanged, StageResult
from moiety.train.loss import RoutingLossMixin
from moiety.train.plan import TrainingPlan, plan
from moiety.train.stage import Progress, run_stage
from moiety.train.stage_data import StageData, prepare_data
from moiety.train.stages import run_recipe
from moiety.train.trainer import MoietyTrainer

__all__ = [
    "CheckpointError",
    "MoietyTrainer",
    "Progress",
    "RoutingLossMixin",
    "StageChanged",
    "StageData",
    "StageResult",
    "TrainingPlan",
    "plan",
    "prepare_data",
    "run_recipe",
    "run_stage",
    "training_arguments",
]
