"""The stages of a recipe in order, each from one Hugging Face folder to the next."""

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
    """Run the stages of `recipe`; each ends as one folder ``<output>/<stage>``, loaded like any other model.

    Finished stages made from the same settings are used as they are. A stage that was stopped, even by ``kill -9``,
    goes on from its last whole checkpoint and ends with the weights of a run that was never stopped.

    Args:
        recipe: What to do.
        only_stage: Run this stage alone; the one before must be finished.
        resume: False deletes what earlier runs of these stages left and trains them anew.
        on_progress: Called after each optimizer step.
        quiet: No progress bar.

    Returns:
        One result for each stage that was run or found finished.

    Raises:
        StageChanged: a stage was made with other settings; says which.
        ValueError: unknown stage name, or a stage is called like the folder of the scratch model.
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
