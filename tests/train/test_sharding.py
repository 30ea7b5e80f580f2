"""Sharded parameters and experts spread over ranks give the gradients of one process (traps 20 and 24)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sharding_worker import ROWS
from toy import encoded, largest_difference, scratch_folder, sparse_model
from two_processes import run_in_two_processes

pytestmark = pytest.mark.ranks
WORKER = Path(__file__).with_name("sharding_worker.py")


@pytest.fixture(scope="module")
def alone(world: Path) -> dict[str, Any]:
    """Model of one process, its losses on each row, and the mean of their gradients."""
    model = sparse_model(world).train()
    dataset, collator = encoded(world, scratch_folder(world), ROWS)
    losses = [model(**collator([entry])).loss for entry in dataset]
    torch.stack(losses).mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"model": model, "losses": [loss.detach() for loss in losses], "gradients": gradients}


@pytest.fixture(scope="module")
def ranks(world: Path, alone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    work = tmp_path_factory.mktemp("sharding")
    alone["model"].save_pretrained(work / "sparse")
    return run_in_two_processes(WORKER, world, work)


@pytest.mark.parametrize("kind", ["sharded", "expert_parallel"])
def test_gradients_are_those_of_one_process(ranks: list[dict[str, Any]], alone: dict[str, Any], kind: str) -> None:
    for rank, seen in enumerate(ranks):
        torch.testing.assert_close(seen[kind]["loss"], alone["losses"][rank], rtol=1e-5, atol=0)
        # worst seen: 3.9e-6
        assert largest_difference(seen[kind]["gradients"], alone["gradients"]) < 1e-4


@pytest.mark.parametrize("kind", ["sharded", "expert_parallel"])
def test_every_parameter_is_really_sharded(ranks: list[dict[str, Any]], kind: str) -> None:
    for seen in ranks:
        assert len(seen[kind]["sharded"]) == seen[kind]["parameters"]
        assert seen[kind]["held"]
        assert set(seen[kind]["held"].values()) == {0.5}
