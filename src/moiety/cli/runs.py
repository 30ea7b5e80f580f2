"""``moiety train``, ``compare`` and ``demo``: the verbs that train; all of them go on after they were stopped."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moiety.cli.door import calm_libraries, keeps_files, progress_line, say
from moiety.cli.options import AsJson, DryRun, Overrides, RecipeName, RecipeSettings, numbers, output_folder, split
from moiety.cli.recipes import load
from moiety.cli.screen import show, show_json, table

if TYPE_CHECKING:
    from moiety.train import Progress

TRAINED = {"**/checkpoint-*/*": "the last checkpoint", "**/*.safetensors": "what was finished"}


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    settings: RecipeSettings = None,
    stage: Annotated[
        str | None, typer.Option(help="Train this stage only; the stage before it must be finished.")
    ] = None,
    dry_run: DryRun = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train from the beginning, also where a stopped run could go on.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train all stages of a recipe.

    Stages that are finished are not trained again. A stage that was stopped goes on from its last checkpoint.
    """
    from moiety.train import run_recipe
    from moiety.train.plan import plan

    read = load(recipe, [*(overrides or ()), *(settings or ())])
    if dry_run:
        show(plan(read))
        return
    output_folder(Path(read.output))
    calm_libraries()
    told = StepLines()
    keeps_files(Path(read.output), TRAINED)
    results = run_recipe(read, only_stage=stage, resume=not fresh, on_progress=told.of_stage, quiet=True)
    if as_json:
        show_json([vars(result) for result in results])
        return
    rows = [(done.name, "was finished" if done.reused else "trained", done.folder) for done in results]
    show(table("stages", ("stage", "state", "folder"), rows))
    last = shlex.quote(str(results[-1].folder))
    say(f"talk to it: moiety demo-app {last}\nscore it:   moiety evaluate {last} ROWS.jsonl --images FOLDER")


def compare(
    recipe: RecipeName,
    overrides: Overrides = None,
    settings: RecipeSettings = None,
    schemes: Annotated[
        str | None, typer.Option(help="Schemes and variants, with commas, in place of those of the recipe.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, with commas, in place of those of the recipe.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Train and score several schemes from one dense base, at equal activated parameters; write a report.

    Runs that are finished are not trained again. The report is one HTML page; tables and a plot stand beside it.
    """
    from moiety.cli.compared import say_next, show_plan, show_scores
    from moiety.compare import run_compare

    read = load(recipe, [*(overrides or ()), *(settings or ())])
    if not dry_run:
        output_folder(Path(read.output))
    calm_libraries()
    told = StepLines()
    keeps_files(Path(read.output), TRAINED)
    result = run_compare(
        read, schemes=split(schemes), seeds=numbers(seeds), dry_run=dry_run, on_progress=told.of_run, quiet=True
    )
    if dry_run:
        show_plan(result)
        return
    show_scores(result)
    say_next(result)


def demo(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for models, tables and the report.", callback=output_folder),
    ] = Path("runs/demo"),
) -> None:
    """Train and compare small models on scenes of handwritten digits, and write a report.

    It takes minutes on two cores and downloads nothing.
    """
    from moiety.cli.compared import say_next, show_scores
    from moiety.demo import compare_scenes

    calm_libraries()
    keeps_files(output, TRAINED)
    result = compare_scenes(output, on_progress=StepLines().of_run)
    show_scores(result)
    say_next(result)


class StepLines:
    """Says on stderr how many steps of each stage are done."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.update: Callable[[int, int], None] = progress_line("")

    def of_run(self, name: str, progress: Progress) -> None:
        """One step of the stage called `name`."""
        if name != self.name:
            self.name, self.update = name, progress_line(f"{name}: step")
        self.update(progress.step, progress.num_steps)

    def of_stage(self, progress: Progress) -> None:
        """One step of a recipe's own stage."""
        self.of_run(progress.stage, progress)
