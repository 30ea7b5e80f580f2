"""A config that describes too much is refused before anything is built."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from moiety.vlm.loading import read_config
from moiety.vlm.model import load
from tests import model_folders


def changed(folder: Path, base: Path, changes: Mapping[str, Any]) -> Path:
    """A copy of a model folder whose config says something else at dotted places."""
    shutil.copytree(base, folder)
    tree = json.loads((folder / "config.json").read_text())
    for path, value in changes.items():
        *way, last = path.split(".")
        place = tree
        for step in way:
            place = place[step]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


@pytest.mark.parametrize(
    ("place", "value", "most"),
    [
        ("text_config.hidden_size", 10**7, "1,048,576"),
        ("text_config.num_hidden_layers", 10**9, "10,000"),
        ("text_config.intermediate_size", 2**40, "1,048,576"),
        ("text_config.vocab_size", 10**12, "16,777,216"),
        ("vision_config.image_size", 10**6, "65,536"),
        ("vision_config.num_hidden_layers", 10**8, "10,000"),
        ("moe.experts.vision", 10**9, "16,384"),
        ("moe.expert_ffn", 10**9, "1,048,576"),
    ],
)
def test_a_number_beyond_any_model_is_named(tmp_path: Path, place: str, value: int, most: str) -> None:
    folder = changed(tmp_path / "model", model_folders.sparse_folder(), {place: value})
    with pytest.raises(ValueError, match=rf"says {place} {value:,}; at most {most} can be built$"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"text_config.hidden_size": 2**17},
        {"text_config.intermediate_size": 10**6},
        {"text_config.vocab_size": 10**7},
        {"vision_config.image_size": 60_000},
        {"vision_config.hidden_size": 10**6},
        {"moe.expert_ffn": 10**6},
        {"moe.experts.vision": 16_000},
    ],
)
def test_far_more_than_the_weights_hold_is_refused(tmp_path: Path, changes: Mapping[str, Any]) -> None:
    folder = changed(tmp_path / "model", model_folders.sparse_folder(), changes)
    with pytest.raises(
        ValueError,
        match=r"describes a model of more than [\d,]+ parameters, and the weights beside it hold [\d,]+; the folder is",
    ):
        load(folder)


def test_what_is_merely_wrong_is_left_to_those_who_compare_tensors(tmp_path: Path) -> None:
    folder = changed(tmp_path / "model", model_folders.sparse_folder(), {"moe.expert_ffn": 56})
    assert read_config(folder).moe["expert_ffn"] == 56
    with pytest.raises(ValueError, match="does not hold exactly this model"):
        load(folder)
