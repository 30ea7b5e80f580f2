"""What every test of the command line needs: a runner, folders, and a logger that is put back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from moiety.cli import app
from tests import model_folders


@pytest.fixture(autouse=True)
def _logger_put_back() -> Iterator[None]:
    """The door sets up the logger of the package, as a program may; other tests want it as it was."""
    logger = logging.getLogger("moiety")
    before = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = before
    logging.getLogger("moiety.vlm.upcycle").setLevel(logging.NOTSET)


@pytest.fixture
def moiety() -> Callable[..., Result]:
    """Run the command line; what is not caught there is raised here."""

    def run(*words: object, given: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], input=given, catch_exceptions=False)

    return run


@pytest.fixture(scope="session")
def dense() -> Path:
    return model_folders.dense_folder()


@pytest.fixture(scope="session")
def sparse() -> Path:
    return model_folders.sparse_folder()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two good rows beside their picture."""
    model_folders.picture().save(tmp_path / "picture.png")
    return model_folders.write_rows(
        tmp_path / "rows.jsonl",
        [
            model_folders.row("one", "Is there a red circle?", "yes", type="exist"),
            model_folders.row("two", "Where is the red circle?", "top left", type="place"),
        ],
    )
