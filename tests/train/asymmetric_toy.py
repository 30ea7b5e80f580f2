"""A tiny asymoe model over the toy world, batches with spans, and one optimizer step over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from toy import COLOURS, KeepsGradients, row, scratch_folder

from moiety.recipe.recipe import MoESettings, TrainSettings
from moiety.train import MoietyTrainer, training_arguments
from moiety.vlm.data import Collator, Encoder
from moiety.vlm.images import Images
from moiety.vlm.model import load
from moiety.vlm.rows import parse_row
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle

WIDTHS = {"hyp_dim": 8, "inter_ffn": 16, "vision_ffn": 16, "evidence_dim": 8, "context_dim": 16, "context_heads": 2}
DOMINANT = {"cone_weight": 3.0, "distance_weight": 0.5, "gate_weight": 3.0, "gate_share": 1.0}
ROWS = [row(name, f"{name}.png", "Which colour?", name) for name in COLOURS]


def asymmetric_model(root: Path, **asymoe: Any) -> Any:
    """The scratch model with sparse layers of scheme asymoe."""
    settings = MoESettings(scheme="asymoe", asymoe={**WIDTHS, "warmup_share": 0.0, **asymoe})
    processor = load_processor(scratch_folder(root))
    return upcycle(load(scratch_folder(root)), settings, in_place=True, processor=processor)


def with_spans(root: Path, rows: list[dict[str, Any]] = ROWS) -> tuple[list[dict[str, torch.Tensor]], Collator]:
    """Rows as the stage prepares them."""
    encoder = Encoder(load_processor(scratch_folder(root)), Images([root / "pictures"]), 64, spans=True)
    return [encoder.encode(parse_row(entry)) for entry in rows], Collator(encoder.pad_token_id)


def trainer_of(
    world: Path, work: Path, model: Any, rows: list[dict[str, Any]] = ROWS, **settings: Any
) -> MoietyTrainer:
    dataset, collator = with_spans(world, rows)
    train = {"per_device_train_batch_size": 4, "max_steps": 1, "logging_steps": 1, "warmup_ratio": 0.0, **settings}
    callbacks = train.pop("callbacks", None)
    overrides = {name: train.pop(name) for name in ("save_strategy", "max_grad_norm") if name in train}
    args = training_arguments(
        TrainSettings(**train), work, quiet=True, train_sampling_strategy="sequential",
        **{"save_strategy": "no", **overrides},
    )  # fmt: skip
    return MoietyTrainer(model, args, train_dataset=dataset, data_collator=collator, callbacks=callbacks)


def gradients(
    world: Path, work: Path, rows: list[dict[str, Any]] = ROWS, accumulation: int = 1, **asymoe: Any
) -> dict[str, torch.Tensor]:
    """Gradients of one optimizer step over `rows`, four in a micro-batch; gates depend on what they read at once."""
    keeps, model = KeepsGradients(), asymmetric_model(world, **{**DOMINANT, **asymoe})
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.endswith(("w_alpha", "score.weight")):
            parameter.data += 0.1 * torch.randn_like(parameter)
    trainer = trainer_of(
        world, work, model, rows,
        gradient_accumulation_steps=accumulation, max_grad_norm=0.0, callbacks=[keeps],
    )  # fmt: skip
    trainer.train()
    return {name: gradient for name, gradient in keeps.found.items() if gradient is not None}
