"""How much memory a stage used at its peak, and that memory which is freed goes back to the system."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_GIB = 2**30
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Numbers of glibc's ``mallopt``, from its ``malloc.h``."""
_LARGE = 2**20


def return_freed_memory() -> bool:
    """Let glibc give the memory of every tensor from 1 MiB on back when it is freed; numbers do not change.

    By default glibc keeps freed blocks of up to 32 MiB. Then the activations of a step stay in the process beside the
    gradients, although no tensor is alive. The setting holds for the whole process. Variables ``MALLOC_...`` and
    ``GLIBC_TUNABLES`` of the user are respected. On a GPU, PyTorch's own allocator is at work, and nothing is changed.

    Returns:
        Whether the setting was made.
    """
    named = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if named or not sys.platform.startswith("linux") or torch.cuda.is_available():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(number, _LARGE) for number in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def reset_peak_memory() -> None:
    """Reset the peak, if the system can do so: on CUDA, and for this process on Linux."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        _CLEAR.write_text("5", encoding="ascii")  # resets the high-water mark of the resident set, nothing else
    except OSError:
        return  # on another system, or without permission, the peak is that of the whole process


def peak_memory_gib() -> float:
    """Peak since :func:`reset_peak_memory` in GiB: memory of the CUDA device, else the resident set of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / _GIB
    if _STATUS.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii", errors="ignore"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024 / _GIB
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
