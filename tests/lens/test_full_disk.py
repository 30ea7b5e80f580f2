"""What a full disk leaves behind: the file is named, and what was written before is kept."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from moiety.evaluate.predictions import PredictionFile
from moiety.lens.draw.figure import save


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system refuses larger files, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_figure_is_whole_or_absent(tmp_path: Path) -> None:
    figure = Figure()
    figure.subplots().plot([0, 1])
    with no_file_above(100), pytest.raises(OSError, match=rf"could not write {tmp_path}/a\.png: .*Is the disk full\?"):
        save(figure, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_answers_before_a_full_disk_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    PredictionFile(path, {}).add({"one": "yes"})
    size = path.stat().st_size
    with (
        no_file_above(size + 10),
        pytest.raises(OSError, match=rf"could not write {path}: .* written before are kept\. Free some space"),
    ):
        PredictionFile(path, {}).add({"two": "no"})
    assert PredictionFile(path, {}).answers == {"one": "yes"}
    assert path.stat().st_size == size
