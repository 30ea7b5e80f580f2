"""Runs the stages of a recipe in order. Each makes a Hugging Face folder from the folder before it."""

from __future__ import annotations

from pathlib import Path

from moiety.recipe.recipe import Recipe
from moiety.train.ledger import StageResult, read_record
from moiety.train.stage import OnProgress, ranks_now, run_stage
from moiety.train.start import SCRATCH, require_files, start_folder


def run_recipe(
    recipe: Recipe,
    *,
    only_stage: str | None = None,
    resume: bool = True,
    on_progress: OnProgress | None = None,
    quiet: bool = False,
) -> list[StageResult]:
    """Run the stages of `recipe`. Each writes a folder ``<output>/<stage>``, which loads like any other model.

    A finished stage with the same settings is not trained again. A stage that was stopped, even by ``kill -9``,
    continues from its last complete checkpoint. It ends with the same weights as a run that was never stopped.

    Args:
        recipe: The recipe.
        only_stage: Run this stage only. The stage before it must be finished.
        resume: False: delete the results of earlier runs of these stages, and train them again.
        on_progress: Called after each optimizer step.
        quiet: No progress bar.

    Returns:
        One result for each stage that was run or found finished.

    Raises:
        StageChanged: a stage was made with other settings. The text names them.
        ValueError: the name of a stage is unknown, or a stage has the name of the folder of the scratch model.
        RuntimeError: the stage before `only_stage` is not finished.
    """
    _check_names(recipe, only_stage)
    require_files(recipe)
    ranks = ranks_now()
    with ranks.main_process_first():
        source = start_folder(recipe, resume=resume or only_stage is not None or not ranks.is_main_process)
    results = []
    for stage in recipe.stages:
        folder = Path(recipe.output) / stage.name
        if only_stage is None or stage.name == only_stage:
            moe = recipe.moe if stage.sparse else None
            results.append(
                run_stage(
                    source, stage, recipe, folder, recipe.seed, moe, resume=resume, on_progress=on_progress, quiet=quiet
                )
            )
        if stage.name == only_stage:
            break
        if not (read_record(folder) or {}).get("finished"):
            raise RuntimeError(f"stage {stage.name!r} is not finished ({folder}); run it before stage {only_stage!r}")
        source = folder
    return results


def _check_names(recipe: Recipe, only_stage: str | None) -> None:
    names = [stage.name for stage in recipe.stages]
    if only_stage is not None and only_stage not in names:
        raise ValueError(f"no stage {only_stage!r} in recipe {recipe.name!r}; its stages are {', '.join(names)}")
    if recipe.model.scratch is not None and SCRATCH in names:
        raise ValueError(f"a stage cannot be called {SCRATCH!r}: the model built from nothing stands in that folder")
