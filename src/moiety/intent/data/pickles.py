"""Feature files as the benchmarks publish them: pickles, which are read without running any code in them.

Unpickling calls any function that the file names. This reader accepts the few functions that numpy arrays and torch
tensors need, and refuses every other one by name.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray, numeric

_ADMITTED: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy._core.multiarray", "scalar"): multiarray.scalar,
    ("numpy._core.numeric", "_frombuffer"): numeric._frombuffer,  # type: ignore[attr-defined]
    ("_codecs", "encode"): lambda text, encoding: _encode(text, encoding),
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): lambda data: torch.load(io.BytesIO(data), "cpu", weights_only=True),
}


class FeatureFileError(ValueError):
    """A feature file cannot be used; the text names the file and the key."""


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes as pickle protocol 2 writes them; every other codec is refused."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"codec {encoding!r}")
    return text.encode("latin1")


class ArrayUnpickler(pickle.Unpickler):
    """Accepts arrays, tensors, and plain containers of them."""

    def find_class(self, module: str, name: str) -> Any:
        """An accepted function; names of numpy 1 are taken for those of numpy 2.

        Raises:
            pickle.UnpicklingError: any other function.
        """
        known = _ADMITTED.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return known


def read_feature_pickle(path: str | Path) -> dict[str, np.ndarray]:
    """Features of every key, ``(frames, dim)`` float32.

    Args:
        path: A pickled dict key -> array ``(frames, dim)``, tensor, or list of ``(1, dim)`` arrays.

    Raises:
        FileNotFoundError: there is no such file.
        FeatureFileError: the file names functions that arrays do not need, is damaged, or holds anything but finite
            matrices of one width; all wrong keys are listed at once.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no feature file at {path}")
    try:
        with path.open("rb") as file:
            # arrays that Python 2 wrote are strings of bytes: numpy wants them as latin1
            tree = ArrayUnpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise FeatureFileError(
            f"{path} is refused: {error}. A feature file holds arrays alone; anything else could run code on reading"
        ) from error
    except Exception as error:
        raise FeatureFileError(
            f"{path} is no whole pickle ({type(error).__name__}: {error}); fetch it again"
        ) from error
    return check_features(tree, path)


def check_features(tree: Any, path: Path) -> dict[str, np.ndarray]:
    """The features, checked: finite float32 matrices of one width.

    Raises:
        FeatureFileError: some are not; every wrong key is named.
    """
    if not isinstance(tree, Mapping) or not tree:
        raise FeatureFileError(f"{path} holds {type(tree).__name__}, expected a dict key -> (frames, dim)")
    found: dict[str, np.ndarray] = {}
    wrong: list[str] = []
    for key, value in tree.items():
        problem, array = _matrix(value)
        if not isinstance(key, str):
            problem = f"key is {type(key).__name__}"
        if problem or array is None:
            wrong.append(f"{key!r}: {problem}")
        else:
            found[key] = array
    widths = sorted({array.shape[1] for array in found.values()})
    if len(widths) > 1:
        wrong.append(f"widths differ: {widths}")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise FeatureFileError(f"{path}: {'; '.join(wrong[:5])}{more}")
    return found


def _matrix(value: Any) -> tuple[str, np.ndarray | None]:
    """What is wrong with one entry, or its matrix."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().float().numpy()
    if isinstance(value, list | tuple):
        try:
            parts = [np.asarray(part) for part in value]
        except ValueError:
            parts = []
        if not parts or any(part.dtype == object or part.shape != parts[0].shape for part in parts):
            return "a list of unequal parts", None
        value = np.stack(parts)
        value = value.squeeze(1) if value.ndim == 3 and value.shape[1] == 1 else value
    if not isinstance(value, np.ndarray):
        return f"{type(value).__name__} instead of an array", None
    if not (np.issubdtype(value.dtype, np.floating) or np.issubdtype(value.dtype, np.integer)):
        return f"numbers expected, got {value.dtype}", None
    if value.ndim != 2:
        return f"shape {value.shape}, expected (frames, dim)", None
    with np.errstate(over="ignore"):
        value = value.astype(np.float32)
    return ("", value) if np.isfinite(value).all() else ("not finite", None)
