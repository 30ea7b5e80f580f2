"""Trains and scores several schemes with several seeds from one dense base. Each run has its own folder."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from moiety.compare.job import RUNS, Job, OnProgress
from moiety.compare.outcome import floors_of, questions_of, write_outcome
from moiety.compare.pace import place_of
from moiety.compare.plan import PlannedScheme, plan_schemes
from moiety.compare.records import RunRecord, save_record
from moiety.compare.summary import Comparison, Floors
from moiety.evaluate.report import types_of
from moiety.evaluate.run import evaluate_model
from moiety.groups import nearest_name
from moiety.moe.routers import resolve
from moiety.recipe.compare import MEAN_OF_TYPES
from moiety.recipe.recipe import Recipe
from moiety.records.provenance import provenance
from moiety.train import Progress, StageData, prepare_data, run_recipe, run_stage
from moiety.train.ledger import fingerprint_of
from moiety.train.plan import plan as plan_training
from moiety.train.progress import without_weight_bars
from moiety.train.start import require_files, start_folder, texts_of
from moiety.vlm.images import Images
from moiety.vlm.model import config_of, load
from moiety.vlm.placeholders import ModalityRule
from moiety.vlm.scratch import build_scratch
from moiety.vlm.templates import load_processor

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
        return _dry(recipe, chosen, asked_pairs)
    Path(recipe.output).mkdir(parents=True, exist_ok=True)
    job = _prepare(recipe, shown, planned_pairs, asked_pairs, on_progress, quiet)
    for seed in numbers:
        data: dict[str, StageData] = {}
        for leader, members in job.families().items():
            asked = [name for name in members if name in chosen]
            if asked and _take(job, leader, asked, seed, data):
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
    images = Images([Path(recipe.data.root) / path for path in recipe.data.images])
    runs = Path(recipe.output) / RUNS  # no stage may have this name, so no lock of a stage lies here
    runs.mkdir(parents=True, exist_ok=True)
    with _alone(runs / ".base.lock", "makes the dense base"), without_weight_bars():
        base = start_folder(recipe)
        planned = plan_schemes(recipe, config_of(base), schemes)
        for stage in recipe.stages:
            if not stage.sparse:
                tell = None if on_progress is None else _named(on_progress, f"dense base: {stage.name}")
                base = run_recipe(recipe, only_stage=stage.name, on_progress=tell, quiet=quiet)[0].folder
    context = {"provenance": provenance(), "base": fingerprint_of(base), "recipe": recipe.model_dump(mode="json")}
    by_name = {scheme.name: scheme for scheme in planned}
    return Job(recipe, base, by_name, pairs, asked, questions, floors, images, context, on_progress, quiet)


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


def _take(job: Job, leader: str, asked: Sequence[str], seed: int, data: dict[str, StageData]) -> bool:
    """Finish one training run and score its model for every scheme that shares it. Returns whether a result was added.

    Args:
        job: The comparison.
        leader: Scheme in whose folder the model is trained.
        asked: Schemes to score, those that share this training.
        seed: The seed.
        data: Rows of the stages that were encoded for this seed already.
    """
    folder = job.folder(leader, seed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # The system frees the lock of a process that has died, so the next process takes over a killed run.
        with FileLock(folder / ".lock", timeout=0):
            missing = [scheme for scheme in asked if job.record(scheme, seed) is None]
            if not missing:
                return False
            borrowers = [borrower for members in job.families().values() for borrower in members[1:]]
            place = place_of(job.asked, job.records(), borrowers)
            logger.info("%s, seed %d: %s", leader, seed, place)
            model_folder, training = _train(job, leader, seed, folder, data)
            for scheme in missing:
                blank = ", then again with blank pictures" * job.evaluation(scheme).blank_image
                logger.info("%s, seed %d: answers %s questions%s", scheme, seed, f"{len(job.questions):,}", blank)
                _ask(job, scheme, seed, model_folder, training)
            _drop_models(job, folder, seed)
            return True
    except Timeout:
        logger.debug("%s is in work in another process", folder.name)
        return False


def _train(job: Job, scheme: str, seed: int, folder: Path, data: dict[str, StageData]) -> tuple[Path, dict[str, float]]:
    """Train one scheme with one seed in all sparse stages. Returns the model folder and the cost of training."""
    recipe, source, metrics, title = job.recipe, job.base, [], f"{scheme}, seed {seed}"
    for stage in recipe.stages:
        if not stage.sparse:
            continue
        if stage.name not in data:
            data[stage.name] = _stage_data(job, stage, seed)
        result = run_stage(
            source,
            stage,
            recipe,
            folder / stage.name,
            seed,
            job.schemes[scheme].settings,
            data=data[stage.name],
            on_progress=None if job.on_progress is None else _named(job.on_progress, f"{title}: {stage.name}"),
            quiet=job.quiet,
        )
        source = result.folder
        metrics.append(result.metrics)
    return source, _training(metrics)


def _ask(job: Job, scheme: str, seed: int, model_folder: Path, training: Mapping[str, float]) -> None:
    """Ask all questions with and without pictures, and write the record of the run."""
    folder, row = job.folder(scheme, seed), job.schemes[scheme].row
    folder.mkdir(parents=True, exist_ok=True)
    blanks = (False, True) if job.evaluation(scheme).blank_image else (False,)
    scores = {blank: _evaluate(job, scheme, model_folder, folder, blank) for blank in blanks}
    record = RunRecord(
        scheme=scheme,
        seed=seed,
        settings=job.settings(scheme, seed),
        evaluation=scores[False],
        blank=scores.get(True),
        activated=row.activated,
        total=row.total,
        training=training,
        provenance=provenance(),
    )
    save_record(record, folder)


def _evaluate(job: Job, scheme: str, model_folder: Path, folder: Path, blank: bool) -> dict[str, Any]:
    with without_weight_bars():
        model = load(model_folder, dtype=job.recipe.model.dtype)
    processor = load_processor(model_folder, job.recipe.model.template, marks=False)
    settings = job.evaluation(scheme)
    result = evaluate_model(
        model,
        processor,
        job.questions,
        job.images,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        blank_image=blank,
        decoding=settings.decoding,
        clamp_alpha=job.clamp_alpha(scheme),
        predictions=folder / f"predictions{'-blank' * blank}.jsonl",
    )
    return result.to_dict()


def _training(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The training numbers of all sparse stages added up."""
    tokens, seconds = (sum(float(stage[key]) for stage in metrics) for key in ("tokens", "seconds"))
    return {
        "steps": sum(float(stage["steps"]) for stage in metrics),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / max(seconds, 1e-9),
        "peak_memory_gib": max(float(stage["peak_memory_gib"]) for stage in metrics),
    }


def _stage_data(job: Job, stage: Any, seed: int) -> StageData:
    """Rows of one stage, encoded once for all schemes of a seed."""
    recipe, config = job.recipe, config_of(job.base)
    processor = load_processor(job.base, recipe.model.template, marks=recipe.data.labels == "assistant")
    tokens = ModalityRule.of(config, recipe.moe).token_ids
    return prepare_data(stage, recipe, processor, seed=seed, groups=resolve(recipe.moe)[1], token_ids=tokens)


def _drop_models(job: Job, folder: Path, seed: int) -> None:
    """Delete the model folders that the recipe does not keep. Results and predictions stay."""
    keep = job.recipe.compare.keep_models
    last = [stage.name for stage in job.recipe.stages if stage.sparse][-1]
    for stage in job.recipe.stages:
        first = seed == job.recipe.compare.seeds[0]
        kept = keep == "all" or (keep == "first_seed" and stage.name == last and first)
        if stage.sparse and not kept:
            shutil.rmtree(folder / stage.name, ignore_errors=True)


def _plan_only(recipe: Recipe, schemes: Sequence[str]) -> list[PlannedScheme]:
    """Make the plan without leaving a file. A model that is trained from nothing is built in a temporary folder."""
    if recipe.model.scratch is None:
        return plan_schemes(recipe, config_of(start_folder(recipe)), schemes)
    with without_weight_bars(), tempfile.TemporaryDirectory(prefix="moiety-compare-") as aside:
        build_scratch(recipe.model.scratch, texts_of(recipe), aside, template=recipe.model.template or "plain")
        return plan_schemes(recipe, config_of(aside), schemes)


def _dry(recipe: Recipe, schemes: Sequence[str], pairs: Sequence[tuple[str, int]]) -> Comparison:
    stages = plan_training(recipe).stages
    return Comparison(
        name=recipe.name,
        rows=[scheme.row for scheme in _plan_only(recipe, schemes)],
        reference=recipe.moe.scheme,
        records=(),
        floors=dict.fromkeys(types_of(questions_of(recipe)), Floors()),
        planned=pairs,
        context={"stages": [asdict(stage) for stage in stages], "recipe": recipe.model_dump(mode="json")},
        folder=Path(recipe.output),
        asked=recipe.compare,
        title=recipe.title,
    )


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


def _named(on_progress: OnProgress, name: str) -> Callable[[Progress], None]:
    return lambda progress: on_progress(name, progress)
