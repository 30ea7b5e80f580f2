"""Files that a page received. It opens no other file, whatever a request names."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

LARGEST_BYTES = 64 * 2**20
"""Size of the largest file that a person may upload."""
_FLAGS = ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")  # each where the system has it


def content_of(file: str | Path, folder: Path) -> bytes:
    """Read a regular file that lies in `folder`; every other path is refused.

    Links are followed first, and their target must lie in the folder. The file is opened once and without waiting, so
    that a pipe or a device cannot block anybody. The opened file is checked, not its name.

    Args:
        file: Path as a request names it; it may be anything.
        folder: Where the page keeps uploaded files and its own examples.

    Raises:
        ValueError: it lies elsewhere, does not exist or is no regular file (one text for all three, so that a visitor
            does not learn which), or it is larger than :data:`LARGEST_BYTES`.
    """
    opened = None
    with contextlib.suppress(OSError):
        if (path := _inside(file, folder)) is not None:
            opened = _opened(path)
    if opened is None:
        raise ValueError(not_given(file))
    with os.fdopen(opened, "rb") as stream:
        content = stream.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"the file {_shown(file)} is larger than {LARGEST_BYTES // 2**20} MiB; make it smaller")
    return content


def lies_in(file: str | Path, folder: Path) -> bool:
    """Whether a file exists and lies in `folder`, after following links. Nothing is opened."""
    return _inside(file, folder) is not None


def not_given(file: object) -> str:
    """The error text for a file that is not opened."""
    return f"the picture {_shown(file)} was not given to this page; upload it, or take one of the examples"


def _inside(file: str | Path, folder: Path) -> Path | None:
    try:
        inside, found = folder.resolve(strict=True), Path(file).resolve(strict=True)
    except (OSError, ValueError, RuntimeError, TypeError):  # RuntimeError: links in a circle, ValueError: a NUL
        return None
    return found if found.is_relative_to(inside) else None


def _opened(path: Path) -> int | None:
    """A descriptor of a regular file; None for anything else."""
    if not stat.S_ISREG(path.lstat().st_mode):  # opening a device can already have an effect
        return None
    opened = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in _FLAGS))
    if stat.S_ISREG(os.fstat(opened).st_mode):
        return opened
    os.close(opened)
    return None


def _shown(file: object) -> str:
    name = str(file).replace("\\", "/").rsplit("/", 1)[-1]
    return name if len(name) <= 40 else f"{name[:39]}…"
