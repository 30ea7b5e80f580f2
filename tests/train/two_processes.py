"""Start a worker script in two gloo processes and read what each of them saw."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import torch

from tests import apart


def run_in_two_processes(worker: Path, root: Path, work: Path) -> list[dict[str, Any]]:
    """Contents of ``<work>/rank<r>.pt`` after ``worker root work`` ended well in both.

    They run all checks in one start, which costs most of the time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    logs = [work / f"rank{rank}.log" for rank in range(2)]
    processes = [
        apart.start(worker, root, work, log=log, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, log in enumerate(logs)
    ]
    try:
        ended = [apart.end_of(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert ended == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    return [torch.load(work / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
