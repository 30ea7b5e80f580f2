"""Works out before training what a recipe will do: stages, rows, steps, tokens, trained parts and memory."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Group
from rich.table import Table

from moiety.recipe.recipe import MoESettings, Recipe, StageSettings, TrainSettings
from moiety.train.ledger import read_record
from moiety.train.memory import StageMemory, largest_batch, memory_of, memory_table
from moiety.train.progress import without_weight_bars
from moiety.train.stage_data import num_silent
from moiety.train.start import require_files, texts_of
from moiety.vlm.data import Encoder
from moiety.vlm.images import Images
from moiety.vlm.loading import local_folder
from moiety.vlm.parameters import count_parameters
from moiety.vlm.rows import Row, merge_rows, read_rows
from moiety.vlm.scratch import build_scratch
from moiety.vlm.skips import skips_of
from moiety.vlm.templates import load_processor

_SAMPLE = 32


@dataclass(frozen=True)
class StagePlan:
    """One stage of the plan.

    Args:
        name: Name of the stage.
        scheme: Routing scheme, or ``dense``.
        rows: Rows that can be read. If turns are merged, rows with merged turns count once.
        unusable: How many of the sampled rows cannot be encoded; if there is one, run ``moiety data check``.
        steps: Optimizer steps.
        tokens: Tokens read in all steps, from the mean length of a sample.
        trainable: Part -> number of trained parameters.
        total: Parameters of the model.
        activated: Parameters that one token passes through, for the modality group that uses most.
        memory: GiB at the peak of its training, by part.
        finished: Whether the stage is finished already.
        silent: Rows that teach nothing: rows without a picture in a stage that trains only tower and projector.
    """

    name: str
    scheme: str
    rows: int
    unusable: int
    steps: int
    tokens: int
    trainable: dict[str, int]
    total: int
    activated: int
    memory: StageMemory
    finished: bool
    silent: int = 0


@dataclass(frozen=True)
class TrainingPlan:
    """All stages of a recipe. rich prints it as two tables."""

    recipe: str
    stages: tuple[StagePlan, ...]

    def __rich__(self) -> Group:
        """The stages, and what each of them needs in memory."""
        return Group(self._work(), memory_table({stage.name: stage.memory for stage in self.stages}))

    def _work(self) -> Table:
        """One line for each stage."""
        note = "tokens are estimated from a sample"
        table = Table(title=f"plan of {self.recipe}", title_justify="left", caption=note, caption_justify="left")
        for head in ("stage", "scheme"):
            table.add_column(head)
        for head in ("rows", "steps", "tokens", "total", "activated", "GiB at the peak"):
            table.add_column(head, justify="right")
        table.add_column("learns")
        table.add_column("state")
        for stage in self.stages:
            numbers = (stage.rows, stage.steps, stage.tokens, stage.total, stage.activated)
            learns = "\n".join(f"{part} {count:,}" for part, count in stage.trainable.items())
            state = "finished" if stage.finished else "to do"
            if stage.unusable:
                state += f"\n{stage.unusable} bad rows in a sample: run `moiety data check`"
            if stage.silent:
                state += f"\n{stage.silent} rows without a picture teach nothing here"
            table.add_row(
                stage.name,
                stage.scheme,
                *(f"{value:,}" for value in numbers),
                f"{stage.memory.total:.2f}",
                learns,
                state,
            )
        return table


def plan(recipe: Recipe) -> TrainingPlan:
    """Work out what :func:`moiety.train.run_recipe` would do. Nothing is trained, and no file is left on the disk.

    Raises:
        FileNotFoundError: the model or a file of rows does not exist.
        ValueError: settings do not fit the model.
    """
    require_files(recipe)
    with without_weight_bars(), tempfile.TemporaryDirectory(prefix="moiety-plan-") as aside:
        if recipe.model.scratch is not None:
            template = recipe.model.template or "plain"
            folder = build_scratch(recipe.model.scratch, texts_of(recipe), aside, template=template, seed=recipe.seed)
        else:
            folder = local_folder(str(recipe.model.source), recipe.model.revision)
        processor = training_processor(recipe, folder)
        return TrainingPlan(recipe.name, tuple(_stage(stage, recipe, folder, processor) for stage in recipe.stages))


def training_processor(recipe: Recipe, folder: Path) -> Any:
    """The processor that the stages of a recipe read rows with; `folder` is the model that they start from."""
    marks = recipe.data.labels == "assistant"
    return load_processor(folder, recipe.model.template, marks=marks, processor=recipe.model.processor)


def steps_of(train: TrainSettings, num_rows: int, num_ranks: int = 1) -> int:
    """Optimizer steps of a run over `num_rows` rows, as the Trainer counts them.

    Example:
        >>> steps_of(TrainSettings(num_train_epochs=2, per_device_train_batch_size=4), 10)
        6
    """
    if train.max_steps > 0:
        return train.max_steps
    batches = math.ceil(num_rows / (train.per_device_train_batch_size * num_ranks))
    return math.ceil(train.num_train_epochs * math.ceil(batches / train.gradient_accumulation_steps))


def _stage(stage: StageSettings, recipe: Recipe, folder: Path, processor: Any) -> StagePlan:
    moe: MoESettings | None = recipe.moe if stage.sparse else None
    rows = rows_of(stage, recipe)
    encoder = encoder_of(recipe, processor)
    lengths, unusable = _sampled_lengths(rows, encoder)
    steps, batch = steps_of(stage.train, len(rows)), stage.train.per_device_train_batch_size
    seen = steps * batch * stage.train.gradient_accumulation_steps
    if stage.train.max_steps <= 0:
        seen = min(seen, math.ceil(stage.train.num_train_epochs * len(rows)))
    count = count_parameters(folder, moe)
    learning = count_parameters(folder, moe, "strict").by_part  # parts that the model never uses are not trained
    trainable = {str(part): number for part, number in learning.items() if part in stage.trains}
    record = read_record(Path(recipe.output) / stage.name)
    return StagePlan(
        name=stage.name,
        scheme=count.scheme,
        rows=len(rows),
        unusable=unusable,
        steps=steps,
        tokens=round(seen * sum(lengths) / max(len(lengths), 1)),
        trainable=trainable,
        total=count.total,
        activated=count.activated,
        memory=memory_of(
            folder, moe, stage, largest_batch(rows, encoder, batch), encoder.pad_token_id, dtype_of(recipe)
        ),
        finished=bool(record and record["finished"]),
        silent=num_silent(rows, stage),
    )


def rows_of(stage: StageSettings, recipe: Recipe) -> list[Row]:
    """The rows of a stage that can be read; merged turns are one row."""
    root = Path(recipe.data.root)
    rows, _ = read_rows([root / name for name in stage.data], skips_of(recipe.data))
    merges = recipe.data.merge_turns if stage.merge_turns is None else stage.merge_turns
    return list(merge_rows(rows) if merges else rows)


def encoder_of(recipe: Recipe, processor: Any) -> Encoder:
    """The encoder of the stages of a recipe."""
    images = Images([Path(recipe.data.root) / path for path in recipe.data.images])
    return Encoder(processor, images, recipe.data.max_length, recipe.data.labels, spans=True)


def dtype_of(recipe: Recipe) -> torch.dtype:
    """Type of the weights in training."""
    found: torch.dtype = getattr(torch, recipe.model.dtype)
    return found


def _sampled_lengths(rows: Sequence[Row], encoder: Encoder) -> tuple[list[int], int]:
    """Numbers of tokens of some rows, spread evenly over the data, and how many of these rows cannot be encoded."""
    lengths, unusable = [], 0
    for row in rows[:: max(1, len(rows) // _SAMPLE)]:
        try:
            lengths.append(len(encoder.encode(row)["input_ids"]))
        except (FileNotFoundError, ValueError):
            unusable += 1
    return lengths, unusable
