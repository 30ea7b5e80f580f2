"""Two model folders on disk, built once in a run: a small dense LLaVA from nothing, and the same made sparse."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import MoESettings, ScratchSettings
from moiety.vlm.model import load
from moiety.vlm.scratch import build_scratch
from moiety.vlm.upcycle import upcycle_folder

SIZES = ScratchSettings(
    vocab=320, hidden=32, ffn=48, layers=4, heads=2, vision_hidden=32, vision_ffn=48, vision_layers=1, vision_heads=2,
    image_size=32, patch_size=8,
)  # fmt: skip
TEXTS = ["Where is the red circle?", "top left", "bottom right", "Is there a blue square?", "yes", "no"]


@functools.cache
def _place() -> Path:
    place = Path(tempfile.mkdtemp(prefix="moiety-folders-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


@functools.cache
def dense_folder() -> Path:
    return build_scratch(SIZES, TEXTS * 20, _place() / "dense", template="plain")


def sparse_folder(scheme: str = "moiie") -> Path:
    folder = _place() / scheme
    if not folder.exists():
        upcycle_folder(dense_folder(), folder, MoESettings(scheme=scheme, router_init_std=0.5))
    return folder


@functools.cache
def asymoe_folder() -> Path:
    """The dense folder made sparse with evidence and Lorentz experts, whose gates say something from the start."""
    widths = {"hyp_dim": 8, "inter_ffn": 16, "vision_ffn": 16, "evidence_dim": 16, "context_dim": 32}
    settings = MoESettings(scheme="asymoe", router_init_std=0.5, asymoe=AsyMoESettings(**widths))
    upcycle_folder(dense_folder(), _place() / "asymoe", settings)
    model = load(_place() / "asymoe")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "alpha" in name or "router.score" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            if name.endswith("context_proj"):  # 0 in a copy of a dense FFN: nothing would be read
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(_place() / "asymoe")
    return _place() / "asymoe"


def picture(size: int = 48) -> Image.Image:
    """A red circle, top left, and a blue square, bottom right."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((size // 8, size // 8, size // 2, size // 2), fill="red")
    draw.rectangle((5 * size // 8, 5 * size // 8, 7 * size // 8, 7 * size // 8), fill="blue")
    return image


@functools.cache
def picture_file() -> Path:
    path = _place() / "picture.png"
    picture().save(path)
    return path


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(name: str, question: str, answer: str, **more: object) -> dict:
    """One question about the picture in the LLaVA form."""
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": "picture.png", "conversations": turns, **more}
