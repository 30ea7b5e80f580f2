"""Turns the section ``train`` of a recipe into ``TrainingArguments``, and refuses unsafe values."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from moiety.recipe.recipe import TrainSettings


def check_arguments(args: TrainingArguments) -> None:
    """Refuse arguments under which a sparse model trains wrongly.

    Raises:
        ValueError: an argument is unsafe. The text says what to change.
    """
    if args.fp16 or args.fp16_full_eval:
        raise ValueError("fp16 is refused: router scores overflow in it, and CPUs have no fast path; use bf16=True")
    kwargs = getattr(args, "activation_checkpointing_kwargs", None) or args.gradient_checkpointing_kwargs
    if isinstance(kwargs, dict) and kwargs.get("use_reentrant"):
        raise ValueError(
            "use_reentrant=True is refused: gradients of the routing losses come out wrong without an error; "
            "leave it out, checkpointing is then not reentrant"
        )
    if args.load_best_model_at_end:
        raise ValueError(
            "load_best_model_at_end is refused: a stage ends with its last weights; keep checkpoints with a larger "
            "save_total_limit and choose among them"
        )


def training_arguments(
    settings: TrainSettings, folder: str | Path, *, seed: int = 0, quiet: bool = False, **overrides: Any
) -> TrainingArguments:
    """The ``TrainingArguments`` of one stage.

    Args:
        settings: The section ``train`` of a stage.
        folder: Where checkpoints go.
        seed: Seed of order and noise.
        quiet: No progress bar.
        overrides: Further arguments, which replace all others.
    """
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    shared = settings.model_dump(exclude={"learning_rates", "starved_share", "warmup_ratio", "gradient_checkpointing"})
    # newer versions renamed it and warn about the old name
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    cuda = torch.cuda.is_available()
    values = {
        **shared,
        # transformers reads a value below 1 as a ratio, and 1 or more as steps
        "warmup_steps": min(settings.warmup_ratio, math.nextafter(1, 0)),
        checkpointing: settings.gradient_checkpointing,
        "output_dir": str(folder),
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "dataloader_persistent_workers": settings.dataloader_num_workers > 0,
        "disable_tqdm": quiet,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is not finite is an error, not a gap in the log
        "remove_unused_columns": False,
        "report_to": "none",
        **overrides,
    }
    return TrainingArguments(**values)
