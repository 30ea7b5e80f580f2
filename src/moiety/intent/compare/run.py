"""Runs a comparison: every method and variant with every seed on the same rows, each run in a folder of its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from moiety.intent.classifier import IntentClassifier
from moiety.intent.compare.fold_runs import made_in_folds
from moiety.intent.compare.outcome import IntentComparison, Pair
from moiety.intent.compare.pictures import draw_model
from moiety.intent.compare.report import write_outcome, write_tables
from moiety.intent.compare.run_record import IntentRun, load_run, run_folder, save_run
from moiety.intent.compare.training_run import graded, run_of, trained
from moiety.intent.data.dataset import IntentDataset
from moiety.intent.data.sources import fingerprint, known_persons, parts_of, read_source
from moiety.intent.recipe import FLOORS, IntentRecipe, parse_intent_recipe
from moiety.records.provenance import provenance
from moiety.records.saving import check_writable, write_atomically

logger = logging.getLogger(__name__)

MODEL, LOCK = "model", ".lock"
_WITHOUT_EFFECT = {"device", "progress", "random_state"}
"""Settings of a model that do not change its result, or that the seed of the run replaces."""


@dataclass
class Job:
    """What all runs of one comparison share.

    Args:
        recipe: The recipe.
        names: Lines of the table.
        planned: Runs of the table.
        on_progress: Called with (clips read, clips in all).
        read: Data settings as JSON -> the data set that they name.
        prints: Data settings as JSON -> fingerprint of each split.
        made_by: Command, commit, versions and machine of this process.
    """

    recipe: IntentRecipe
    names: Sequence[str]
    planned: Sequence[Pair]
    on_progress: Callable[[int, int], None] | None = None
    read: dict[str, IntentDataset] = field(default_factory=dict)
    prints: dict[str, dict[str, str]] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=provenance)

    def folder(self, pair: Pair) -> Path:
        """Folder of one run."""
        name, seed = pair
        return run_folder(self.recipe.output, name, None if self.recipe.method_of(name) in FLOORS else seed)

    def dataset(self, name: str) -> IntentDataset:
        """The rows as one line of the table reads them; lines with the same data settings share them."""
        data = self.recipe.data_of(name)
        key = json.dumps(data.given(), sort_keys=True)
        if key not in self.read:
            self.read[key] = read_source(data, self.on_progress)
            wanted = dict.fromkeys([data.train, data.score, *([data.choose] if data.choose else [])])
            in_folds = data.folds is not None
            self.prints[key] = {split: fingerprint(self.read[key][split], in_folds) for split in wanted}
        return self.read[key]

    def settings(self, pair: Pair) -> dict[str, Any]:
        """Everything the result of one run depends on."""
        name, seed = pair
        self.dataset(name)
        data = self.recipe.data_of(name).given()
        prints = self.prints[json.dumps(data, sort_keys=True)]
        model = self.recipe.model_of(name).model_dump(mode="json", exclude=_WITHOUT_EFFECT)
        method = self.recipe.method_of(name)
        rows = {"rows": prints, "splits": [data["train"], data["choose"], data["score"]]}
        if data["folds"] is not None:
            rows["folds"] = data["folds"]
        return {"method": method, "model": model, "seed": seed, "data": rows, "hide": list(self.recipe.compare.hide)}

    def run(self, pair: Pair) -> IntentRun | None:
        """The record of one run; None while it is not finished.

        Raises:
            ValueError: the run was made with other settings.
        """
        return load_run(self.folder(pair), self.settings(pair))

    def _rows(self, dataset: IntentDataset) -> dict[str, int]:
        """Numbers of rows that teach, rows that are scored, and groups that are scored; in folds each row does both."""
        data = self.recipe.data
        if data.folds is not None:
            rows = dataset[data.train]
            return {"train": len(rows), "score": len(rows), "groups": len(set(rows.groups))}
        parts = parts_of(dataset, data, 0)
        groups = len(set(parts.score.groups))
        return {"train": len(parts.all_train), "score": len(parts.score), "groups": groups}

    def summary(self) -> IntentComparison:
        """The comparison as far as it is finished, by this process and by others."""
        runs = [run for pair in self.planned if (run := self.run(pair)) is not None]
        rows = self._rows(self.dataset(self.names[0]))
        context = {"rows": rows, "recipe": self.recipe.model_dump(mode="json"), "provenance": self.made_by}
        return IntentComparison(self.recipe, self.names, runs, self.planned, Path(self.recipe.output), context)

    def so_far(self, asked: Sequence[Pair]) -> IntentComparison:
        """The comparison of the runs that were asked for, and of all others that are finished."""
        planned = [pair for pair in self.planned if pair in asked or self.run(pair) is not None]
        names = [name for name in self.names if name in {name for name, _ in planned}]
        return replace(self, names=names, planned=planned).summary()


def run_intent_compare(
    recipe: IntentRecipe,
    *,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    on_run: Callable[[int, int], None] | None = None,
) -> IntentComparison:
    """Train and score methods and variants with several seeds, and write the results.

    With the same seed, all runs set the same rows aside. Finished runs are kept, so a stopped comparison goes on where
    it was. Several processes with the same recipe share the runs. Floors run once, as they do not depend on a seed.

    Below ``recipe.output`` each run writes ``runs/<name>-seed<k>/result.json``, recipe and tables; pictures and
    ``report.html`` follow at the end. If the first run is refused, nothing is written.

    Args:
        recipe: The recipe.
        methods: Run only these. The result is about them alone; the files hold all that is finished of the recipe.
        seeds: Run only these, likewise.
        dry_run: Only plan: nothing is run or written.
        on_progress: Called with (clips read, clips in all) where clips are read.
        on_run: Called with (runs finished, runs in all) before each run and at the end.

    Raises:
        ValueError: a name is unknown, data cannot be read, or an earlier run here was made with other settings.
    """
    chosen, names = _united(methods, recipe.compare.methods)
    numbers, all_seeds = _united(seeds, recipe.seeds)
    recipe = _known(recipe, names, all_seeds)
    asked = Job(recipe, chosen, _pairs(recipe, chosen, numbers), on_progress)
    if dry_run:
        return IntentComparison(recipe, chosen, (), asked.planned, Path(recipe.output))
    whole = replace(asked, names=names, planned=_pairs(recipe, names, all_seeds))
    check_writable(recipe.output, is_folder=True)
    _warn_of_known_persons(asked)
    _check_finished_runs([*asked.planned, *whole.planned], whole)
    for pair in asked.planned:
        if on_run is not None:
            on_run(sum(asked.run(known) is not None for known in asked.planned), len(asked.planned))
        if _take(asked, pair):
            _write_recipe(recipe)
            write_tables(whole.so_far(asked.planned))
    comparison = asked.summary()
    _write_recipe(recipe)
    write_outcome(whole.so_far(asked.planned))
    if on_run is not None:
        on_run(len(comparison.runs), len(asked.planned))
    return comparison


def _warn_of_known_persons(job: Job) -> None:
    """Warn before hours of work where a person teaches and scores; the notes beside the numbers say it once more."""
    data = job.recipe.data
    for note in known_persons(job.dataset(job.names[0]), data) if data.folds is None else ():
        logger.warning("%s", note)


def _check_finished_runs(pairs: Sequence[Pair], job: Job) -> None:
    """Compare the settings of all finished runs that the tables will show, before any other run is made.

    Raises:
        ValueError: a run was made with other settings.
    """
    for pair in dict.fromkeys(pairs):
        if load_run(job.folder(pair)) is not None:
            job.run(pair)


def run_intent_fit(
    recipe: IntentRecipe,
    *,
    seeds: Sequence[int] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[IntentComparison, list[Path]]:
    """Train the model of a recipe once with each seed, and keep every model.

    This is a comparison of one method, written below ``<output>/fit``.

    Args:
        recipe: The recipe.
        seeds: Seeds instead of those of the recipe.
        on_progress: As for :func:`run_intent_compare`.

    Returns:
        The comparison, and the model folders in the order of the seeds.

    Raises:
        ValueError: the recipe asks for folds, or as for :func:`run_intent_compare`.
    """
    if recipe.data.folds is not None:
        raise ValueError(
            f"data.folds is {recipe.data.folds}, which makes as many models for each seed and keeps none; to fit a "
            "model that is kept, leave folds out"
        )
    tree = recipe.model_dump()
    method = recipe.model.method
    compare = {**tree["compare"], "methods": [method], "variants": {}, "contrasts": {}, "keep_models": "all"}
    output = str(fit_folder(recipe))
    changes: dict[str, Any] = {"output": output, "data": recipe.data.given(), "compare": compare}
    if seeds is not None:
        changes["seeds"] = list(seeds)
    recipe = IntentRecipe.model_validate(tree | changes)
    comparison = run_intent_compare(recipe, on_progress=on_progress)
    return comparison, [model_folder(recipe, method, seed) for seed in recipe.seeds]


def fit_folder(recipe: IntentRecipe) -> Path:
    """The folder that :func:`run_intent_fit` writes: ``fit`` below the recipe's ``output``; it need not exist.

    Args:
        recipe: The recipe that is fitted.
    """
    return Path(recipe.output) / "fit"


def model_folder(recipe: IntentRecipe, name: str, seed: int) -> Path:
    """The folder of the model of one run, which exists if the model is kept."""
    return Job(recipe, [name], []).folder((name, seed)) / MODEL


def _known(recipe: IntentRecipe, names: Sequence[str], seeds: Sequence[int]) -> IntentRecipe:
    """The recipe with other names and seeds, checked as if they had been written in it."""
    tree = recipe.model_dump() | {"data": recipe.data.given(), "seeds": list(seeds)}
    return parse_intent_recipe(tree | {"compare": {**tree["compare"], "methods": list(names)}}, recipe.name)


def _united(given: Sequence[Any] | None, recipe: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The entries to run now, and those of the table: the entries of the recipe, then further ones that were given."""
    chosen = list(recipe) if given is None else list(dict.fromkeys(given))
    return chosen, [*recipe, *(entry for entry in chosen if entry not in recipe)]


def _pairs(recipe: IntentRecipe, names: Sequence[str], seeds: Sequence[int]) -> list[Pair]:
    """The runs in their order: floors first, then seed by seed, so that the first paired differences come early."""
    floors = [name for name in names if recipe.method_of(name) in FLOORS]
    return [(name, 0) for name in floors] + [(name, seed) for seed in seeds for name in names if name not in floors]


def _write_recipe(recipe: IntentRecipe) -> None:
    """The recipe as it was run, beside its results."""
    tree = recipe.model_dump(mode="json") | {"data": recipe.data.given()}
    write_atomically(Path(recipe.output) / "recipe.yaml", yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))


def _take(job: Job, pair: Pair) -> bool:
    """Do one run, unless it is finished or another process works on it.

    Returns:
        Whether a result was added. Where the run is refused nothing stays behind.
    """
    folder = job.folder(pair)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # The system frees the lock of a process that died, so a killed run is taken over by the next process.
        with FileLock(folder / LOCK, timeout=0):
            if job.run(pair) is not None:
                logger.info("%s is finished and used as it is", folder.name)
                return False
            logger.info("%s: training (%s)", folder.name, _place(job, pair))
            save_run(_made(job, pair, folder), folder)
            return True
    except Timeout:
        logger.info("%s is in work in another process", folder.name)
        return False
    except Exception:
        _remove_empty(missing)
        raise


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove the folders that a refused run made, innermost first; one that holds more than its lock stays."""
    for folder in folders:
        if any(entry.name != LOCK for entry in folder.iterdir()):
            return
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _place(job: Job, pair: Pair) -> str:
    """The number of this run, and how long the last one of this name took."""
    done = {other: run for other in job.planned if (run := load_run(job.folder(other))) is not None}
    seconds = [run.training["seconds"] for (name, _), run in done.items() if name == pair[0]]
    took = f", the last one took {seconds[-1]:.0f} s" if seconds else ""
    return f"run {len(done) + 1} of {len(job.planned)}{took}"


def _made(job: Job, pair: Pair, folder: Path) -> IntentRun:
    """Train one model, score it with and without each modality, draw its pictures, keep it if the recipe says so."""
    (name, seed), recipe = pair, job.recipe
    data, settings = recipe.data_of(name), job.settings(pair)
    rows = job.dataset(name)
    if data.folds is not None:
        return made_in_folds(recipe, pair, rows[data.train], folder, settings, job.made_by)
    parts = parts_of(rows, data, seed)
    model, training, notes = trained(recipe, name, seed, parts)
    found = graded(recipe, name, model, parts.score)
    if isinstance(model, IntentClassifier) and _is_pictured(recipe, pair):
        draw_model(model, parts.score, found[""], folder)
    if isinstance(model, IntentClassifier) and _keeps(recipe, seed):
        model.save(folder / MODEL)
    return run_of(pair, settings, found, training, notes, job.made_by)


def _is_pictured(recipe: IntentRecipe, pair: Pair) -> bool:
    """Whether the report may show this run: the first seed of the method of section model."""
    name, seed = pair
    method = recipe.model.method
    return seed == recipe.seeds[0] and (name == method or method not in recipe.compare.methods)


def _keeps(recipe: IntentRecipe, seed: int) -> bool:
    keep = recipe.compare.keep_models
    return keep == "all" or (keep == "first_seed" and seed == recipe.seeds[0])
