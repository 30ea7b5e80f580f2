"""A second process beside a demo: started with it, ended with it, and alone with no work of its own."""

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
    """Matrices of a demo's size gain nothing from a second thread; a second process does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def second_process(module: str, argument: str, log: Path) -> Iterator[None]:
    """Let another process work while the block runs; wait for it at the end.

    Args:
        module: Full name of a module whose function ``work`` takes `argument` and does what is there to do.
        argument: One text, such as a recipe as JSON.
        log: File for what the process says.
    """
    command = [sys.executable, "-c", f"import sys, {module} as demo; demo.work(sys.argv[1])", argument]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file, subprocess.Popen(command, stdout=file, stderr=file) as worker:
        try:
            yield
        except BaseException:
            worker.terminate()  # whatever it had begun is taken up by the next call
            raise
    if worker.returncode:
        logger.warning("the second process stopped early, see %s; its runs are done here instead", log)


def stop_if_alone(first: int, what: str) -> None:
    """End this process if the one that started it is gone.

    Args:
        first: ``os.getppid()`` when this process began.
        what: What stops, for its log.

    Raises:
        SystemExit: it is gone.
    """
    if os.getppid() != first:
        sys.exit(f"the demo that started this process is gone; {what}")
