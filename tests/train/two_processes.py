"""Start a worker script in two gloo processes and read what each of them saw."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def run_in_two_processes(worker: Path, root: Path, work: Path) -> list[dict[str, Any]]:
    """Contents of ``<work>/rank<r>.pt`` after ``worker root work`` ended well in both.

    They run all checks in one start, which costs most of the time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    source = str(Path(__file__).parents[2] / "src")
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    logs = [open(work / f"rank{rank}.log", "w") for rank in range(2)]  # noqa: SIM115
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(root), str(work)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        for rank, errors in enumerate(logs)
    ]
    try:
        ended = [process.wait(timeout=240) for process in processes]
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    assert ended == [0, 0], "\n".join(Path(log.name).read_text()[-3000:] for log in logs)
    return [torch.load(work / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
