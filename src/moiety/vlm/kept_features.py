"""Features of a frozen vision tower: computed once for each picture, kept in files, and read in every later step.

A frozen tower gives the same features for the same picture in each epoch, in each scheme of a comparison and in each
seed. A feature file is found by what decides it: the weights of the tower, the pixels that the tower would read, and
the precision. So a changed picture, another image size or another tower never meets an old file. Each new picture goes
through the tower alone; its features do not depend on the other pictures of the batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from moiety.records.saving import check_writable
from moiety.vlm.decoders import base_of
from moiety.vlm.towers import called_tower, feature_layers, tower_layers, vision_tower

_STATE, _LAST = "hidden_states.", "last_hidden_state"
_PER_PICTURE = ("patch_attention_mask",)
"""Keywords of towers that hold one entry for each picture."""
_OF_OUTPUT = ("output_hidden_states", "return_dict")
_OF_DECODER = ("shift_labels", "num_items_in_batch", "use_cache")
"""Keywords of loss and decoder that transformers hands to the tower as well; no tower reads them."""
_GIB = 2**30


class KeptFeatures:
    """Stands in for the forward of one frozen tower.

    Args:
        tower: The module that the base model calls; every parameter is frozen.
        layers: Hidden states that the base model reads, as indices; empty if it reads the last one after its norm.
        depth: Number of hidden states of the tower: its blocks and the embedding.
        folder: Folder for the files. It is made if it is absent.
        num_pictures: Pictures that will come, for the check of free space; 0: not known.

    Raises:
        OSError: `folder` cannot be written, or, at the first picture, has too little room.

    Attributes:
        computed: Pictures that went through the tower.
        read: Pictures whose features came from a file.
        passed: Calls in a form that cannot be kept. The tower answered them as always.
    """

    def __init__(
        self, tower: nn.Module, layers: tuple[int, ...], depth: int, folder: str | Path, num_pictures: int = 0
    ) -> None:
        self._forward, self._tower, self._layers, self._depth = tower.forward, tower, layers, depth
        self._num_pictures = num_pictures
        check_writable(folder, is_folder=True)
        self.folder = Path(folder) / _digest_of(tower, layers)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.computed = self.read = self.passed = 0

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """The output of the tower for ``pixel_values (pictures, ...)``, joined from files and new pictures."""
        named = dict(zip(("pixel_values",), args, strict=False)) | keywords
        pixels = named.pop("pixel_values", None)
        known = {name: value for name, value in named.items() if value is not None and name not in _OF_DECODER}
        if len(args) > 1 or pixels is None or not known.keys() <= {*_PER_PICTURE, *_OF_OUTPUT}:
            self.passed += 1
            return self._forward(*args, **keywords)
        parts = [
            self._features(pixels[index : index + 1], _of_picture(known, index)) for index in range(pixels.shape[0])
        ]
        joined = {name: torch.cat([part[name] for part in parts]).to(pixels.device) for name in parts[0]}
        states: list[Tensor | None] = [None] * self._depth  # a layer that is not kept is None, never another layer
        for index in self._layers:
            states[index] = joined[f"{_STATE}{index}"]
        return BaseModelOutputWithPooling(
            last_hidden_state=joined.get(_LAST),
            hidden_states=tuple(states) if self._layers else None,  # type: ignore[arg-type]
        )

    def _features(self, pixels: Tensor, keywords: Mapping[str, Any]) -> dict[str, Tensor]:
        """Tensors of one picture, each ``(1, ...)``."""
        path = self.folder / (name := _key(pixels, keywords))[:2] / f"{name}.safetensors"
        try:
            found = load_file(path)
            self.read += 1
            return found
        except (FileNotFoundError, SafetensorError):  # new, or damaged by a full disk
            pass
        training = self._tower.training
        self._tower.eval()  # no dropout: what is kept must not be a draw
        try:
            with torch.no_grad():
                output = self._forward(pixels, **keywords)
        finally:
            self._tower.train(training)
        tensors = {f"{_STATE}{index}": output.hidden_states[index] for index in self._layers}
        if not self._layers:
            tensors[_LAST] = output.last_hidden_state
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        self._write(path, tensors)
        self.computed += 1
        return tensors

    def _write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        content = save(tensors)
        if self.computed == 0:
            _check_room(self.folder, len(content) * self._num_pictures)
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".writing", delete=False) as file:
            try:
                file.write(content)
                file.close()
                os.replace(file.name, path)
            except OSError as error:
                Path(file.name).unlink(missing_ok=True)
                raise OSError(
                    f"{path} cannot be written: {error.strerror or error}; free some space, name another folder in "
                    "data.cache_features, or leave that key out"
                ) from error


@contextmanager
def kept_features(model: Any, folder: str | Path | None, num_pictures: int = 0) -> Iterator[KeptFeatures | None]:
    """Within the block, the frozen vision tower of `model` reads and writes feature files.

    Args:
        model: A vision-language model.
        folder: Folder of the files; None: nothing is kept.
        num_pictures: See :class:`KeptFeatures`.

    Yields:
        The counters, or None where nothing can be kept: no folder, a tower that learns, or a family whose tower reads
        all pictures of a batch as one row of patches (Qwen).
    """
    called = None if folder is None else called_tower(base_of(model))
    if called is None or any(parameter.requires_grad for parameter in called.parameters()):
        yield None
        return
    blocks = tower_layers(vision_tower(base_of(model)))
    if blocks is None:
        yield None
        return
    kept = KeptFeatures(called, feature_layers(base_of(model)), len(blocks) + 1, folder or "", num_pictures)
    called.forward = kept
    try:
        yield kept
    finally:
        del called.forward


def _of_picture(keywords: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {name: value[index : index + 1] if name in _PER_PICTURE else value for name, value in keywords.items()}


def _key(pixels: Tensor, keywords: Mapping[str, Any]) -> str:
    """A name for one picture: its pixels, its mask, and the precision that the tower computes in."""
    precision = torch.get_autocast_dtype(pixels.device.type) if torch.is_autocast_enabled(pixels.device.type) else None
    digest = hashlib.blake2b(f"{pixels.dtype} {tuple(pixels.shape)} {precision}".encode(), digest_size=20)
    for value in (pixels, *(keywords[name] for name in _PER_PICTURE if name in keywords)):
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def _digest_of(tower: nn.Module, layers: tuple[int, ...]) -> str:
    """A name for the tower: its config, its weights, and the layers that are read."""
    config: Any = getattr(tower, "config", None)
    settings = {} if config is None else {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    settings.pop("transformers_version", None)
    digest = hashlib.blake2b(json.dumps([settings, layers], sort_keys=True, default=str).encode(), digest_size=10)
    for name, value in sorted(tower.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(value: Tensor) -> Any:
    return value.detach().cpu().contiguous().view(torch.uint8).numpy().data if value.numel() else b""


def _check_room(folder: Path, needed: int) -> None:
    """Refuse before the first hour of work what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"the features of all pictures need at least {needed / _GIB:.1f} GiB, {folder} has {free / _GIB:.1f} GiB "
            "free; name a folder with more room in data.cache_features, or leave that key out"
        )
