"""Processes of their own for tests, forked from one that imported the packages once: imports take seconds, a fork none.

The process that is forked (the fork server of Python's multiprocessing) does nothing but import, so a new one knows
nothing of the tests that ran before. A test that asks what an import does starts a fresh interpreter instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["moiety.train", "moiety.vlm.templates", "moiety.intent", "tests.apart"])


def start(script: Path, *words: object, log: Path, environment: Mapping[str, str] | None = None) -> BaseProcess:
    """A process that runs a script as its main program.

    Args:
        script: File with Python code.
        words: Its arguments.
        log: File that gets what it prints and its errors.
        environment: Variables that it sees in addition to those of the first process that was started.
    """
    process = FORKED.Process(target=_run, args=(str(script), [*map(str, words)], str(log), dict(environment or {})))
    process.start()
    return process


def end_of(process: BaseProcess, timeout: float = 240) -> int | None:
    """Its exit code, negative for a signal; it is killed after `timeout` seconds."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def _run(script: str, words: list[str], log: str, environment: dict[str, str]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")
