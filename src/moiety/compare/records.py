"""What one run of one scheme with one seed left behind, as a file that is either whole or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moiety.recipe.evaluate import EvaluateSettings
from moiety.recipe.section import with_defaults
from moiety.records.run_files import load_run_file, save_run_file
from moiety.train.fingerprints import without_later
from moiety.train.ledger import LATER, whole_identity

PLAIN_TEXT = "plain_text"
"""Hash of the plain texts, in the settings of a run; runs were not always recorded with it."""


@dataclass(frozen=True)
class RunRecord:
    """One scheme trained and scored with one seed.

    Args:
        scheme: Name of the scheme as compared, such as ``dense_wide``.
        seed: Seed of data order, gates and dropout.
        settings: Everything the result depends on; a record made under other settings is not reused.
        evaluation: ``EvaluationResult.to_dict()`` with the pictures.
        blank: The same with blank pictures; None when the recipe does not ask for it.
        activated: Activated parameters.
        total: Parameters in all.
        training: Numbers of the sparse stages: ``tokens``, ``steps``, ``tokens_per_second``, ``peak_memory_gib``.
        provenance: Command, versions, commit, machine.
        text_loss: Loss on plain text after training, see :mod:`moiety.evaluate.plain_text`; None: not measured.
    """

    scheme: str
    seed: int
    settings: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    blank: Mapping[str, Any] | None
    activated: int
    total: int
    training: Mapping[str, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    text_loss: float | None = None

    def accuracy(self, question_type: str, blank: bool = False) -> float | None:
        """Accuracy in 0..1 on one type of question; None when it was not scored."""
        scores = self.blank if blank else self.evaluation
        if scores is None or question_type not in scores["types"]:
            return None
        return float(scores["types"][question_type]["accuracy"]["mean"])


def run_name(scheme: str, seed: int) -> str:
    """Folder name of one run.

    Example:
        >>> run_name("moiie", 2)
        'moiie-seed2'
    """
    return f"{scheme}-seed{seed}"


def save_record(record: RunRecord, folder: Path) -> None:
    """Write the record as ``result.json`` into `folder`."""
    save_run_file(record, folder)


def load_record(folder: Path, settings: Mapping[str, Any] | None = None) -> RunRecord | None:
    """The record in `folder`; None when the run has not finished.

    Args:
        folder: Folder of the run.
        settings: What the run would be made with now; None: take the record as it is.

    Raises:
        ValueError: the record was made with other settings, or the file is not a record.
    """
    return load_run_file(folder, RunRecord, whole, settings, aligned)


def aligned(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """`now` without hashes that runs were not recorded with when `then` was written."""
    tree = dict(now)
    stages = (then.get("stages") or [], now.get("stages") or [])
    if all(stages) and len(stages[0]) == len(stages[1]):
        tree["stages"] = [without_later(old, new, LATER) for old, new in zip(*stages, strict=True)]
    if "evaluate" in now and "evaluate" in then:
        tree["evaluate"] = without_later(then["evaluate"], now["evaluate"], (*LATER, PLAIN_TEXT))
    return tree


def whole(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run with defaults written out: those that came later did not change what was made before them."""
    tree = dict(json.loads(json.dumps(settings)))
    if "evaluate" in tree:
        tree["evaluate"] = with_defaults(EvaluateSettings, tree["evaluate"] | {"batch_size": None})
    if "stages" in tree:
        tree["stages"] = [whole_identity(stage) for stage in tree["stages"]]
    return tree
