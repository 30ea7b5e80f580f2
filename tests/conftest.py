"""Fixtures for every test: one thread, no network, seeds, and the folder with goldens where there is one."""

import gc
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from accelerate.utils import memory

from tests.goldens import SHARED

torch.set_num_threads(1)

# Scripts that tests start in processes of their own; collecting doctests would run them.
collect_ignore = ["vlm/fresh_process.py", "train/killed_worker.py", "train/rank_worker.py", "train/sharding_worker.py"]


gc.disable()  # imports and collection make little garbage and a million objects to walk over


def pytest_collection_finish() -> None:
    """Exempt what imports and collection made from garbage collection: every walk over it takes half a second."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _short_walks() -> Iterator[None]:
    """Trainers collect young garbage where accelerate asks for a walk over every object, 0.6 s after each training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "gc", SimpleNamespace(collect=partial(gc.collect, 1)))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # torch.manual_seed formats a traceback for every kind of device that is absent: a hundred times dearer
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with ``golden/`` and ``data/``: $MOIETY_SHARED, or ``shared`` beside the project; absent: skip."""
    if not SHARED.is_dir():
        pytest.skip(f"no golden numbers at {SHARED}; set MOIETY_SHARED to compare with them")
    return SHARED
