"""Several schemes times several seeds from one dense base: each run in its own folder, any process may take any run."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from moiety.compare.outcome import floors_of, questions_of, write_outcome
from moiety.compare.plan import PlannedScheme, plan_schemes
from moiety.compare.provenance import file_digests, provenance
from moiety.compare.records import RunRecord, load_record, run_name, save_record
from moiety.compare.summary import Comparison
from moiety.comparison import MEAN_OF_TYPES
from moiety.config import Recipe
from moiety.evaluate.run import evaluate_model
from moiety.groups import nearest_name
from moiety.moe.routers import resolve
from moiety.train import Progress, StageData, prepare_data, run_recipe, run_stage
from moiety.train.ledger import fingerprint_of, identity_of
from moiety.train.plan import plan as plan_training
from moiety.train.start import start_folder, texts_of
from moiety.vlm.images import Images
from moiety.vlm.loading import read_config
from moiety.vlm.model import load
from moiety.vlm.placeholders import ModalityRule
from moiety.vlm.rows import Row
from moiety.vlm.scratch import build_scratch
from moiety.vlm.templates import load_processor

logger = logging.getLogger(__name__)

RUNS = "runs"
OnProgress = Callable[[str, Progress], None]


def run_compare(
    recipe: Recipe,
    *,
    schemes: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
    quiet: bool = True,
) -> Comparison:
    """Train and score several schemes with several seeds from one dense base, and write what came out.

    The dense stages run once. Then every scheme goes through the sparse stages with the same rows in the same order
    and the same number of steps, its experts as wide as makes its activated parameters equal to those of
    ``recipe.moe``. Finished runs are kept, so a stopped comparison goes on where it was; a second process given the
    same recipe takes runs that nobody works on.

    Below ``recipe.output``: ``runs/<scheme>-seed<k>/result.json``, ``table.md``, ``table.csv``, ``results.json``,
    ``comparison.png`` and ``report.html``, written anew after each run.

    Args:
        recipe: With at least one sparse stage and questions in ``evaluate.data``.
        schemes: Run these only; the table also shows what the recipe's other schemes have finished.
        seeds: Run these only, likewise.
        dry_run: Plan only: no run, no file.
        on_progress: Called after each optimizer step with the name of the run.
        quiet: No progress bars.

    Raises:
        ValueError: the recipe cannot be compared, a scheme cannot be made equal, or an earlier run in this output was
            made with other settings.
    """
    _check(recipe)
    chosen, shown = _united(schemes, recipe.compare.schemes)
    numbers, all_seeds = _united(seeds, recipe.compare.seeds)
    folder = Path(recipe.output)
    planned_pairs = [(scheme, seed) for scheme in shown for seed in all_seeds]
    if dry_run:
        rows = [scheme.row for scheme in _plan_only(recipe, shown)]
        return Comparison(
            recipe.name, rows, recipe.moe.scheme, (), {}, planned_pairs, _dry_context(recipe), folder, recipe.compare
        )
    folder.mkdir(parents=True, exist_ok=True)
    job = _prepare(recipe, shown, planned_pairs, on_progress, quiet)
    for seed in numbers:
        data: dict[str, StageData] = {}
        for scheme in chosen:
            if _take(job, job.schemes[scheme], seed, data):
                write_outcome(job.summary())
    comparison = job.summary()
    write_outcome(comparison)
    return comparison


@dataclass(frozen=True)
class Job:
    """What all runs of one comparison share.

    Args:
        recipe: The recipe.
        base: Folder of the dense base.
        schemes: Name -> plan.
        pairs: (scheme, seed) of the table.
        questions: Rows that score a run.
        floors: Type -> floors.
        images: Where pictures are.
        context: For the report.
        on_progress: Called after each optimizer step with the name of the run.
        quiet: No progress bars.
    """

    recipe: Recipe
    base: Path
    schemes: Mapping[str, PlannedScheme]
    pairs: Sequence[tuple[str, int]]
    questions: Sequence[Row]
    floors: Mapping[str, Any]
    images: Images
    context: Mapping[str, Any]
    on_progress: OnProgress | None
    quiet: bool

    def folder(self, scheme: str, seed: int) -> Path:
        """Folder of one run."""
        return Path(self.recipe.output) / RUNS / run_name(scheme, seed)

    def settings(self, scheme: PlannedScheme, seed: int) -> dict[str, Any]:
        """Everything the result of one run depends on."""
        stages = [stage for stage in self.recipe.stages if stage.sparse]
        evaluate = self.recipe.evaluate
        return {
            "stages": [identity_of(stage, self.recipe, seed, scheme.settings, self.base) for stage in stages],
            "evaluate": evaluate.model_dump(mode="json", exclude={"batch_size"})
            | {"files": file_digests(self.recipe.data.root, evaluate.data)},
        }

    def summary(self) -> Comparison:
        """All results there are by now, also those of other processes."""
        found = [
            load_record(self.folder(name, seed), self.settings(self.schemes[name], seed)) for name, seed in self.pairs
        ]
        records = [record for record in found if record is not None]
        rows = [scheme.row for scheme in self.schemes.values()]
        return Comparison(
            name=self.recipe.name,
            rows=rows,
            reference=self.recipe.moe.scheme,
            records=records,
            floors=self.floors,
            planned=self.pairs,
            context=self.context,
            folder=Path(self.recipe.output),
            asked=self.recipe.compare,
        )


def _prepare(
    recipe: Recipe,
    schemes: Sequence[str],
    pairs: Sequence[tuple[str, int]],
    on_progress: OnProgress | None,
    quiet: bool,
) -> Job:
    """Refuse what cannot be compared, then make the dense base; a second process waits for the first one's base."""
    questions = questions_of(recipe)
    floors = floors_of(recipe, questions)
    _check_types(recipe, [*floors, MEAN_OF_TYPES])
    images = Images([Path(recipe.data.root) / path for path in recipe.data.images])
    runs = Path(recipe.output) / RUNS  # no stage can be called so, thus no lock of a stage lies here
    runs.mkdir(parents=True, exist_ok=True)
    with FileLock(runs / ".base.lock"):
        base = start_folder(recipe)
        planned = plan_schemes(recipe, read_config(base), schemes)
        for stage in recipe.stages:
            if not stage.sparse:
                tell = None if on_progress is None else _named(on_progress, f"base: {stage.name}")
                base = run_recipe(recipe, only_stage=stage.name, on_progress=tell, quiet=quiet)[0].folder
    context = {"provenance": provenance(), "base": fingerprint_of(base), "recipe": recipe.model_dump(mode="json")}
    by_name = {scheme.name: scheme for scheme in planned}
    return Job(recipe, base, by_name, pairs, questions, floors, images, context, on_progress, quiet)


def _take(job: Job, scheme: PlannedScheme, seed: int, data: dict[str, StageData]) -> bool:
    """Do one run unless it is finished or another process works on it; whether a result was added."""
    folder, name = job.folder(scheme.name, seed), run_name(scheme.name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # The system frees the lock of a process that died, so a killed run is taken over by the next process.
        with FileLock(folder / ".lock", timeout=0):
            if load_record(folder, job.settings(scheme, seed)) is not None:
                logger.info("%s is finished and used as it is", name)
                return False
            logger.info("%s: training", name)
            save_record(_run(job, scheme, seed, folder, data), folder)
            _drop_models(job, folder, seed)
            return True
    except Timeout:
        logger.info("%s is in work in another process", name)
        return False


def _run(job: Job, scheme: PlannedScheme, seed: int, folder: Path, data: dict[str, StageData]) -> RunRecord:
    """Train one scheme with one seed through the sparse stages, then ask all questions with and without pictures."""
    recipe, source, metrics = job.recipe, job.base, []
    for stage in recipe.stages:
        if not stage.sparse:
            continue
        if stage.name not in data:
            data[stage.name] = _stage_data(job, stage, seed)
        tell = (
            None if job.on_progress is None else _named(job.on_progress, f"{run_name(scheme.name, seed)}: {stage.name}")
        )
        result = run_stage(
            source,
            stage,
            recipe,
            folder / stage.name,
            seed,
            scheme.settings,
            data=data[stage.name],
            on_progress=tell,
            quiet=job.quiet,
        )
        source = result.folder
        metrics.append(result.metrics)
    logger.info("%s: answering %d questions", run_name(scheme.name, seed), len(job.questions))
    scores = {
        blank: _evaluate(job, source, folder, blank)
        for blank in (False, True)
        if not blank or recipe.evaluate.blank_image
    }
    return RunRecord(
        scheme=scheme.name,
        seed=seed,
        settings=job.settings(scheme, seed),
        evaluation=scores[False],
        blank=scores.get(True),
        activated=scheme.row.activated,
        total=scheme.row.total,
        training=_training(metrics),
        provenance=provenance(),
    )


def _evaluate(job: Job, model_folder: Path, folder: Path, blank: bool) -> dict[str, Any]:
    model = load(model_folder, dtype=job.recipe.model.dtype)
    processor = load_processor(model_folder, job.recipe.model.template, marks=False)
    settings = job.recipe.evaluate
    result = evaluate_model(
        model,
        processor,
        job.questions,
        job.images,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        blank_image=blank,
        predictions=folder / f"predictions{'-blank' * blank}.jsonl",
    )
    return result.to_dict()


def _training(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Numbers of all sparse stages together."""
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
    recipe, config = job.recipe, read_config(job.base)
    processor = load_processor(job.base, recipe.model.template, marks=recipe.data.labels == "assistant")
    tokens = ModalityRule.of(config, recipe.moe).token_ids
    return prepare_data(stage, recipe, processor, seed=seed, groups=resolve(recipe.moe)[1], token_ids=tokens)


def _drop_models(job: Job, folder: Path, seed: int) -> None:
    """Delete the model folders that the recipe does not ask to keep; results and predictions stay."""
    keep = job.recipe.compare.keep_models
    last = [stage.name for stage in job.recipe.stages if stage.sparse][-1]
    for stage in job.recipe.stages:
        kept = keep == "all" or (keep == "first_seed" and stage.name == last and seed == job.pairs[0][1])
        if stage.sparse and not kept:
            shutil.rmtree(folder / stage.name, ignore_errors=True)


def _plan_only(recipe: Recipe, schemes: Sequence[str]) -> list[PlannedScheme]:
    """The plan without a file left behind: a model from nothing is built aside."""
    if recipe.model.scratch is None:
        return plan_schemes(recipe, read_config(start_folder(recipe)), schemes)
    with tempfile.TemporaryDirectory(prefix="moiety-compare-") as aside:
        build_scratch(recipe.model.scratch, texts_of(recipe), aside, template=recipe.model.template or "plain")
        return plan_schemes(recipe, read_config(aside), schemes)


def _dry_context(recipe: Recipe) -> dict[str, Any]:
    stages = plan_training(recipe).stages
    return {"stages": [asdict(stage) for stage in stages], "recipe": recipe.model_dump(mode="json")}


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
    """What to run now, and what the table shows: the recipe's own and, behind them, further ones given now."""
    chosen = list(recipe) if given is None else list(given)
    return chosen, [*recipe, *(entry for entry in chosen if entry not in recipe)]


def _named(on_progress: OnProgress, name: str) -> Callable[[Progress], None]:
    return lambda progress: on_progress(name, progress)
