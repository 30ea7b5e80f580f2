"""Hashes of the files that a stage depends on: the weights of its base model, and its pictures.

A file is read once and its hash is remembered. It is read again only if its size or one of its times has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from moiety.recipe.recipe import DataSettings
from moiety.records.saving import write_atomically
from moiety.vlm.rows import read_rows
from moiety.vlm.skips import NO_SKIPS, read_skips

MEMORY = ".digests.json"
ABSENT = "(absent)"
READ_BESIDE = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja"),
    *("preprocessor_config.json", "processor_config.json"),
)
"""Files of a model folder that decide, beside weights and config, what a stage reads."""


class FileDigests:
    """Hashes of files, remembered with size and times.

    Args:
        folder: Folder of the file ``.digests.json`` that stores the hashes. If that file is lost, all files are read
            again. If the folder does not exist, nothing is stored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.memory = Path(folder) / MEMORY
        self._known = self._read()

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Path -> short hash of its content; :data:`ABSENT` if the file does not exist."""
        stamps = {path: _stamp(path) for path in dict.fromkeys(paths)}
        keys = {path: str(path.resolve()) for path in stamps}
        new = [path for path, stamp in stamps.items() if stamp and self._known.get(keys[path], [])[:-1] != stamp]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # hashing releases the interpreter lock
            fresh = dict(zip(new, threads.map(digest_of, new), strict=True))
        self._known |= {keys[path]: [*(stamps[path] or []), digest] for path, digest in fresh.items()}
        if fresh and self.memory.parent.is_dir():
            self._known = {**self._read(), **self._known}  # another process may have added other files meanwhile
            write_atomically(self.memory, json.dumps(self._known))
        return {path: str(self._known[keys[path]][-1]) if stamp else ABSENT for path, stamp in stamps.items()}

    def _read(self) -> dict[str, list[int | str]]:
        try:
            tree = json.loads(self.memory.read_text(encoding="utf-8"))
            return {str(path): list(entry) for path, entry in tree.items()}
        except (OSError, ValueError, AttributeError, TypeError):  # lost or damaged: everything is read again
            return {}


def base_digests(folder: str | Path, digests: FileDigests) -> dict[str, str]:
    """File -> hash, for the weights of a model folder and for the files that its processor reads."""
    folder = Path(folder)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    files = [*weights, *(folder / name for name in READ_BESIDE if (folder / name).is_file())]
    found = digests.of(files)
    return {path.name: found[path] for path in files}


def picture_digests(settings: DataSettings, files: Sequence[str], digests: FileDigests) -> dict[str, str]:
    """Source of pictures -> hash of the whole tar, or of those pictures of a folder that the rows of a stage name.

    Args:
        settings: Section ``data``.
        files: Conversation files, relative to ``data.root``.
        digests: Hashes that were computed before.
    """
    root = Path(settings.root)
    folders = [name for name in settings.images if (root / name).is_dir()]
    tars = [name for name in settings.images if name not in folders]
    whole = digests.of(root / name for name in tars)
    found = {name: whole[root / name] for name in tars}
    if folders:
        skip = None if settings.skip is None else root / settings.skip
        names = sorted({name for file in files for name in _named(root / file, skip)})
        for folder in folders:
            # isfile raises no error for a name that no file can have
            named = {path: Path(name) for name in names if os.path.isfile(path := root / folder / name)}
            lines = [f"{named[path]}\0{digest}" for path, digest in digests.of(named).items()]
            found[folder] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return {name: found[name] for name in settings.images}


def without_later(then: Mapping[str, object], now: Mapping[str, object], later: Sequence[str]) -> dict[str, object]:
    """`now` without the fields of `later` that `then` does not have, so that older finished stages stay valid.

    Example:
        >>> without_later({"seed": 0}, {"seed": 0, "pictures": {}}, ["pictures"])
        {'seed': 0}
    """
    return {key: value for key, value in now.items() if key in then or key not in later}


def digest_of(path: Path) -> str:
    """Short hash of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _stamp(path: Path) -> list[int] | None:
    """Size and times of a file; None if there is no file. No program can set back the time of the last inode change."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _named(file: Path, skip: Path | None) -> tuple[str, ...]:
    """Pictures that the rows of a file name. They are read again after the file has changed."""
    return _names_in(file, skip, *(tuple(_stamp(path) or ()) for path in (file, skip) if path is not None))


@lru_cache(maxsize=64)
def _names_in(file: Path, skip: Path | None, *stamps: tuple[int, ...]) -> tuple[str, ...]:
    rows, _ = read_rows([file], read_skips(skip) if skip else NO_SKIPS)
    return tuple(dict.fromkeys(name for row in rows for name in row.images if isinstance(name, str)))
