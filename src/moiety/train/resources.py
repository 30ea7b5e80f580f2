"""How much memory a stage used at its peak."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_GIB = 2**30


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
