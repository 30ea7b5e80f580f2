"""A comparison that is only planned: its runs and what is done of each, its schemes, and what one run needs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from moiety.compare.job import RUNS
from moiety.compare.outcome import questions_of
from moiety.compare.plan import PlannedScheme, plan_schemes
from moiety.compare.records import run_name
from moiety.compare.starts import base_of_recipe, refuse_noise, texts_to_keep
from moiety.compare.summary import Comparison
from moiety.compare.verdicts import Floors
from moiety.evaluate.report import types_of
from moiety.recipe.recipe import MoESettings, Recipe
from moiety.records.run_files import RESULT
from moiety.train.checkpoints import checkpoints_in
from moiety.train.ledger import read_record, work_folder
from moiety.train.memory import StageMemory, largest_batch, memory_of
from moiety.train.plan import dtype_of, encoder_of, rows_of, training_processor
from moiety.train.plan import plan as plan_training
from moiety.train.progress import without_weight_bars
from moiety.train.start import start_folder, texts_of
from moiety.vlm.model import config_of
from moiety.vlm.scratch import build_scratch

FINISHED, BEGUN, TO_DO = "finished", "goes on", "to do"


@dataclass(frozen=True)
class PlannedRun:
    """One run that was asked for.

    Args:
        name: Name of its folder.
        scheme: The scheme as compared.
        seed: The seed.
        stages: Each sparse stage and the answers -> what is done of it.
        state: ``finished``, ``goes on`` (some of it is done) or ``to do``.
    """

    name: str
    scheme: str
    seed: int
    stages: dict[str, str]
    state: str


def dry_run(recipe: Recipe, schemes: Sequence[str], pairs: Sequence[tuple[str, int]]) -> Comparison:
    """Plan a comparison. Nothing is trained, no weight of an existing model is read, and no file is left.

    Args:
        recipe: The recipe.
        schemes: Names as compared.
        pairs: (scheme, seed) of the runs that were asked for.
    """
    texts_to_keep(recipe)
    (planned, memory), output = _plan_only(recipe, schemes), Path(recipe.output)
    stages = [asdict(stage) | {"state": state_of(output / stage.name)} for stage in plan_training(recipe).stages]
    context = {
        "stages": stages,
        "runs": [asdict(run) for run in planned_runs(recipe, planned, pairs)],
        "memory": {name: asdict(found) for name, found in memory.items()},
        "recipe": recipe.model_dump(mode="json"),
    }
    return Comparison(
        name=recipe.name,
        rows=[scheme.row for scheme in planned],
        reference=recipe.moe.scheme,
        records=(),
        floors=dict.fromkeys(types_of(questions_of(recipe)), Floors()),
        planned=pairs,
        context=context,
        folder=output,
        asked=recipe.compare,
        title=recipe.title,
        base=base_of_recipe(recipe, None if recipe.model.source is None else start_folder(recipe)),
    )


def planned_runs(
    recipe: Recipe, planned: Sequence[PlannedScheme], pairs: Sequence[tuple[str, int]]
) -> list[PlannedRun]:
    """What is done of each run, from the files in the output folder.

    Args:
        recipe: The recipe.
        planned: Its schemes. Those with equal settings share one trained model, which the first of them trains.
        pairs: (scheme, seed) of the runs.
    """
    leaders: dict[str, str] = {}
    for scheme in planned:
        same = [other for other in planned if other.settings == scheme.settings]
        leaders[scheme.name] = same[0].name
    return [_run(recipe, scheme, seed, leaders[scheme]) for scheme, seed in pairs]


def _run(recipe: Recipe, scheme: str, seed: int, leader: str) -> PlannedRun:
    runs = Path(recipe.output) / RUNS
    folder, trained = runs / run_name(scheme, seed), runs / run_name(leader, seed)
    names = [stage.name for stage in recipe.stages if stage.sparse]
    if (folder / RESULT).is_file():
        return PlannedRun(folder.name, scheme, seed, dict.fromkeys([*names, "answers"], FINISHED), FINISHED)
    stages = {name: state_of(trained / name) for name in names}
    begun = (folder / "predictions.jsonl").is_file()
    state = BEGUN if begun or any(found != TO_DO for found in stages.values()) else TO_DO
    if leader != scheme:
        stages = {name: f"the model of {leader}, {found}" for name, found in stages.items()}
    return PlannedRun(folder.name, scheme, seed, stages | {"answers": "begun" if begun else TO_DO}, state)


def state_of(folder: Path) -> str:
    """What is done of a stage: ``finished``, ``goes on after step 200`` or ``to do``."""
    if (read_record(folder) or {}).get("finished"):
        return FINISHED
    found = checkpoints_in(work_folder(folder))
    return f"{BEGUN} after step {found[-1].name.rpartition('-')[2]}" if found else TO_DO


def _plan_only(recipe: Recipe, schemes: Sequence[str]) -> tuple[list[PlannedScheme], dict[str, StageMemory]]:
    """Make the plan without leaving a file. A model that is trained from nothing is built in a temporary folder."""
    if recipe.model.scratch is None:
        base = start_folder(recipe)
        refuse_noise(recipe, base)
        planned = plan_schemes(recipe, config_of(base), schemes)
        return planned, memory_of_schemes(recipe, base, planned)
    with without_weight_bars(), tempfile.TemporaryDirectory(prefix="moiety-compare-") as aside:
        base = build_scratch(recipe.model.scratch, texts_of(recipe), aside, template=recipe.model.template or "plain")
        planned = plan_schemes(recipe, config_of(base), schemes)
        return planned, memory_of_schemes(recipe, base, planned)


def memory_of_schemes(recipe: Recipe, base: Path, planned: Sequence[PlannedScheme]) -> dict[str, StageMemory]:
    """Scheme -> memory of one run, in the sparse stage that needs most.

    Args:
        recipe: The recipe.
        base: Folder of the model that all schemes start from.
        planned: The schemes. Those with equal settings need the same.
    """
    encoder, config = encoder_of(recipe, training_processor(recipe, base)), config_of(base)
    found: dict[str, StageMemory] = {}
    for stage in (stage for stage in recipe.stages if stage.sparse):
        batch = largest_batch(rows_of(stage, recipe), encoder, stage.train.per_device_train_batch_size)
        known: list[tuple[MoESettings | None, StageMemory]] = []
        for scheme in planned:
            needs = next((needs for settings, needs in known if settings == scheme.settings), None)
            if needs is None:
                needs = memory_of(config, scheme.settings, stage, batch, encoder.pad_token_id, dtype_of(recipe))
                known.append((scheme.settings, needs))
            if scheme.name not in found or needs.total > found[scheme.name].total:
                found[scheme.name] = needs
    return found
