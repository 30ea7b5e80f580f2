"""One small clip for all tests of the intent wing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.intent.clips.clip_files import write_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.6 s of pictures and sound; nobody writes to it."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")
