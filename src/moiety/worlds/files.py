"""What every made world writes: conversation rows as JSON lines, pictures in a tar whose bytes depend on them alone."""

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
    """Where a written world lies.

    Args:
        folder: Everything is below it.
        images: Tars with all pictures.
        conversations: Split -> conversation file; ``train`` and ``test`` are always there.
    """

    folder: Path
    images: tuple[Path, ...]
    conversations: Mapping[str, Path]


def files_in(folder: Path, splits: Sequence[str]) -> WorldFiles:
    """Names of the files of a world: one conversation file a split, pictures for training and for the test."""
    conversations = {split: folder / f"conversations-{split}.jsonl" for split in splits}
    return WorldFiles(folder, (folder / "images-train.tar", folder / "images-test.tar"), conversations)


def question_row(name: str, image: str, question: str, answer: str, kind: str, split: str) -> dict[str, Any]:
    """One question about one picture, LLaVA style.

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
    """One row a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_pictures(path: Path, pictures: Iterable[tuple[str, Image.Image]]) -> None:
    """An uncompressed tar without times or owners, so that equal pictures give equal files."""
    with tarfile.open(path, "w:") as tar:
        for name, picture in pictures:
            content = io.BytesIO()
            picture.save(content, "PNG")
            member = tarfile.TarInfo(name)
            member.size = content.tell()
            content.seek(0)
            tar.addfile(member, content)
