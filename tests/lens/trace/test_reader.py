"""A trace that is cut off, damaged, newer or no trace at all is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moiety.lens import read_trace, write_trace
from moiety.lens.trace.file import META
from tests import model_folders
from tests.lens.trace import traces

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "t.safetensors"
    traces.traced(traces.sparse(), path)
    return path


def head_of(path: Path) -> Tree:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    tree: Tree = json.loads(json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"][META])
    return tree


def changed(
    whole: Path, path: Path, *, head: Callable[[Tree], object] = lambda tree: None, **arrays: np.ndarray | None
) -> Path:
    """The trace with another head, and with arrays replaced, or left out where None is given."""
    tree, held = head_of(whole), load_file(whole)
    head(tree)
    held |= {name.replace("__", "."): array for name, array in arrays.items() if array is not None}
    for name in [name for name, array in arrays.items() if array is None]:
        del held[name.replace("__", ".")]
    save_file(held, path, metadata={META: json.dumps(tree)})
    return path


def test_what_is_written_can_be_written_again(whole: Path, tmp_path: Path) -> None:
    again = write_trace(read_trace(whole), tmp_path / "deep" / "t.safetensors")
    assert again.read_bytes() == whole.read_bytes()
    assert [path.name for path in again.parent.iterdir()] == ["t.safetensors"]


def test_types_are_small(whole: Path) -> None:
    kinds = {name: str(array.dtype) for name, array in load_file(whole).items()}
    assert kinds["prefill.index"] == kinds["prefill.group"] == kinds["picture.0.0"] == "uint8"
    assert kinds["prefill.weights"] == kinds["prefill.entropy"] == "float16"
    assert kinds["total.prefill.slots"] == "float64"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no trace at .*gone; make one with `moiety evaluate MODEL DATA --tr"):
        read_trace(tmp_path / "gone")


@pytest.mark.parametrize("kept", [0, 5, 400, -1])
def test_a_file_that_was_cut_off(whole: Path, tmp_path: Path, kept: int) -> None:
    (tmp_path / "t").write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"t is no safetensors file, or was cut off \(.*\); write it again with `moi"):
        read_trace(tmp_path / "t")


def test_other_kinds_of_files(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match="is no safetensors file, or was cut off"):
        read_trace(tmp_path / "t")
    weights = model_folders.sparse_folder() / "model.safetensors"
    with pytest.raises(ValueError, match="is a safetensors file without a routing trace; write"):
        read_trace(weights)


def test_a_newer_version(whole: Path, tmp_path: Path) -> None:
    path = changed(whole, tmp_path / "t", head=lambda tree: tree.update(version=2, further=1))
    with pytest.raises(ValueError, match="written by a newer moiety as version 2; this one reads up to 1: upgrade moi"):
        read_trace(path)


def test_damaged_heads(whole: Path, tmp_path: Path) -> None:
    save_file({"x": np.zeros(1)}, tmp_path / "t", metadata={META: "{"})
    with pytest.raises(ValueError, match=r"t has a damaged head \(Expecting property name"):
        read_trace(tmp_path / "t")
    with pytest.raises(
        ValueError, match=r"damaged head: trace: 1 problem\n  modell: unknown key; did you mean 'model'"
    ):
        read_trace(changed(whole, tmp_path / "t", head=lambda tree: tree.update(modell="x")))
    with pytest.raises(ValueError, match="damaged head: trace: 1 problem\n  scheme: missing"):
        read_trace(changed(whole, tmp_path / "t", head=lambda tree: tree.pop("scheme")))


def drop_a_word(tree: Tree) -> None:
    tree["questions"][1]["words"].pop()


def another_grid(tree: Tree) -> None:
    tree["questions"][2]["pictures"][0]["grid"] = [3, 4]


def an_expert_of_nobody(tree: Tree) -> None:
    tree["groups"][0]["admits"] = []


@pytest.mark.parametrize(
    ("head", "arrays", "said"),
    [
        (drop_a_word, {}, r"question 'r1': \d+ words for \d+ positions"),
        (another_grid, {}, r"question 'r2': 16 patches, but a grid of \(3, 4\)"),
        (an_expert_of_nobody, {}, "expert group 'vision' admits no modality"),
        (None, {"prefill__index": None}, "'prefill.index' is missing"),
        (None, {"picture__1__0": None}, r"'picture.1.0' is missing"),
        (None, {"asked": None}, "'asked' is missing"),
        (None, {"total__decode__slots": np.zeros((2, 2, 3))}, r"total.decode.slots has shape \(2, 2, 3\), expected"),
        (None, {"prefill__length": np.array([1, 2], np.int32)}, r"prefill.length has shape \(2,\), expected \(4,\)"),
        (None, {"prefill__entropy": np.zeros((2, 3), np.float16)}, r"prefill.entropy has shape \(2, 3\), expected"),
        (None, {"picture_of": np.zeros(3, np.int8)}, r"picture_of of question 'r0' has shape \(3,\), expected \("),
    ],
)  # fmt: skip
def test_files_that_contradict_themselves(
    whole: Path, tmp_path: Path, head: Any, arrays: dict[str, np.ndarray | None], said: str
) -> None:
    path = changed(whole, tmp_path / "t", head=head or (lambda tree: None), **arrays)
    with pytest.raises(ValueError, match=rf"contradicts itself: {said}.*; write it again with"):
        read_trace(path)


def test_an_expert_there_is_not(whole: Path, tmp_path: Path) -> None:
    index = load_file(whole)["prefill.index"].copy()
    index[0, 0, 0] = 4
    with pytest.raises(ValueError, match="prefill names expert 4 of 4, or an unknown modality"):
        read_trace(changed(whole, tmp_path / "t", prefill__index=index))
