"""Ports, the command line, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

pytest.importorskip("openai", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

import uvicorn

from moiety.cli import app
from moiety.serve import require_packages
from moiety.serve.server import address_of, is_open_to_others, open_port
from tests import model_folders


def test_a_free_port_and_one_that_is_taken() -> None:
    with open_port("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert address_of(bound) == f"http://127.0.0.1:{port}"
        assert not is_open_to_others(bound)
        bound.listen()
        with pytest.raises(ValueError, match=rf"port {port} of 127.0.0.1 cannot be taken \(Address already in use\)"):
            open_port("127.0.0.1", port)
    with open_port("0.0.0.0", 0) as bound:
        assert is_open_to_others(bound)


def test_an_address_of_version_six() -> None:
    try:
        bound = open_port("::1", 0)
    except ValueError:
        pytest.skip("this machine has no address ::1")
    with bound:
        assert address_of(bound) == f"http://[::1]:{bound.getsockname()[1]}"


def test_an_address_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'no such host' is no address to listen on .*; give 127.0.0.1 or one of"):
        open_port("no such host", 0)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_serve_available", lambda: False)
    with pytest.raises(ImportError, match=r"pip install 'moiety\[serve\]'"):
        require_packages()


def test_mistakes_cost_one_line_and_no_loading(tmp_path: Path) -> None:
    def error(*words: object) -> str:
        result = CliRunner().invoke(app, ["serve", *map(str, words)], env={"EMPTY_KEY": ""})
        assert result.exit_code == 2, result.output
        assert result.stderr.count("\n") == 1
        return result.stderr

    folder = model_folders.sparse_folder()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot be taken (Address already in use); choose another one with --port" in error(
            folder, "--port", taken.getsockname()[1]
        )
    assert "--key-variable EMPTY_KEY: the environment holds no such variable" in error(
        folder, "--port", 0, "--key-variable", "EMPTY_KEY"
    )
    assert f"{tmp_path} has no config.json" in error(tmp_path, "--port", 0)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as at a terminal; what runs in the background is often started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_the_command_serves_until_ctrl_c() -> None:
    with open_port("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
    answers: list[httpx.Response] = []

    def use_and_stop() -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end and not answers:
            try:
                answers.append(httpx.get(f"http://127.0.0.1:{port}/v1/models"))
            except httpx.TransportError:
                time.sleep(0.05)
        if isinstance(getattr(signal.getsignal(signal.SIGINT), "__self__", None), uvicorn.Server):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=use_and_stop)
    thread.start()
    words = ["serve", str(model_folders.sparse_folder()), "--port", str(port), "--device", "cpu", "--host", "0.0.0.0"]
    result = CliRunner().invoke(app, words)
    thread.join()
    assert answers[0].json()["data"][0]["id"] == model_folders.sparse_folder().name
    assert result.exit_code == 130, result.output
    assert f"moiie answers at http://0.0.0.0:{port}/v1 (OpenAI's chat protocol); stop with Ctrl-C" in result.stderr
    assert (
        "warning: other machines can reach 0.0.0.0; anybody there may ask, because no --key-variable was given"
        in result.stderr
    )
    assert result.stderr.endswith("stopped\n")
