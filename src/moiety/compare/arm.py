"""One arm of a comparison: one scheme trained with one seed, asked, and written down. Its model is then freed."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from moiety.compare.job import Job, named
from moiety.compare.pace import place_of
from moiety.compare.records import RunRecord, save_record
from moiety.devices import device_named
from moiety.evaluate.plain_text import text_loss
from moiety.evaluate.run import evaluate_model
from moiety.moe.routers import resolve
from moiety.records.provenance import provenance
from moiety.train import StageData, prepare_data, run_stage
from moiety.train.progress import without_weight_bars
from moiety.vlm.model import config_of, load
from moiety.vlm.placeholders import ModalityRule
from moiety.vlm.templates import load_processor

logger = logging.getLogger(__name__)


def take(job: Job, leader: str, asked: Sequence[str], seed: int, data: dict[str, StageData]) -> bool:
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
            on_progress=None if job.on_progress is None else named(job.on_progress, f"{title}: {stage.name}"),
            quiet=job.quiet,
        )
        release()
        source = result.folder
        metrics.append(result.metrics)
    return source, _training(metrics)


def _ask(job: Job, scheme: str, seed: int, model_folder: Path, training: Mapping[str, float]) -> None:
    """Ask all questions with and without pictures, and write the record of the run. One model is loaded, and freed."""
    folder, row = job.folder(scheme, seed), job.schemes[scheme].row
    folder.mkdir(parents=True, exist_ok=True)
    blanks = (False, True) if job.evaluation(scheme).blank_image else (False,)
    with without_weight_bars():
        model = load(model_folder, dtype=job.recipe.model.dtype, device=device_named(None))
    processor = load_processor(
        model_folder, job.recipe.model.template, marks=False, processor=job.recipe.model.processor
    )
    scores = {blank: _evaluate(job, scheme, model, processor, folder, blank) for blank in blanks}
    kept = text_loss(model, processor.tokenizer, job.texts) if job.texts else None
    del model
    release()
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
        text_loss=kept,
    )
    save_record(record, folder)


def release() -> None:
    """Free the memory of models that nothing refers to any more: some of their parts refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _evaluate(job: Job, scheme: str, model: Any, processor: Any, folder: Path, blank: bool) -> dict[str, Any]:
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
    processor = load_processor(
        job.base, recipe.model.template, marks=recipe.data.labels == "assistant", processor=recipe.model.processor
    )
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
