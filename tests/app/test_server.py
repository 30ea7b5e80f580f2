"""What would fail late is refused early; examples are real questions."""

from __future__ import annotations

import importlib.machinery
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from moiety.app.examples import write_examples
from moiety.app.server import check_app
from moiety.cli import app
from moiety.worlds.scenes import TYPES
from tests import model_folders


@pytest.fixture
def demo_app() -> Callable[..., Result]:
    return lambda *words: CliRunner().invoke(app, ["demo-app", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def _has_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as checks go: a module of that name is there."""
    module = type(sys)("gradio")
    module.__spec__ = importlib.machinery.ModuleSpec("gradio", None)
    monkeypatch.setitem(sys.modules, "gradio", module)


def test_a_missing_gradio_is_named_with_its_extra(
    demo_app: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = demo_app("no-model")
    assert (result.exit_code, result.stderr) == (
        2,
        'error: the app needs gradio, which is not installed: pip install "moiety[app]"\n',
    )


@pytest.mark.usefixtures("_has_gradio")
def test_a_port_that_is_taken_is_named(demo_app: Callable[..., Result]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = demo_app(model_folders.sparse_folder(), "--port", port)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: cannot listen at 127.0.0.1, port {port} (Address already in use); choose another --port, or --host "
        "127.0.0.1 for this machine alone and 0.0.0.0 for its network\n"
    )


@pytest.mark.usefixtures("_has_gradio")
def test_any_free_port_and_ports_that_are_none() -> None:
    assert check_app("127.0.0.1", 0) > 0
    with pytest.raises(ValueError, match=r"--port 70000: expected 1 to 65535, or 0 for any free port"):
        check_app("127.0.0.1", 70000)
    with pytest.raises(ValueError, match=r"cannot listen at 203\.0\.113\.7, port 0"):
        check_app("203.0.113.7", 0)


@pytest.mark.usefixtures("_has_gradio")
def test_a_folder_that_is_no_model(demo_app: Callable[..., Result], tmp_path: Path) -> None:
    result = demo_app(tmp_path, "--port", 0)
    assert result.exit_code == 2
    assert f"{tmp_path} has no config.json: it is no Hugging Face model folder" in result.stderr


def test_examples_are_one_of_each_kind(tmp_path: Path) -> None:
    examples = write_examples(tmp_path)
    assert len(examples) == len({file for file, _ in examples}) == len(TYPES)
    assert examples == write_examples(tmp_path)
    for file, question in examples:
        assert question.endswith("?")
        assert "<image>" not in question
        with Image.open(file) as picture:
            assert picture.size == (32, 32)
