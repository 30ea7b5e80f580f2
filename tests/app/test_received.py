"""Only what a page received is opened: no other file of the machine, and nothing that is no regular file."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moiety.app import received
from moiety.app.received import content_of, lies_in
from moiety.app.session import Session
from tests import model_folders
from tests.app.conftest import Ask

Place = Callable[[Path, Path], str]


def linked(inside: Path, outside: Path) -> str:
    (inside / "link.png").symlink_to(outside)
    return str(inside / "link.png")


def linked_folder(inside: Path, outside: Path) -> str:
    (inside / "folder").symlink_to(outside.parent)
    return str(inside / "folder" / outside.name)


def circle(inside: Path, outside: Path) -> str:
    (inside / "circle.png").symlink_to(inside / "circle.png")
    return str(inside / "circle.png")


def pipe(inside: Path, outside: Path) -> str:
    os.mkfifo(inside / "pipe.png")
    return str(inside / "pipe.png")


def a_socket(inside: Path, outside: Path) -> str:
    before = Path.cwd()
    os.chdir(inside)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket.png")
    finally:
        os.chdir(before)
    return str(inside / "socket.png")


def neighbour(inside: Path, outside: Path) -> str:
    """A folder whose name begins like that of the page."""
    folder = inside.with_name(inside.name + "-2")
    folder.mkdir()
    return str(outside.rename(folder / outside.name))


FOREIGN: dict[str, Place] = {
    "elsewhere": lambda inside, outside: str(outside),
    "upwards": lambda inside, outside: f"{inside}/../{outside.parent.name}/{outside.name}",
    "link": linked,
    "link to a folder": linked_folder,
    "circle": circle,
    "pipe": pipe,
    "socket": a_socket,
    "device": lambda inside, outside: "/dev/zero",
    "folder": lambda inside, outside: str(inside),
    "absent": lambda inside, outside: str(inside / "gone.png"),
    "NUL": lambda inside, outside: f"{inside}/a\0.png",
    "half a character": lambda inside, outside: f"{inside}/\ud800.png",
    "too long": lambda inside, outside: f"{inside}/{'x' * 5000}.png",
    "address": lambda inside, outside: f"file://{outside}",
    "neighbour": neighbour,
    "relative": lambda inside, outside: outside.name,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_the_page_did_not_receive_is_not_opened(
    session: Session, ask: Ask, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    outside = tmp_path / "private" / "holiday.png"
    outside.parent.mkdir()
    model_folders.picture(64).save(outside)
    monkeypatch.chdir(outside.parent)
    file = FOREIGN[name](given.parent, outside)
    (said,) = ask("Where?", file)
    assert said.is_error
    assert said.note.startswith("The picture ")
    assert said.note.endswith(" was not given to this page; upload it, or take one of the examples.")
    assert str(tmp_path) not in said.note
    assert len(said.note) < 140
    assert session.file is None
    assert not ask("And now?")[-1].is_error


def test_what_it_received_is_read_however_it_is_named(given: Path, tmp_path: Path) -> None:
    inside, expected = given.parent, given.read_bytes()
    (inside / "link.png").symlink_to(given)
    (tmp_path / "way").symlink_to(inside)
    for name in (given, inside / "link.png", inside / ".." / inside.name / given.name, tmp_path / "way" / given.name):
        assert content_of(name, inside) == content_of(str(name), tmp_path / "way") == expected
        assert lies_in(name, inside)
    assert not lies_in(tmp_path, inside)


def test_a_file_that_is_too_large_is_not_read_to_its_end(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "LARGEST_BYTES", 2**20)
    given.write_bytes(bytes(2**20))
    assert len(content_of(given, given.parent)) == 2**20
    given.write_bytes(bytes(2**20 + 1))
    with pytest.raises(ValueError, match=rf"the file {given.name} is larger than 1 MiB; make it smaller"):
        content_of(given, given.parent)


def uploaded(folder: Path, name: str, size: int, second: int) -> Path:
    file = folder / f"hash-{name}" / f"{name}.png"
    file.parent.mkdir()
    file.write_bytes(b"x" * size)
    os.utime(file, (second, second))
    return file


def test_the_oldest_uploads_are_dropped_and_examples_stay(tmp_path: Path) -> None:
    example = uploaded(tmp_path, "example", 500, 1)
    uploads = received.Uploads(tmp_path, most_files=3, most_bytes=100)
    files = [uploaded(tmp_path, name, 20, second) for second, name in enumerate("cab", 10)]
    assert uploads.drop_oldest() == 0
    files.append(uploaded(tmp_path, "d", 20, 20))
    assert uploads.drop_oldest() == 1, "too many files"
    assert [file.exists() for file in files] == [False, True, True, True]
    large = uploaded(tmp_path, "e", 75, 30)
    assert uploads.drop_oldest() == 2, "too many bytes"
    assert [file.exists() for file in files] == [False, False, False, True]
    assert large.exists()
    assert example.exists()


def test_every_upload_is_followed_by_a_look_at_the_limit(tmp_path: Path) -> None:
    uploads = received.Uploads(tmp_path, most_files=1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        uploaded(tmp_path, scope["name"], 1, scope["second"])
        if scope.get("breaks"):
            raise OSError("the visitor went away")

    limit = received.UploadLimit(app, uploads)
    post = {"type": "http", "method": "POST", "path": "/gradio_api/upload"}

    async def send_three() -> None:
        await limit({**post, "name": "a", "second": 1}, None, None)  # type: ignore[arg-type]
        await limit({**post, "path": "/elsewhere", "name": "b", "second": 2}, None, None)  # type: ignore[arg-type]
        assert len(list(tmp_path.rglob("*.png"))) == 2
        with pytest.raises(OSError, match="went away"):
            await limit({**post, "breaks": True, "name": "c", "second": 3}, None, None)  # type: ignore[arg-type]

    asyncio.run(send_three())
    assert [file.name for file in tmp_path.rglob("*.png")] == ["c.png"]
