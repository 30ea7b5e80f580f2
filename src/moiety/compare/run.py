"""Trains and scores several schemes with several seeds from one dense base. Each run has its own folder."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from moiety.compare.arm import release, take
from moiety.compare.caveats import caveats
from moiety.compare.dry import dry_run as dry_run_of
from moiety.compare.job import RUNS, Job, OnProgress, named
from moiety.compare.outcome import floors_of, questions_of, write_outcome
from moiety.compare.plan import PlannedScheme, plan_schemes
from moiety.compare.starts import STARTS, base_of_recipe, measured, refuse_before_training, texts_to_keep
from moiety.compare.summary import Comparison
from moiety.groups import nearest_name
from moiety.recipe.compare import MEAN_OF_TYPES
from moiety.recipe.recipe import Recipe
from moiety.records.provenance import provenance
from moiety.train import StageData, run_recipe
from moiety.train.ledger import fingerprint_of
from moiety.train.progress import without_weight_bars
from moiety.train.start import require_files, start_folder
from moiety.vlm.images import Images
from moiety.vlm.model import config_of

__all__ = ["RUNS", "OnProgress", "run_compare"]

logger = logging.getLogger(__name__)


def run_compare(
    recipe: Recipe,
    *,
    schemes: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    quiet: bool = True,
) -> Comparison:
    """Train and score several schemes with several seeds from one dense base, and write the results.

    The dense stages run once. Then every scheme is trained in the sparse stages with the same rows in the same order
    and with the same number of steps. The width of its experts is chosen so that its activated parameters equal those
    of ``recipe.moe``. Finished runs are kept, so a stopped comparison continues where it stopped. A second process with
    the same recipe takes the runs that no other process is working on.

    The folder ``recipe.output`` gets ``runs/<scheme>-seed<k>/result.json``, ``table.md``, ``table.csv``,
    ``results.json``, ``comparison.png`` and ``report.html``. All but the first are written again after each run.

    Args:
        recipe: With at least one sparse stage and questions in ``evaluate.data``.
        schemes: Run these schemes only. The table also shows the finished runs of the recipe's other schemes.
        seeds: Run these seeds only. The table also shows the finished runs of the recipe's other seeds.
        dry_run: Only plan the schemes and seeds that were asked for. Nothing is run and no file is written.
        on_progress: Called after each optimizer step with the name of the run.
        quiet: No progress bars.

    Raises:
        ValueError: the recipe cannot be compared, a scheme cannot be made equal, or an earlier run in this output was
            made with other settings.
    """
    _check(recipe)
    require_files(recipe, questions=True)
    chosen, shown = _united(schemes, recipe.compare.schemes)
    numbers, all_seeds = _united(seeds, recipe.compare.seeds)
    planned_pairs = [(scheme, seed) for scheme in shown for seed in all_seeds]
    asked_pairs = [(scheme, seed) for scheme in chosen for seed in numbers]
    if dry_run:
        return dry_run_of(recipe, chosen, asked_pairs)
    Path(recipe.output).mkdir(parents=True, exist_ok=True)
    job = _prepare(recipe, shown, planned_pairs, asked_pairs, on_progress, quiet)
    for seed in numbers:
        data: dict[str, StageData] = {}
        for leader, members in job.families().items():
            asked = [name for name in members if name in chosen]
            if asked and take(job, leader, asked, seed, data):
                write_outcome(job.summary())
    comparison = job.summary()
    write_outcome(comparison)
    return comparison


def _prepare(
    recipe: Recipe,
    schemes: Sequence[str],
    pairs: Sequence[tuple[str, int]],
    asked: Sequence[tuple[str, int]],
    on_progress: OnProgress | None,
    quiet: bool,
) -> Job:
    """Check the recipe, then make the dense base. A second process waits until the first has made it."""
    questions = questions_of(recipe)
    floors = floors_of(recipe, questions)
    _check_types(recipe, [*floors, MEAN_OF_TYPES])
    texts = texts_to_keep(recipe)
    images = Images([Path(recipe.data.root) / path for path in recipe.data.images])
    runs = Path(recipe.output) / RUNS  # no stage may have this name, so no lock of a stage lies here
    runs.mkdir(parents=True, exist_ok=True)
    with _alone(runs / ".base.lock", "makes the dense base"), without_weight_bars():
        names = {scheme for scheme, _ in asked}
        base, planned = _dense_base(recipe, schemes, names, on_progress, quiet)
        start = base_of_recipe(recipe, base)
        if texts:
            planned, loss = measured(recipe, base, planned, names, texts, runs / STARTS)
            start = replace(start, text_loss=loss, num_texts=len(texts))
    context = {"provenance": provenance(), "base": fingerprint_of(base), "recipe": recipe.model_dump(mode="json")}
    by_name = {scheme.name: scheme for scheme in planned}
    job = Job(recipe, base, by_name, pairs, asked, questions, floors, images, context, on_progress, quiet, start, texts)
    for sentence in caveats(job.summary()):
        logger.info("%s", sentence)
    return job


def _dense_base(
    recipe: Recipe, schemes: Sequence[str], asked: Collection[str], on_progress: OnProgress | None, quiet: bool
) -> tuple[Path, list[PlannedScheme]]:
    """The dense model that all runs start from, and the schemes. Dense stages that are finished are not repeated."""
    base = start_folder(recipe)
    planned = plan_schemes(recipe, config_of(base), schemes)
    dense = [stage for stage in recipe.stages if not stage.sparse]
    refuse_before_training(recipe, base, [scheme for scheme in planned if scheme.name in asked and dense])
    for stage in dense:
        tell = None if on_progress is None else named(on_progress, f"dense base: {stage.name}")
        base = run_recipe(recipe, only_stage=stage.name, on_progress=tell, quiet=quiet)[0].folder
        release()
    return base, planned


@contextmanager
def _alone(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock. If another process holds it, log what that process does, and wait."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process, which %s in %s", what, lock.parents[1])
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _check(recipe: Recipe) -> None:
    if not any(stage.sparse for stage in recipe.stages):
        raise ValueError(
            f"recipe {recipe.name!r} has no sparse stage, so all schemes would be the same model; "
            "set `sparse: true` in the stage that trains the experts"
        )
    if not recipe.evaluate.data:
        raise ValueError(f"recipe {recipe.name!r} names no questions; give evaluate.data at least one file")
    if any(stage.name == RUNS for stage in recipe.stages):
        raise ValueError(f"a stage cannot be called {RUNS!r}: the runs of a comparison stand in that folder")


def _check_types(recipe: Recipe, known: Sequence[str]) -> None:
    for name in recipe.compare.contrast_types:
        if name not in known:
            raise ValueError(f"compare.contrast_types names {name!r}, no type of question; {nearest_name(name, known)}")


def _united(given: Sequence[Any] | None, recipe: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The entries to run now, and those to show: the recipe's own, then the others that were given."""
    chosen = list(recipe) if given is None else list(given)
    return chosen, [*recipe, *(entry for entry in chosen if entry not in recipe)]
