"""Sessions with the small models, and a way to ask them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moiety.app.session import Said, Session
from moiety.vlm.model import load
from moiety.vlm.templates import load_processor
from tests import model_folders

Ask = Callable[..., list[Said]]


def new_session(model: Path, folder: Path | None = None) -> Session:
    folder = folder or model_folders.picture_file().parent
    return Session(load(model).eval(), load_processor(model, marks=False), folder)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A picture that the page of `session` received."""
    folder = tmp_path / "received"
    folder.mkdir()
    return Path(shutil.copy(model_folders.picture_file(), folder))


@pytest.fixture
def session(given: Path) -> Session:
    return new_session(model_folders.sparse_folder(), given.parent)


@pytest.fixture
def ask(session: Session, given: Path) -> Ask:
    """Everything that is shown while one question is answered."""

    def all_said(question: str | None, file: Path | str | None = None, longest: int = 4) -> list[Said]:
        return list(session.ask(str(file or given), question, longest))

    return all_said
