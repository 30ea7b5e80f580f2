"""``aux_stats: global`` over two gloo processes: the averaged gradient is that of one process with all tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing
from torch import distributed as dist

from moiety.moe.losses import auxiliary_losses
from moiety.moe.routers import resolve
from moiety.moe.trace import RoutingTrace
from moiety.recipe.recipe import MoESettings
from tests import apart  # noqa: F401  tells the fork server what to import

SETTINGS = MoESettings(aux_stats="global", aux_coef={"vision": 1.0, "text": 2.0}, z_loss_coef=0.1)
SHARES = (slice(0, 4), slice(4, 11))  # the second rank has neither as many tokens nor an image


def gradients(rows: slice) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    router, groups, _ = resolve(SETTINGS)
    module = router(groups, 8, SETTINGS).double()
    x, ids = torch.randn(11, 8).double(), torch.tensor([1, 1, 0, 1, 0, 0, 0, -1, 0, 0, 0])
    trace = RoutingTrace()
    trace.append(0, module(x[rows], ids[rows]))
    loss = auxiliary_losses(trace, groups, SETTINGS).total
    return loss.detach(), list(torch.autograd.grad(loss, list(module.parameters())))


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loss, grads = gradients(SHARES[rank])
    for grad in grads:  # what DDP and FSDP do
        dist.all_reduce(grad)
        grad /= 2
    torch.save((loss, grads), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.ranks
def test_two_processes_equal_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(worker, (str(tmp_path),), nprocs=2, start_method="forkserver")
    expected_loss, expected = gradients(slice(0, 11))
    for rank in range(2):
        loss, grads = torch.load(tmp_path / f"rank{rank}.pt")
        torch.testing.assert_close(loss, expected_loss)
        torch.testing.assert_close(grads, expected)
