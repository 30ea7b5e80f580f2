"""One of two gloo processes: runs every distributed check and writes what it saw to ``<work>/rank<r>.pt``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from asymmetric_toy import ROWS, asymmetric_model, with_spans
from asymmetric_toy import gradients as asymmetric_gradients
from toy import COLOURS, gradients, row, scratch_folder, sparse_model

from moiety.recipe.recipe import TrainSettings
from moiety.train import MoietyTrainer, training_arguments
from moiety.vlm.model import load
from moiety.vlm.parts import freeze

PAIR = [row("a", "red.png", "Which colour?", "red"), row("b", None, "Repeat the word blue.", "blue blue")]
# Two rows a rank; lengths, modalities and answers differ.
MIXED = [
    row("a", "red.png", "Which colour?", "red"),
    row("b", "blue.png", "Describe it, please.", "all blue"),
    row("c", None, "Repeat the word green.", "green green"),
    row("d", "green.png", "Which?", "green"),
]
# The second rank gets two rows without a picture.
LOPSIDED = [*PAIR[:1], row("b", "blue.png", "Which?", "blue"), PAIR[1], row("d", None, "Say red.", "red")]
DOMINANT = {"aux_coef": 5.0, "z_loss_coef": 0.5}
EVERYTHING = ("vision_tower", "projector", "embeddings", "decoder", "router", "experts", "head")


def train_few(root: Path, work: Path, kind: str) -> dict[str, Any]:
    """Three steps over pictures on rank 0 and text alone on rank 1, with a trained tower and checkpointing."""
    makes = {"dense": lambda root: load(scratch_folder(root)), "sparse": sparse_model, "asymoe": asymmetric_model}
    model = makes[kind](root)
    freeze(model, EVERYTHING)
    dataset, collator = with_spans(root, LOPSIDED * 3)
    settings = TrainSettings(
        per_device_train_batch_size=2, max_steps=3, gradient_checkpointing=True, logging_steps=1, learning_rate=1e-3
    )
    args = training_arguments(settings, work, quiet=True, train_sampling_strategy="sequential", save_strategy="no")
    trainer = MoietyTrainer(model, args, train_dataset=dataset, data_collator=collator)
    trainer.train()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p not in trainer.optimizer.state]
    return {"log": trainer.state.log_history[:3], "without_gradient": missing}


def main(root: Path, work: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    found["copies"], _ = gradients(root, PAIR * 2, 2, 1, work, **DOMINANT)
    found["copies_accumulated"], _ = gradients(root, PAIR * 4, 2, 2, work, **DOMINANT)
    found["global"], trainer = gradients(root, MIXED, 2, 1, work, aux_stats="global", **DOMINANT)
    found["global_log"] = trainer.state.log_history[0]
    found["lopsided"], _ = gradients(root, LOPSIDED, 2, 1, work, aux_stats="global", **DOMINANT)
    found["asymmetric"] = asymmetric_gradients(root, work, ROWS * 2)
    for kind in ("sparse", "dense", "asymoe"):
        found[f"checkpointed_{kind}"] = train_few(root, work, kind)
    torch.save(found, work / f"rank{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    assert set(COLOURS)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
