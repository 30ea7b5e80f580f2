"""The files of synthetic worlds: conversation rows as JSON lines, and pictures in a tar with reproducible bytes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class WorldFiles:
    """The files of a world.

    Args:
        folder: Folder with all files.
        images: Tars with all pictures.
        conversations: Split -> conversation file; always with ``train`` and ``test``.
    """

    folder: Path
    images: tuple[Path, ...]
    conversations: Mapping[str, Path]


def files_in(folder: Path, splits: Sequence[str]) -> WorldFiles:
    """Names of the files of a world: one conversation file for each split, and pictures for training and test."""
    conversations = {split: folder / f"conversations-{split}.jsonl" for split in splits}
    return WorldFiles(folder, (folder / "images-train.tar", folder / "images-test.tar"), conversations)


def question_row(name: str, image: str, question: str, answer: str, kind: str, split: str) -> dict[str, Any]:
    """One question about one picture, in the format of LLaVA.

    Example:
        >>> question_row("a-1", "a/1.png", "Which digit?", "7", "digit", "test")["conversations"][0]["value"]
        '<image>\\nWhich digit?'
    """
    return {
        "id": name,
        "image": image,
        "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}],
        "type": kind,
        "split": split,
        "answers": [answer],
    }


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_pictures(path: Path, pictures: Iterable[tuple[str, Image.Image]]) -> None:
    """Write an uncompressed tar without times or owners, so that equal pictures give equal files."""
    with tarfile.open(path, "w:") as tar:
        for name, picture in pictures:
            content = io.BytesIO()
            picture.save(content, "PNG")
            member = tarfile.TarInfo(name)
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)
