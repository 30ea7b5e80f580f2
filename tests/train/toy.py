"""A world of coloured pictures small enough to train on in seconds, and recipes over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import TrainerCallback

from moiety.recipe.recipe import MoESettings, Recipe, TrainSettings, parse_recipe
from moiety.train import MoietyTrainer, training_arguments
from moiety.train.start import start_folder
from moiety.vlm.data import Collator, Encoder
from moiety.vlm.images import Images
from moiety.vlm.model import load
from moiety.vlm.parts import part_of
from moiety.vlm.rows import parse_row
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (250, 250, 250)}
SCRATCH = {
    "vocab": 320, "hidden": 32, "ffn": 48, "layers": 2, "heads": 2, "vision_hidden": 32, "vision_ffn": 48,
    "vision_layers": 1, "vision_heads": 2, "image_size": 16, "patch_size": 8,
}  # fmt: skip
FAST = {
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 4,
    "logging_steps": 4,
    "save_steps": 4,
    "warmup_ratio": 0.0,
    "lr_scheduler_type": "constant",
}


def write_world(root: Path, *, repeats: int = 2) -> Path:
    """Pictures, captions and questions; every fourth question row is text only."""
    (root / "pictures").mkdir(parents=True, exist_ok=True)
    captions, questions = [], []
    for name, rgb in COLOURS.items():
        Image.new("RGB", (16, 16), rgb).save(root / "pictures" / f"{name}.png")
        for number in range(repeats):
            captions.append(row(f"c-{name}-{number}", f"{name}.png", "Describe it.", f"all {name}"))
            questions.append(row(f"q-{name}-{number}", f"{name}.png", "Which colour?", name))
        questions.append(row(f"t-{name}", None, f"Repeat the word {name}.", f"{name} {name}"))
    write_lines(root / "captions.jsonl", captions)
    write_lines(root / "questions.jsonl", questions)
    return root


def row(name: str, image: str | None, question: str, answer: str) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<image>\n{question}" if image else question},
        {"from": "gpt", "value": answer},
    ]
    return {"id": name, "conversations": turns} | ({"image": image} if image else {})


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe_for(root: Path, *, steps: int = 8, **sections: Any) -> Recipe:
    """Stage `align` trains everything dense on captions, stage `tune` is sparse on questions."""
    tree = {
        "name": "toy",
        "output": str(root / "runs"),
        "model": {"scratch": SCRATCH},
        "data": {"root": str(root), "images": ["pictures"]},
        "stages": [
            stage("align", ["captions.jsonl"], ["vision_tower", "projector", "embeddings", "decoder", "head"], steps),
            stage("tune", ["questions.jsonl"], ["projector", "decoder", "router", "experts"], steps, sparse=True),
        ],
    }
    return parse_recipe({**tree, **sections})


def stage(name: str, data: list[str], trains: list[str], steps: int, **more: Any) -> dict[str, Any]:
    train = {**FAST, "max_steps": steps, **more.pop("train", {})}
    return {"name": name, "data": data, "trains": trains, "train": train, **more}


def scratch_folder(root: Path) -> Path:
    """The dense model that recipes over `root` start from."""
    return start_folder(recipe_for(root))


def sparse_model(root: Path, *, noise: float = 0.05, **moe: Any) -> Any:
    """The scratch model made sparse, its experts already a little different, so that routers matter at once."""
    model = upcycle(load(scratch_folder(root)), MoESettings(**{"router_init_std": 0.5, **moe}), in_place=True)
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if part_of(name) == "experts":
            parameter.data += noise * torch.randn_like(parameter)
    return model


def encoded(root: Path, folder: Path, rows: list[dict[str, Any]]) -> tuple[list[dict[str, torch.Tensor]], Collator]:
    """Rows as a trainer wants them."""
    encoder = Encoder(load_processor(folder), Images([root / "pictures"]), 64)
    return [encoder.encode(parse_row(entry)) for entry in rows], Collator(encoder.pad_token_id)


class KeepsGradients(TrainerCallback):
    """Copies every gradient just before the first optimizer step."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor | None] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not self.found:
            bare = getattr(model, "module", model)
            self.found = {
                name: None if parameter.grad is None else parameter.grad.clone()
                for name, parameter in bare.named_parameters()
                if parameter.requires_grad
            }


def gradients(
    root: Path,
    rows: list[dict[str, Any]],
    batch: int,
    accumulation: int,
    work: Path,
    cls: type[MoietyTrainer] = MoietyTrainer,
    **moe: Any,
) -> tuple[dict[str, torch.Tensor | None], MoietyTrainer]:
    """Gradients of the first optimizer step over `rows` in their order, and the trainer that made them."""
    model, keeps = sparse_model(root, **moe), KeepsGradients()
    dataset, collator = encoded(root, scratch_folder(root), rows)
    settings = TrainSettings(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=1)
    args = training_arguments(
        settings, work, quiet=True, train_sampling_strategy="sequential", max_grad_norm=0.0, save_strategy="no"
    )
    trainer = cls(model, args, train_dataset=dataset, data_collator=collator, callbacks=[keeps])
    trainer.train()
    return keeps.found, trainer


def largest_difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Over all parameters, relative to the largest gradient of each.

    Parameters without influence (biases of attention keys) have nothing but rounding; they are measured against the
    largest gradient of all.
    """
    assert a.keys() == b.keys()
    floor = 1e-3 * max(gradient.abs().max().item() for gradient in b.values())
    return max((a[n] - b[n]).abs().max().item() / max(b[n].abs().max().item(), floor) for n in a)
