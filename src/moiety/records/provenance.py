"""Records how a result was made: the command, the commit, the versions and the machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch


def provenance() -> dict[str, Any]:
    """Command, commit, versions and machine, as plain JSON values."""
    return {
        "command": " ".join(sys.argv),
        "commit": commit(Path(__file__).parent),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("moiety", "torch", "transformers", "scikit-learn", "numpy")},
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def commit(folder: Path) -> str | None:
    """The commit of the git work tree that holds `folder`, with ``+changes`` if files differ. None: no tree."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        # An installed package may lie inside another repository, which does not track the package's files.
        if not _git(folder, "ls-files", "."):
            return None
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def file_digests(root: str | Path, names: Iterable[str]) -> dict[str, str]:
    """Name -> short hash of its content, for files relative to `root`."""
    return {name: hashlib.sha256((Path(root) / name).read_bytes()).hexdigest()[:16] for name in names}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
