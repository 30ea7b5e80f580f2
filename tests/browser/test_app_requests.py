"""The page as a stranger on the network meets it: requests by hand to a real process, no browser."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from moiety.app.refusals import UNREADABLE
from tests import model_folders
from tests.browser.processes import running

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason='no gradio: pip install "moiety[app]"'),
]
META = {"_type": "gradio.FileData"}
NOT_GIVEN = "was not given to this page; upload it, or take one of the examples"


class Visitor:
    """Somebody who speaks the protocol of the page without its buttons."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.questions = next(
            wire["id"] for wire in httpx.get(f"{address}config").json()["dependencies"] if len(wire["inputs"]) == 6
        )

    def upload(self, file: Path) -> str:
        answer = httpx.post(f"{self.address}gradio_api/upload", files={"files": (file.name, file.read_bytes())})
        return str(answer.json()[0])

    def ask(self, picture: Any, longest: int = 2, question: Any = "Where?") -> str:
        """Everything that the page says to one question, as JSON."""
        name = secrets.token_hex(4)
        asked = {"data": [None, picture, question, longest, 1, 70], "fn_index": self.questions, "session_hash": name}
        httpx.post(f"{self.address}gradio_api/queue/join", json=asked).raise_for_status()
        said = []
        query = {"session_hash": name}
        with httpx.stream("GET", f"{self.address}gradio_api/queue/data", params=query, timeout=60) as lines:
            for line in lines.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                said.append(json.dumps(message.get("output"), ensure_ascii=False))
                if message.get("msg") == "process_completed":
                    break
        return "".join(said)


@pytest.fixture(scope="module")
def visitor() -> Iterator[Visitor]:
    with running("demo-app", model_folders.sparse_folder(), "--port", 0, "--allow-host", "pictures.lan") as program:
        yield Visitor(program.wait_for("open ").split()[1])


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A harmless picture that nobody gave to the page."""
    file = tmp_path / "holiday.png"
    model_folders.picture(64).save(file)
    return file


def test_pictures_of_the_machine_are_not_shown(visitor: Visitor, private: Path) -> None:
    own = visitor.upload(model_folders.picture_file())
    assert "tokens read" in visitor.ask({"path": own, "meta": META})
    assert "tokens read" in visitor.ask({"path": own})
    os.mkfifo(private.with_name("pipe.png"))
    (private.parent / "link.png").symlink_to(private)
    upwards = f"{Path(own).parent}/../../{os.path.relpath(private, Path(own).parents[2])}"
    for path in (private, private.with_name("pipe.png"), private.with_name("link.png"), upwards, f"file://{private}"):
        for more in ({}, {"meta": META}, {"is_stream": True}, {"is_stream": True, "meta": META}):
            said = visitor.ask({"path": str(path), **more})
            assert NOT_GIVEN in said or UNREADABLE in said, (path, more)
            assert "tokens read" not in said
            assert "data:image" not in said


def test_no_address_is_fetched_for_anybody(visitor: Visitor) -> None:
    picture = {"path": "http://127.0.0.1:9/a.png", "meta": META}
    assert f"the picture a.png {NOT_GIVEN}" in visitor.ask(picture)
    own = {"path": visitor.upload(model_folders.picture_file()), "meta": META}
    assert f"the picture a.png {NOT_GIVEN}" in visitor.ask(own, question=picture)


def test_requests_for_another_name_are_refused(visitor: Visitor) -> None:
    def status(host: str) -> int:
        return httpx.get(f"{visitor.address}config", headers={"host": host}).status_code

    assert [status(name) for name in ("localhost", "[::1]:80", "Pictures.LAN:7860")] == [200, 200, 200]
    assert [status(name) for name in ("elsewhere.example", "pictures.lan.example", "")] == [403, 403, 403]


def test_a_long_answer_keeps_nobody(visitor: Visitor) -> None:
    own = {"path": visitor.upload(model_folders.picture_file()), "meta": META}
    slow = threading.Thread(target=visitor.ask, args=(own, 150))
    slow.start()
    assert ", 2 made in" in visitor.ask(own, 2)
    assert slow.is_alive()
    slow.join(60)
