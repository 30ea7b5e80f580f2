"""One entry of an official file: what must be in it, the words that end a prompt, where its pictures lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.yes_no import SHORT_ANSWER
from moiety.saving import write_atomically
from moiety.vlm.images import Images


def entry_with(entry: Any, keys: Iterable[str], place: str) -> dict[str, Any]:
    """`entry` itself, once it is an object that has `keys`.

    Raises:
        ValueError: it is not.

    Example:
        >>> entry_with({"question": "Why?"}, ["question"], "questions.json:1")
        {'question': 'Why?'}
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{place}: expected an object, got {entry!r:.60}; is this the official file?")
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(
            f"{place} lacks {', '.join(map(repr, missing))}; it has {', '.join(map(repr, entry))}: "
            "is this the official file?"
        )
    return entry


def list_in(document: Any, path: Path, key: str | None = None) -> list[Any]:
    """The list of entries of a whole file, under `key` where one is given.

    Raises:
        ValueError: there is none.
    """
    entries = document.get(key) if key is not None and isinstance(document, dict) else document
    if not isinstance(entries, list):
        what = "a list" if key is None else f"a list under {key!r}"
        raise ValueError(f"{path}: expected {what}, got {type(entries).__name__}; is this the official file?")
    return entries


def asked_shortly(question: str) -> str:
    """The question and, on a line of its own, the sentence with which the LLaVA line asks for a short answer."""
    return f"{question}\n{SHORT_ANSWER}"


def pictures_below(*folders: str) -> Callable[[Path], Images]:
    """Pictures in the benchmark's folder and in those of `folders` below it that are there; ``.tar`` files likewise."""

    def found(folder: Path) -> Images:
        return Images([folder, *(folder / name for name in folders if (folder / name).exists())])

    return found


def write_document(path: Path, document: Any) -> None:
    """One JSON document, whole or not at all. In ASCII, so that no answer, however broken, stops it."""
    write_atomically(path, json.dumps(document, indent=1) + "\n")
