"""Feature pickles are read without running what is in them (P20)."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moiety.intent.data.pickles import FeatureFileError, read_feature_pickle


def write(path: Path, tree: Any, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(tree, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_feature_files_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    frames = np.arange(6, dtype=np.float64).reshape(3, 2)
    tree = OrderedDict(
        plain=frames, listed=[row[None].astype(np.float32) for row in frames], tensor=torch.from_numpy(frames),
        fortran=np.asfortranarray(frames), whole=frames.astype(np.int64),
    )  # fmt: skip
    found = read_feature_pickle(write(tmp_path / "f.pkl", tree, protocol))
    assert all(array.dtype == np.float32 and (array == frames).all() for array in found.values())
    assert list(found) == list(tree)


def test_names_of_numpy_1_are_understood(tmp_path: Path) -> None:
    old = pickle.dumps({"a": np.ones((2, 3))}, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "old.pkl").write_bytes(old)
    assert read_feature_pickle(tmp_path / "old.pkl")["a"].shape == (2, 3)


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "function", [os.system, eval, os.getenv, io.open, torch.load, np.load], ids=lambda f: f.__name__
)
def test_code_in_a_pickle_is_refused_by_name_and_never_runs(tmp_path: Path, function: Any, protocol: int) -> None:
    mark = tmp_path / "ran"
    path = write(tmp_path / "h.pkl", {"a": Hostile(function, f"touch {mark}")}, protocol)
    with pytest.raises(FeatureFileError, match=r"h.pkl is refused: it names .*anything else could run code"):
        read_feature_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": np.array([["x"]], dtype=object)}, "'a': numbers expected, got object"),
        ({"a": np.zeros(3)}, r"'a': shape \(3,\), expected \(frames, dim\)"),
        ({"a": np.full((1, 2), np.inf)}, "'a': not finite"),
        ({"a": np.zeros((1, 2)), "b": np.zeros((1, 3))}, r"widths differ: \[2, 3\]"),
        ({"a": "text"}, "'a': str instead of an array"),
        ({1: np.zeros((1, 2))}, "1: key is int"),
        ({"a": [np.zeros((1, 2)), np.zeros((1, 3))]}, "'a': a list of unequal parts"),
        ([1, 2], "holds list, expected a dict"),
        ({str(n): "x" for n in range(9)}, "and 4 more"),
    ],
)
def test_wrong_contents_are_named_by_key(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(FeatureFileError, match=message):
        read_feature_pickle(write(tmp_path / "w.pkl", tree))


@pytest.mark.parametrize("cut", [0, 1, 10, 60, 100])
def test_torn_files_are_named(tmp_path: Path, cut: int) -> None:
    whole = pickle.dumps({"a": np.ones((2, 3))})
    (tmp_path / "t.pkl").write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(FeatureFileError, match=r"t\.pkl is"):
        read_feature_pickle(tmp_path / "t.pkl")
    with pytest.raises(FileNotFoundError, match="no feature file at"):
        read_feature_pickle(tmp_path / "none.pkl")


def test_arrays_that_python_2_wrote_are_read(tmp_path: Path) -> None:
    frames = np.arange(6, dtype=np.float32).reshape(3, 2)
    old = (
        b"\x80\x02}q\x01U\x02u1cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03K\x02\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([frames.nbytes]) + frames.tobytes() + b"tbs."
    )
    (tmp_path / "old.pkl").write_bytes(old)
    np.testing.assert_array_equal(read_feature_pickle(tmp_path / "old.pkl")["u1"], frames)
