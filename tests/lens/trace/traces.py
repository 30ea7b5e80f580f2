"""Small runs whose routing is traced, for tests of the file, of the page and of the command line."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from PIL import Image

from moiety.evaluate.run import answer_rows
from moiety.lens import SavedTrace, read_trace
from moiety.lens.trace.writer import TraceWriter
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import load
from moiety.vlm.rows import Row, Turn
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle
from tests import model_folders

HOSTILE = "</script><img src=x onerror=alert(1)> & 'so' \"on\" \u2028 \u00e9?"
QUESTIONS = ("Where is the red circle?", "Is there a blue square, or is there not?", HOSTILE, "top left?")
ENDS = list(range(0, 320, 4))  # so many tokens end an answer that answers of one batch differ in length
Both = tuple[Any, Any]


@functools.cache
def sparse() -> Both:
    """A model with two sparse layers of four experts, whose answers end early."""
    folder = model_folders.sparse_folder()
    return ending(load(folder)), load_processor(folder, marks=False)


@functools.cache
def deep() -> Both:
    """Another one with four sparse layers of six experts."""
    settings = MoESettings(scheme="vanilla", experts={"inter": 6}, layers="all", router_init_std=0.5)
    return ending(upcycle(load(model_folders.dense_folder()), settings)), sparse()[1]


@functools.cache
def single() -> Both:
    """A model whose first layer alone is sparse."""
    settings = MoESettings(scheme="moiie", layers=[0], router_init_std=0.5)
    return ending(upcycle(load(model_folders.dense_folder()), settings)), sparse()[1]


def ending(model: Any) -> Any:
    model.generation_config.eos_token_id = ENDS
    return model


def pictures() -> dict[str, Image.Image]:
    return {name: model_folders.picture(size).rotate(90 * size) for size, name in enumerate("abc", start=40)}


def rows(count: int = 4) -> list[Row]:
    return [
        Row(f"r{i}", (Turn("user", f"<image>\n{QUESTIONS[i % 4]}"), Turn("assistant", "yes")), ("abc"[i % 3],))
        for i in range(count)
    ]


def answer(both: Both, path: Path, asked: list[Row], *, limit: int = 100, **options: Any) -> dict[str, str]:
    """Let a model answer, and write the trace to `path`."""
    images: Any = pictures()
    watch = TraceWriter(path, *both, images, limit)
    options = {"max_new_tokens": 5, "batch_size": 3, **options}
    return answer_rows(*both, asked, images, watch=watch, **options)


def traced(both: Both, path: Path, **options: Any) -> SavedTrace:
    """The trace of four questions."""
    answer(both, path, rows(), **options)
    return read_trace(path)
