"""Writes files and folders so that a reader finds the whole old one or the whole new one, never a part."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds the whole old or the whole new text, even after a crash."""
    with whole_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def check_writable(path: str | Path, *, is_folder: bool = False) -> None:
    """Raise an error if a place cannot be written. Call this before the work starts; it leaves no file.

    Args:
        path: A file or a folder. It and the folders above it need not exist.
        is_folder: Whether `path` is a folder.

    Raises:
        OSError: `path` is a folder but should be a file, or the other way round, or the system refuses to write there.
    """
    path = Path(path)
    if path.exists() and path.is_dir() != is_folder:
        told = "a file, so nothing can be written below it; name a folder" if is_folder else "a folder; name a file"
        raise OSError(f"{path} is {told}")
    above = path.absolute() if is_folder else path.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise OSError(f"{path} cannot be written: {above} is a file, not a folder")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error} in {above}; name another place") from error


def refuse_existing(folder: str | Path, overwrite: bool) -> None:
    """Keep a folder that is there already.

    Raises:
        FileExistsError: `folder` exists, and nobody asked to replace it.
    """
    if Path(folder).exists() and not overwrite:
        raise FileExistsError(f"{folder} exists already; choose another destination or pass overwrite=True")


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A fresh folder to write into; it takes the place of `folder` when the block ends without an error.

    Files are flushed to disk before the exchange. After an error, or when the disk is full, `folder` is as it was.

    Args:
        folder: The folder that will hold what the block writes.

    Raises:
        OSError: writing failed; the text names the cause and says that an earlier folder is intact.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.writing-", dir=folder.parent))
    try:
        try:
            yield fresh
            _flush(fresh)
        except Exception as error:
            if not _is_failed_write(error):
                raise
            raise _unwritten(folder, error) from error
        fresh.chmod(0o755)
        _exchange(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A fresh file to write into; it takes the place of `path` when the block ends without an error.

    Missing folders above it are made. After an error `path` is as it was.

    Args:
        path: The file that shall hold what the block writes.

    Raises:
        OSError: writing failed; the text names the cause and says that an earlier file is intact.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".writing-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    fresh = Path(name)
    try:
        try:
            yield fresh
            _flush_one(fresh)
        except Exception as error:
            if not _is_failed_write(error):
                raise
            raise _unwritten(path, error) from error
        fresh.chmod(0o644)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _unwritten(place: Path, error: Exception) -> OSError:
    """The error for a failed write. It says whether `place` still exists."""
    kept = f"the earlier {place} is intact" if place.exists() else f"{place} was not made"
    return OSError(f"could not write {place}: {error}; {kept}. Is the disk full?")


def _is_failed_write(error: Exception) -> bool:
    """Whether `error` means that the system refused a write. safetensors has its own class for that."""
    return isinstance(error, OSError) or ("SafetensorError" in type(error).__name__ and "Error" in str(error))


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(fresh: Path, folder: Path) -> None:
    """Put `fresh` in the place of `folder`; if the last rename fails, the old folder is put back."""
    old = folder.parent / f"{fresh.name}.old"
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
