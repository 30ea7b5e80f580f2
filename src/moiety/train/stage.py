"""Trains one stage: from a model folder and rows to a new model folder, which is complete or absent."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from moiety.recipe.recipe import MoESettings, Recipe, StageSettings
from moiety.records.saving import whole_folder
from moiety.train import checkpoints, log_files
from moiety.train.arguments import training_arguments
from moiety.train.asymoe.objectives import split_batch
from moiety.train.ledger import (
    StageResult,
    discard_stage,
    finished_stage,
    identity_of,
    owned,
    work_folder,
    write_record,
)
from moiety.train.log_files import LogFiles, read_log
from moiety.train.progress import without_weight_bars
from moiety.train.resources import peak_memory_gib, reset_peak_memory, return_freed_memory
from moiety.train.stage_data import StageData, prepare_data
from moiety.train.start import history_of, require_trained_projector
from moiety.train.trainer import MoietyTrainer
from moiety.vlm.card import Training, write_card
from moiety.vlm.centring import centre_gates
from moiety.vlm.configs import resolved
from moiety.vlm.damage import allows_damage, refuse_damage
from moiety.vlm.decoders import base_of
from moiety.vlm.kept_features import KeptFeatures, kept_features
from moiety.vlm.model import groups_of, load, settings_of
from moiety.vlm.parts import freeze
from moiety.vlm.placeholders import ModalityRule
from moiety.vlm.projector import is_as_drawn, projector_of
from moiety.vlm.templates import load_processor, stop_at_end_of_turn
from moiety.vlm.towers import called_tower
from moiety.vlm.upcycle import upcycle, with_special_ids

logger = logging.getLogger(__name__)

_CHOSEN_AT_START = ("aux_scope", "gate_start")
"""Settings that upcycling chooses where a recipe leaves them out; a model that is sparse already keeps its own."""
_ROWS_OF_CENTRING = 16


@dataclass(frozen=True)
class Progress:
    """The progress of a run: step `step` of `num_steps` in `stage`. `loss` is that of the last logging step."""

    stage: str
    step: int
    num_steps: int
    loss: float | None


OnProgress = Callable[[Progress], None]


def run_stage(
    source_folder: str | Path,
    stage: StageSettings,
    recipe: Recipe,
    folder: str | Path,
    seed: int,
    moe: MoESettings | None = None,
    *,
    data: StageData | None = None,
    resume: bool = True,
    on_progress: OnProgress | None = None,
    quiet: bool = True,
) -> StageResult:
    """Train one stage from one model folder to another.

    Args:
        source_folder: The model that the stage starts from: dense, or sparse with the same settings.
        stage: Settings of the stage: which parts are trained, on which rows.
        recipe: The recipe it belongs to, for the sections ``model`` and ``data``.
        folder: Folder of the result. It is written whole or not at all.
        seed: Seed for the order of the rows, for new routers and for noise.
        moe: Settings of the sparse layers; None keeps a dense model dense.
        data: Rows of :func:`prepare_data`, if several runs share them. None: they are read.
        resume: False deletes an earlier run of this stage first.
        on_progress: Called after each optimizer step.
        quiet: No progress bar.

    Raises:
        StageChanged: `folder` was made with other settings.
        BadRows: see :func:`prepare_data`.
        RuntimeError: the stage is sparse and the projector was never trained, or another process is training this
            stage.
        CheckpointError: a checkpoint could not be written. Earlier ones are intact.
    """
    source, folder, ranks = Path(source_folder), Path(folder), ranks_now()
    with without_weight_bars(), owned(folder, stage.name) if ranks.is_main_process else nullcontext():
        if not resume and ranks.is_main_process:
            discard_stage(folder)
        ranks.wait_for_everyone()
        with ranks.main_process_first():  # the others reuse the hashes that it has stored
            identity = identity_of(stage, recipe, seed, moe, source)
        found = finished_stage(folder, stage.name, identity)
        if found is not None:
            logger.debug("stage %r is finished in %s and used as it is", stage.name, folder)
            return found
        metrics = _run(source, stage, recipe, folder, seed, moe, identity, data, on_progress, quiet)
    return StageResult(stage.name, folder, metrics)


def _run(
    source: Path,
    stage: StageSettings,
    recipe: Recipe,
    folder: Path,
    seed: int,
    moe: MoESettings | None,
    identity: dict[str, Any],
    data: StageData | None,
    on_progress: OnProgress | None,
    quiet: bool,
) -> dict[str, Any]:
    """Load, check, train and write. Returns the numbers of the run."""
    ranks = ranks_now()
    return_freed_memory()  # before the model is loaded, so that what is freed on the way does not stay either
    processor = load_processor(
        source, recipe.model.template, marks=recipe.data.labels == "assistant", processor=recipe.model.processor
    )
    moe = None if moe is None else with_special_ids(moe, processor)
    model, history, fresh = _model_of(source, stage, recipe, seed, moe)
    if data is None:
        settings = settings_of(model)
        tokens = None if settings is None else ModalityRule.of(model.config, settings).token_ids
        control = None if settings is None or settings.asymoe is None else settings.asymoe.special_ids
        data = prepare_data(
            stage, recipe, processor, seed=seed, groups=groups_of(model), token_ids=tokens, control=control
        )
    if fresh:
        _centre(model, data, history)
    learning = freeze(model, stage.trains)
    if ranks.is_main_process:
        work_folder(folder).mkdir(parents=True, exist_ok=True)
        write_record(work_folder(folder), identity, recipe, None)
    ranks.wait_for_everyone()
    with _kept(model, data, recipe) as kept:
        metrics = _train(model, processor, data, stage, work_folder(folder), seed, on_progress, quiet)
    metrics |= _pictures_of_tower(kept)
    metrics |= {"trainable_parameters": learning, "rows": len(data.dataset), "rows_skipped": data.num_skipped}
    scheme = "dense" if moe is None else moe.scheme
    history["stages"] = [*history["stages"], _entry(stage, scheme, seed, metrics)]
    if ranks.is_main_process:
        _finish(model, processor, folder, history, identity, recipe, metrics)
    ranks.wait_for_everyone()
    return metrics


def _model_of(
    source: Path, stage: StageSettings, recipe: Recipe, seed: int, moe: MoESettings | None
) -> tuple[Any, dict[str, Any], bool]:
    """The model that a stage trains, made sparse if the stage asks for it; its history; whether its gates are new."""
    model = load(source, dtype=recipe.model.dtype)
    history = history_of(model, source)
    marked = recipe.model.trained_projector
    require_trained_projector(
        stage, history, source, lambda: is_as_drawn(projector_of(model), model.config), marked=marked
    )
    present = settings_of(model)
    if moe is not None and present is None:
        model.config.provenance = {**(model.config.provenance or {}), "origin": history["origin"]}
        model = upcycle(model, moe, seed=seed, in_place=True)
        refuse_damage(model, source, allowed=allows_damage(recipe))
        history |= model.config.provenance
    elif moe is not None and present is not None:
        kept = {name: getattr(present, name) for name in _CHOSEN_AT_START if getattr(moe, name) is None}
        wanted = resolved(moe.model_copy(update=kept), model.config)
        differing = [name for name in MoESettings.model_fields if getattr(wanted, name) != getattr(present, name)]
        if differing:
            raise ValueError(
                f"{source} is sparse already, with another {', '.join(f'moe.{name}' for name in differing)} than stage "
                f"{stage.name!r} asks for; start it from a dense folder or use the same section moe"
            )
    trained = any(past["scheme"] != "dense" for past in history["stages"])
    return model, history, moe is not None and not trained


def _centre(model: Any, data: StageData, history: dict[str, Any]) -> None:
    """Centre new gates on some rows of the stage, spread evenly, if the settings of the model say so."""
    settings = settings_of(model)
    if settings is None or settings.gate_start != "centred":
        return
    places = range(0, len(data.dataset), max(1, len(data.dataset) // _ROWS_OF_CENTRING))[:_ROWS_OF_CENTRING]
    batch, _ = split_batch(data.collator([data.dataset[place] for place in places]))
    del batch["labels"]
    done = centre_gates(model, {name: value.to(model.device) for name, value in batch.items()})
    if done is not None:
        logger.info("%s", done)
        history["upcycled"] = {**history["upcycled"], "gates": asdict(done)}


def _kept(model: Any, data: StageData, recipe: Recipe) -> AbstractContextManager[KeptFeatures | None]:
    """The frozen tower reads and writes feature files, if the recipe names a folder for them."""
    folder = recipe.data.cache_features
    if folder is None:
        return nullcontext()
    if called_tower(base_of(model)) is None:
        logger.warning("data.cache_features: this family computes all pictures of a batch at once, so nothing is kept")
    return kept_features(model, folder, len({name for row in data.dataset.rows for name in row.images}))


def _pictures_of_tower(kept: KeptFeatures | None) -> dict[str, Any]:
    """How many pictures the frozen tower computed and how many were read, for the record and for the reader."""
    if kept is None:
        return {}
    logger.info("vision tower: %d pictures computed, %d read from %s", kept.computed, kept.read, kept.folder)
    if kept.passed:
        logger.warning("%d calls of the vision tower have a form that cannot be kept; they were computed", kept.passed)
    return {"pictures_of_tower": {"computed": kept.computed, "read": kept.read, "not_kept": kept.passed}}


def _train(
    model: Any,
    processor: Any,
    data: StageData,
    stage: StageSettings,
    work: Path,
    seed: int,
    on_progress: OnProgress | None,
    quiet: bool,
) -> dict[str, Any]:
    """Train to the end, from the last complete checkpoint if there is one. Returns the numbers of the run."""
    reset_peak_memory()
    caches = vars(model.config).get("use_cache")
    callbacks: list[TrainerCallback] = [LogFiles(work)]
    if on_progress is not None:
        callbacks.append(_Reports(stage.name, on_progress))
    trainer = MoietyTrainer(
        model,
        training_arguments(stage.train, work, seed=seed, quiet=quiet),
        learning_rates={str(part): rate for part, rate in stage.train.learning_rates.items()},
        starved_share=stage.train.starved_share,
        train_dataset=data.dataset,
        data_collator=data.collator,
        processing_class=processor,
        callbacks=callbacks,
    )
    last = checkpoints.last_whole(work)
    if last is not None:
        logger.info("stage %r goes on from %s", stage.name, last)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    vars(model.config).pop("use_cache", None)  # the Trainer switches the cache off; generation needs it
    if caches is not None:
        model.config.use_cache = caches
    counted, lines, steps = trainer.meter.counters(), read_log(work), trainer.state.global_step
    del trainer
    gc.collect()  # callbacks and trainer hold each other, and the optimizer with them
    return {
        **counted,
        "tokens_per_second": counted["tokens"] / max(counted["seconds"], 1e-9),
        "peak_memory_gib": peak_memory_gib(),
        "steps": steps,
        "first_cross_entropy": lines[0]["cross_entropy"],
        "last_cross_entropy": lines[-1]["cross_entropy"],
        "alarms": [alarm for line in lines for alarm in line.get("alarms", [])],
    }


def _finish(
    model: Any,
    processor: Any,
    folder: Path,
    history: dict[str, Any],
    identity: dict[str, Any],
    recipe: Recipe,
    metrics: dict[str, Any],
) -> None:
    """Write model, processor, logs and record as one folder, and then delete the checkpoints."""
    model.config.provenance = history
    stop_at_end_of_turn(model, processor, recipe.model.template)
    work = work_folder(folder)
    with whole_folder(folder) as fresh:
        model.save_pretrained(fresh)
        processor.save_pretrained(fresh)
        for name in (log_files.LINES, log_files.TABLE, log_files.CURVE, log_files.LOADS):
            if (work / name).is_file():  # a dense model has no loads
                shutil.copyfile(work / name, fresh / name)
        write_record(fresh, identity, recipe, metrics)
        write_card(fresh, model, _training(recipe, identity, metrics))
    shutil.rmtree(work)


def _training(recipe: Recipe, identity: dict[str, Any], metrics: dict[str, Any]) -> Training:
    """What the model card says about a stage."""
    return Training(
        recipe=recipe.model_dump(mode="json", exclude_defaults=True),
        files=identity["files"],
        rows=metrics["rows"],
        rows_skipped=metrics["rows_skipped"],
        loss=metrics["last_cross_entropy"],
        alarms=metrics["alarms"],
    )


def _entry(stage: StageSettings, scheme: str, seed: int, metrics: dict[str, Any]) -> dict[str, Any]:
    """The entry for a stage in the provenance of a model."""
    kept = {name: metrics[name] for name in ("steps", "tokens", "trained_tokens")}
    return {"name": stage.name, "trains": list(stage.trains), "scheme": scheme, "seed": seed, **kept}


class _Reports(TrainerCallback):
    """Reports the progress of the run after each optimizer step."""

    def __init__(self, stage: str, on_progress: OnProgress) -> None:
        self.stage, self.on_progress = stage, on_progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = next((line["loss"] for line in reversed(state.log_history) if "loss" in line), None)
        self.on_progress(Progress(self.stage, state.global_step, state.max_steps, loss))


def ranks_now() -> PartialState:
    """The state of the processes of this run: one process, or those that torchrun started."""
    return PartialState(cpu=not torch.cuda.is_available())
