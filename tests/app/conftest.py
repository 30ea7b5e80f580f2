"""Sessions with the small models, and a way to ask them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moiety.app.session import Said, Session
from moiety.vlm.model import load
from moiety.vlm.templates import load_processor
from tests import model_folders

Ask = Callable[..., list[Said]]


def new_session(folder: Path) -> Session:
    return Session(load(folder).eval(), load_processor(folder, marks=False))


@pytest.fixture
def session() -> Session:
    return new_session(model_folders.sparse_folder())


@pytest.fixture
def ask(session: Session) -> Ask:
    """Everything that is shown while one question is answered."""

    def all_said(question: str | None, file: Path | str | None = None, longest: int = 4) -> list[Said]:
        return list(session.ask(str(file or model_folders.picture_file()), question, longest))

    return all_said
