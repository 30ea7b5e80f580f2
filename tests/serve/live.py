"""A server in a thread, requests for it, and pictures as data URLs."""

from __future__ import annotations

import base64
import io
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from moiety.serve import Limits
from tests import model_folders

SHORT = Limits(max_new_tokens=6, max_body_bytes=4 * 2**20, max_images=4)


@contextmanager
def running(folder: Path, limits: Limits = SHORT, key: str | None = None) -> Iterator[Any]:
    """A server on a free port, with its address as ``server.url``; it has ended when the context is left."""
    from moiety.serve.answering import ChatHandler
    from moiety.serve.server import Server, address_of, open_port
    from moiety.vlm.model import load
    from moiety.vlm.templates import load_processor

    up = threading.Event()
    handler = ChatHandler(load(folder), load_processor(folder), "tiny", limits)
    server: Any = Server(handler, open_port("127.0.0.1", 0), key, up.set)
    server.url = address_of(server.bound)
    thread = threading.Thread(target=server.run, name="server")
    thread.start()
    try:
        assert up.wait(20)
        yield server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def client(server: Any, **more: Any) -> Any:
    """OpenAI's own client."""
    import openai

    return openai.OpenAI(**{"base_url": server.url + "/v1", "api_key": "none", "max_retries": 0, **more})


def data_url(image: Image.Image | None = None, kind: str = "png", **options: Any) -> str:
    buffer = io.BytesIO()
    (image or model_folders.picture()).save(buffer, kind.upper(), **options)
    return as_url(buffer.getvalue(), kind)


def as_url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def user(text: str, *urls: str) -> dict[str, Any]:
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has `side` x `side` pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def wait_until(true: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
