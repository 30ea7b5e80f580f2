"""Runs a second process beside a demo. It starts and ends with the demo."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread for torch in this block. A demo's matrices are too small for a second thread to help."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def second_process(module: str, argument: str, log: Path) -> Iterator[None]:
    """Let another process work while the block runs, and wait for it at the end.

    Args:
        module: Full name of a module. The process calls its function ``work`` with `argument`.
        argument: One text, such as a recipe as JSON.
        log: File for the output of the process.
    """
    command = [sys.executable, "-c", f"import sys, {module} as demo; demo.work(sys.argv[1])", argument]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file, subprocess.Popen(command, stdout=file, stderr=file) as worker:
        try:
            yield
        except BaseException:
            worker.terminate()  # the next call continues what the process had begun
            raise
    if worker.returncode:
        logger.warning("the second process stopped early, see %s; its runs are done here instead", log)


def stop_if_alone(first: int, what: str) -> None:
    """End this process if the one that started it is gone.

    Args:
        first: The value of ``os.getppid()`` when this process began.
        what: What stops, for the log.

    Raises:
        SystemExit: the first process is gone.
    """
    if os.getppid() != first:
        sys.exit(f"the demo that started this process is gone; {what}")
