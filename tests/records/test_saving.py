"""Folders are written whole or not at all, also when the disk refuses."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moiety.records.saving import check_writable, whole_file, whole_folder
from moiety.vlm.model import load
from tests.tiny import FAMILIES, sparse


def save(model: Any, folder: Path) -> None:
    with whole_folder(folder) as fresh:
        model.save_pretrained(fresh)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_place_is_tried_before_the_work_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("kept")
    for place, is_folder in (("a/b/c", True), ("a/b/c.json", False), ("file", False), (".", True)):
        check_writable(tmp_path / place, is_folder=is_folder)
    with pytest.raises(OSError, match=r"file is a file, so nothing can be written below it; name a folder"):
        check_writable(tmp_path / "file", is_folder=True)
    with pytest.raises(OSError, match=r"is a folder; name a file"):
        check_writable(tmp_path)
    for is_folder in (True, False):
        with pytest.raises(OSError, match=r"file/x cannot be written: .*/file is a file, not a folder"):
            check_writable(tmp_path / "file" / "x", is_folder=is_folder)

    def refused(**_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("moiety.records.saving.tempfile.TemporaryFile", refused)
    with pytest.raises(OSError, match=r"new cannot be written: Read-only file system in .*; name another place"):
        check_writable(tmp_path / "new")
    assert listing(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "deep" / "new") as fresh:
        (fresh / "part").mkdir()
        (fresh / "part" / "file").write_text("1")
        assert not (tmp_path / "deep" / "new").exists()
    assert (tmp_path / "deep" / "new" / "part" / "file").read_text() == "1"
    assert listing(tmp_path / "deep") == ["new"]
    with whole_folder(tmp_path / "deep" / "new") as fresh:
        (fresh / "other").write_text("2")
    assert listing(tmp_path / "deep" / "new") == ["other"]
    assert listing(tmp_path / "deep") == ["new"]


def test_an_error_leaves_the_earlier_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("old")

    def fail() -> None:
        with whole_folder(tmp_path / "model") as fresh:
            (fresh / "new").write_text("new")
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fail()
    assert listing(tmp_path / "model") == ["old"]
    assert listing(tmp_path) == ["model"]


def test_a_file_appears_whole_and_an_error_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.json"
    with whole_file(path) as fresh:
        fresh.write_text("old")
        assert not path.exists()
    assert path.read_text() == "old"

    def fail() -> None:
        with whole_file(path) as fresh:
            fresh.write_text("half")
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fail()
    assert path.read_text() == "old"
    assert listing(path.parent) == ["table.json"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """The system refuses files above 20 kB, as a full disk refuses any."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("earlier", [True, False])
def test_a_full_disk(tmp_path: Path, request: pytest.FixtureRequest, earlier: bool) -> None:
    model = sparse("llava-qwen2")
    if earlier:
        save(model, tmp_path / "model")
    request.getfixturevalue("small_disk")
    kept = "the earlier .* is intact" if earlier else "was not made"
    with pytest.raises(OSError, match=f"could not write .*model: .*{kept}. Is the disk full?"):
        save(model, tmp_path / "model")
    assert listing(tmp_path) == (["model"] if earlier else [])
    if earlier:
        batch = FAMILIES["llava-qwen2"].batch("tIt")
        torch.testing.assert_close(load(tmp_path / "model")(**batch).logits, model(**batch).logits, rtol=0, atol=0)


def by_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(40_000)}, path)


def by_numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(40_000))


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("write", [by_safetensors, by_numpy, lambda path: path.write_text("x" * 100_000)])
def test_one_file_on_a_full_disk(tmp_path: Path, write: Callable[[Path], object]) -> None:
    """Each library reports it in its own way; safetensors under a class of its own."""
    path = tmp_path / "trace.safetensors"
    path.write_text("earlier")

    def save_one() -> None:
        with whole_file(path) as fresh:
            write(fresh)

    with pytest.raises(OSError, match=rf"could not write {path}: .*; the earlier {path} is intact\. Is the disk full"):
        save_one()
    assert listing(tmp_path) == ["trace.safetensors"]
    assert path.read_text() == "earlier"


def test_another_error_of_the_block_stays_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), whole_file(tmp_path / "file"):
        raise ValueError("mine")
    assert listing(tmp_path) == []
