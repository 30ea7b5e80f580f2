"""The memory of a stage: a pass without content against the same pass with real weights, and the words of the plan."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from moiety.recipe.recipe import MoESettings, Recipe, TrainSettings
from moiety.train import plan
from moiety.train.fake_pass import PassBytes, bytes_of_pass
from moiety.train.memory import StageMemory, largest_batch, memory_of, memory_table
from moiety.train.plan import encoder_of, rows_of, training_processor
from moiety.train.start import start_folder
from moiety.vlm.data import Collator
from moiety.vlm.model import config_of, load
from moiety.vlm.parameters import count_parameters, on_meta, stage_memory
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES, RELATIVES, Family
from tests.train.toy import recipe_for, write_world

ALL = ["projector", "embeddings", "decoder", "head", "router", "experts"]
KNOWN = FAMILIES | RELATIVES


def both(family: Family, settings: MoESettings | None, trains: list[Any], **train: Any) -> tuple[PassBytes, PassBytes]:
    """Bytes of a pass without content, and of the same pass with weights."""
    batch = family.batch("tI" + 40 * "t", "tItt", "tIttIt" + 9 * "t", "ttttt", labels=True)
    chosen, config = TrainSettings(**train), family.config()
    planned = bytes_of_pass(on_meta(config, settings), batch, trains, chosen, torch.float32)
    model = family.build()
    if settings is not None:
        model = upcycle(model, settings, in_place=True)
    return planned, bytes_of_pass(model, batch, trains, chosen, torch.float32)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_planned_bytes_are_those_of_a_real_pass_in_every_family(name: str) -> None:
    planned, real = both(KNOWN[name], MoESettings(layers="all"), ALL)
    assert planned == real
    assert planned.activations > planned.parameters, "or this batch would show nothing"


@pytest.mark.parametrize(
    "train",
    [
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"gradient_accumulation_steps": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("scheme", ["dense", "vanilla", "always_on"])
def test_planned_bytes_follow_the_settings_of_the_training(scheme: str, train: dict[str, Any]) -> None:
    settings = None if scheme == "dense" else MoESettings(scheme=scheme, layers="all")
    planned, real = both(FAMILIES["llava-llama"], settings, ALL, **train)
    assert planned == real
    plain = both(FAMILIES["llava-llama"], settings, ALL)[0]
    if "gradient_checkpointing" in train:
        assert planned.activations < 0.7 * plain.activations
    if "gradient_accumulation_steps" in train:
        assert planned.gradients == planned.optimizer // 2 > plain.gradients


@pytest.mark.parametrize("balance", ["bias", "both"])
def test_selection_biases_are_planned(balance: Any) -> None:
    planned, real = both(FAMILIES["llava-llama"], MoESettings(layers="all", balance=balance), ALL)
    assert planned == real


def test_frozen_parts_have_neither_gradients_nor_moments() -> None:
    planned, real = both(FAMILIES["llava-llama"], MoESettings(layers="all"), ["router", "experts"])
    assert planned == real
    whole = both(FAMILIES["llava-llama"], MoESettings(layers="all"), ALL)[0]
    assert planned.parameters == whole.parameters
    assert planned.optimizer < whole.optimizer


# -- a recipe ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("memory"))


def batch_of(recipe: Recipe, number: int, stage: int = 1) -> tuple[list[dict[str, torch.Tensor]], int, Path]:
    folder = start_folder(recipe)
    encoder = encoder_of(recipe, training_processor(recipe, folder))
    return largest_batch(rows_of(recipe.stages[stage], recipe), encoder, number), encoder.pad_token_id, folder


def test_the_plan_counts_every_part_of_a_stage(world: Path) -> None:
    recipe = recipe_for(world)
    found = plan(recipe)
    for number, (planned, moe) in enumerate(zip(found.stages, (None, recipe.moe), strict=True)):
        stage = recipe.stages[number]
        longest, pad, folder = batch_of(recipe, 4, number)
        model = load(folder)
        if moe is not None:
            model = upcycle(model, moe, in_place=True)
        real = bytes_of_pass(model, Collator(pad)(longest), stage.trains, stage.train, torch.float32)
        assert planned.memory.total == real.total / 2**30
        assert planned.memory.activations == real.activations / 2**30
        assert planned.memory.rows == 4
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(found)
    console.file.close()
    text = console.export_text()
    for word in (*StageMemory.PARTS, "longest row", "a batch of the longest rows"):
        assert word in " ".join(text.split())


def test_the_plan_of_asymoe_counts_its_own_losses(world: Path) -> None:
    recipe = recipe_for(world, moe={"scheme": "asymoe", "layers": "all", "asymoe": {"size_plan": "full"}})
    batch, pad, folder = batch_of(recipe, 4)
    stage = recipe.stages[1]
    planned = memory_of(config_of(folder), recipe.moe, stage, batch, pad, torch.float32)
    model = upcycle(load(folder), recipe.moe, in_place=True)
    real = bytes_of_pass(model, Collator(pad)(batch), stage.trains, stage.train, torch.float32)
    assert planned.activations == pytest.approx(real.activations / 2**30, rel=0.15)  # 0.87: real routing is not even
    assert planned.total == pytest.approx(real.total / 2**30, rel=0.15)


def test_the_batch_is_that_of_the_longest_rows(world: Path) -> None:
    recipe = recipe_for(world)
    encoder = encoder_of(recipe, training_processor(recipe, start_folder(recipe)))
    rows = rows_of(recipe.stages[1], recipe)
    lengths = sorted((len(encoder.encode(row)["input_ids"]) for row in rows), reverse=True)
    found = largest_batch(rows, encoder, 3)
    assert [len(row["input_ids"]) for row in found] == lengths[:3]
    assert len(largest_batch(rows[:2], encoder, 8)) == 2
    missing = dataclasses.replace(rows[0], images=("nowhere.png",))
    assert len(largest_batch([missing, *rows[1:3]], encoder, 3)) == 2


def test_what_cannot_be_worked_out_is_said(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_for(world)
    batch, pad, folder = batch_of(recipe, 4)
    config, stage = config_of(folder), recipe.stages[1].model_copy(update={"trains": ["experts"]})
    found = memory_of(config, None, stage, batch, pad, torch.float32)  # a dense model has no experts
    assert found.activations is None
    assert found.reason.startswith("nothing would learn")
    assert "its activations cannot be worked out: nothing would learn" in caplog.text
    none = memory_of(config, recipe.moe, stage, [], pad, torch.float32)
    assert (none.rows, none.length, none.reason) == (0, 0, "no row can be encoded")
    assert none.total == pytest.approx(stage_memory(count_parameters(config, recipe.moe), ["experts"]))
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(memory_table({"tune": none}))
    console.file.close()
    assert "tune: activations are unknown (no row can be encoded)" in console.export_text()


# -- the allocator -----------------------------------------------------------------------------------------------------
FREED = """
import json, re, sys, torch
from pathlib import Path
from moiety.train.resources import return_freed_memory
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
done = return_freed_memory() if sys.argv[1] == "set" else False
torch.ones(2**22) + 1  # 16 MiB, freed: glibc's limit rises
before = resident()
held = [torch.ones(2**20) for _ in range(64)]  # 4 MiB each
pin = torch.ones(2**8)
full = resident()
del held
print(json.dumps([done, full - before, resident() - before]))
"""


def freed(how: str, **environment: str) -> list[Any]:
    """Whether the setting was made, and MiB of 64 tensors before and after they are freed."""
    done = subprocess.run(
        [sys.executable, "-c", FREED, how],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone keeps freed memory so")
def test_freed_memory_goes_back_to_the_system() -> None:
    done, full, left = freed("set")
    assert done
    assert full > 250
    assert left < 20
    assert not freed("set", MALLOC_ARENA_MAX="2")[0], "what a user has set stays"
    assert not freed("no")[0]
