"""Fixtures for every test: one thread, no network, seeds, and the folder with goldens where there is one."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

from tests.goldens import SHARED

torch.set_num_threads(1)

# Scripts that tests start in processes of their own; collecting doctests would run them.
collect_ignore = ["vlm/fresh_process.py", "train/killed_worker.py", "train/rank_worker.py", "train/sharding_worker.py"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with ``golden/`` and ``data/``: $MOIETY_SHARED, or ``shared`` beside the project; absent: skip."""
    if not SHARED.is_dir():
        pytest.skip(f"no golden numbers at {SHARED}; set MOIETY_SHARED to compare with them")
    return SHARED
