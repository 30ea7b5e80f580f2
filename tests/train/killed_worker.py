"""Trains the recipe given as JSON and kills itself with SIGKILL: after a step, or in the middle of a checkpoint."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from moiety.recipe.recipe import Recipe
from moiety.train import Progress, checkpoints, run_recipe


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(recipe: Path, moment: str) -> None:
    torch.set_num_threads(1)
    if moment == "writing":
        whole, seal = [], checkpoints.seal

        def second_time(*args: object) -> None:
            die() if whole else whole.append(seal(*args))  # type: ignore[arg-type]

        checkpoints.seal = second_time  # type: ignore[assignment]

    def on_progress(progress: Progress) -> None:
        if progress.stage == "tune" and moment == "step" and progress.step == 6:
            die()

    run_recipe(Recipe.model_validate_json(recipe.read_text()), only_stage="tune", on_progress=on_progress, quiet=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
