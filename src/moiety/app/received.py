"""Files that a page received. It opens no other file, whatever a request names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LARGEST_BYTES = 64 * 2**20
"""Size of the largest file that a person may upload."""
MOST_FILES = 500
"""Number of uploaded files that a page keeps; the oldest ones are deleted."""
MOST_BYTES = 2**30
"""Bytes of all uploaded files that a page keeps; the oldest ones are deleted."""
_FLAGS = ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")  # each where the system has it


class NotGiven(ValueError):
    """A request names a file that the page did not receive; the text is safe to show to a visitor."""


class Uploads:
    """The files that people uploaded to one page. Files that lie in its folder from the start are never deleted.

    Args:
        folder: Where the page keeps uploaded files and its own examples.
        most_files: Number of uploaded files that are kept.
        most_bytes: Bytes of all uploaded files together that are kept.
    """

    def __init__(self, folder: Path, most_files: int = MOST_FILES, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self.most_files, self.most_bytes = folder, most_files, most_bytes
        self._examples = set(_files(folder))

    def drop_oldest(self) -> int:
        """Delete the oldest files until the rest is within both limits.

        Returns:
            The number of deleted files.
        """
        found = []
        for path in set(_files(self.folder)) - self._examples:
            with contextlib.suppress(OSError):  # another request deleted it meanwhile
                found.append((path.lstat().st_mtime_ns, path.lstat().st_size, path))
        num_files, num_bytes, dropped = len(found), sum(size for _, size, _ in found), 0
        for _, size, path in sorted(found):
            if num_files <= self.most_files and num_bytes <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            num_files, num_bytes, dropped = num_files - 1, num_bytes - size, dropped + 1
        return dropped


class UploadLimit:
    """Deletes the oldest uploads after each upload.

    Args:
        app: The web application behind it.
        uploads: The files of the page.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        try:
            await self.app(scope, receive, send)
        finally:  # an upload that broke off leaves a file, too
            if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/upload"):
                await asyncio.to_thread(self.uploads.drop_oldest)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


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
        raise NotGiven(not_given(file))
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
