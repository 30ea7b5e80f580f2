"""Tiny conversations, pictures and processors for the tests of the data rooms."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from moiety.recipe.recipe import ScratchSettings
from moiety.vlm.rows import Row, parse_row
from moiety.vlm.scratch import scratch_processor

TEXTS = ["<image>\nWhich digit is at the top left?", "7", "What colour is the 7?", "red", "Describe both pictures."] * 3
SIZES = ScratchSettings(
    vocab=320,
    hidden=32,
    ffn=32,
    layers=2,
    heads=2,
    vision_hidden=32,
    vision_ffn=32,
    vision_layers=1,
    vision_heads=2,
    image_size=16,
    patch_size=8,
)
NUM_PATCHES = (SIZES.image_size // SIZES.patch_size) ** 2


@functools.cache
def shared_processor(template: str = "plain") -> Any:
    """A processor that tests only read."""
    return scratch_processor(SIZES, TEXTS, template)


def pictures(*names: str) -> dict[str, Image.Image]:
    """Pictures of one colour each, by name."""
    return {name: Image.new("RGB", (20, 12), (40 * number % 256, 90, 200)) for number, name in enumerate(names)}


def entry(*texts: str, image: str | list[str] | None = None, **fields: Any) -> dict[str, Any]:
    """A LLaVA row: texts alternate between human and gpt."""
    turns = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]
    return {"id": "a", "conversations": turns, **({} if image is None else {"image": image}), **fields}


def row(*texts: str, image: str | list[str] | None = None, **fields: Any) -> Row:
    return parse_row(entry(*texts, image=image, **fields), "rows.jsonl", 3)


def write_lines(path: Path, entries: Iterable[Any]) -> Path:
    path.write_text("\n".join(json.dumps(value) for value in entries), encoding="utf-8")
    return path
