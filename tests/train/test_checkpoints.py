"""A checkpoint is whole or it is none; weights fit or nothing is loaded."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moiety.train.checkpoints import (
    SEAL,
    CheckpointError,
    checkpoints_in,
    counters_of,
    drop_older,
    last_whole,
    load_weights,
    problem_of,
    seal,
)


def sealed(run: Path, step: int) -> Path:
    aside = run / ".writing" / f"checkpoint-{step}"
    aside.mkdir(parents=True)
    (aside / "model.safetensors").write_bytes(bytes(step))
    seal(aside, run / f"checkpoint-{step}", {"tokens": step})
    return run / f"checkpoint-{step}"


def test_steps_are_numbers_not_words(tmp_path: Path) -> None:
    for step in (8, 10, 9):
        sealed(tmp_path, step)
    (tmp_path / "checkpoint-final").mkdir()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-8", "checkpoint-9", "checkpoint-10"]
    assert last_whole(tmp_path) == tmp_path / "checkpoint-10"
    assert counters_of(tmp_path / "checkpoint-9") == {"tokens": 9}
    drop_older(tmp_path, 2)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_no_folder_no_checkpoint(tmp_path: Path) -> None:
    assert last_whole(tmp_path / "nowhere") is None


def cut(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"x")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "model.safetensors has 1 bytes, 10 were written"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda path: (path / SEAL).unlink(), f"no {SEAL}"),
        (lambda path: (path / SEAL).write_text("{"), f"{SEAL} is not readable"),
    ],
)
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage, said: str) -> None:
    earlier, torn = sealed(tmp_path, 9), sealed(tmp_path, 10)
    damage(torn)
    assert problem_of(torn) == said
    with caplog.at_level(logging.WARNING, "moiety"):
        assert last_whole(tmp_path) == earlier
    assert f"checkpoint-10 is torn ({said}) and ignored" in caplog.text
    assert counters_of(torn) == {}


def test_an_older_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    sealed(tmp_path, 9)
    assert problem_of(sealed(tmp_path, 9)) is None


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(3, 2)
        self.head = torch.nn.Linear(2, 3, bias=False)
        self.head.weight = self.table.weight


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    save_file({"table.weight": torch.full((3, 2), 4.0)}, tmp_path / "model.safetensors")
    model = Tied()
    load_weights(model, tmp_path)
    assert (model.head.weight == 4).all()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": torch.zeros(3, 2)}, r"1 missing \(bias\)"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "gate": torch.zeros(1)}, r"1 unexpected \(gate\)"),
        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}, r"1 other shape \(weight \(2, 2\)\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], said: str) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    model = torch.nn.Linear(2, 3)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=said + r".*resume with the recipe that wrote it"):
        load_weights(model, tmp_path)
    assert torch.equal(model.weight, before)


def test_corrupt_or_absent_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights \(\*\.safetensors\) in"):
        load_weights(torch.nn.Linear(2, 3), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is corrupt.*Delete"):
        load_weights(torch.nn.Linear(2, 3), tmp_path)
