"""Keeps the last pictures, so that several questions about one picture open and process it once."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

from PIL import Image

from moiety.vlm.images import Pictures

_KEPT = 8
"""Pictures and results that are kept. Questions about one picture come together, so few are enough."""


class RecentPictures:
    """The same pictures as `images`; one that was asked for a moment ago is not opened again.

    Args:
        images: Name -> picture.
    """

    def __init__(self, images: Pictures) -> None:
        self._images = images
        self._open = functools.lru_cache(maxsize=_KEPT)(images.__getitem__)

    def __getitem__(self, name: str, /) -> Image.Image:
        """The picture called `name`; the same object while it is kept."""
        return self._open(name)

    def __contains__(self, name: object, /) -> bool:
        """Whether there is a picture called `name`."""
        return name in self._images


def processing_once(processor: Any) -> Any:
    """A shallow copy of `processor` that does not process the same picture objects again while their result is kept."""
    if getattr(processor, "image_processor", None) is None:
        return processor
    own = copy.copy(processor)
    own.image_processor = _Recent(processor.image_processor)
    return own


class _Recent:
    """An image processor that remembers its last results. Whatever is not a call goes to the true one."""

    def __init__(self, true: Any) -> None:
        self._true = true
        self._kept: list[tuple[list[Any], Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_true":  # copying asks for these before there is a true one
            raise AttributeError(name)
        return getattr(self._true, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        pictures = list(_flat(images))
        for kept, given, found in self._kept:
            same = len(kept) == len(pictures) and all(a is b for a, b in zip(kept, pictures, strict=True))
            if same and given == (_shape(images), options):
                return copy.copy(found)
        found = self._true(images, **options)
        self._kept = [*self._kept[-_KEPT + 1 :], (pictures, (_shape(images), options), copy.copy(found))]
        return found


def _flat(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for image in images:
            yield from _flat(image)
    else:
        yield images


def _shape(images: Any) -> Any:
    """How pictures are nested in lists."""
    return [_shape(image) for image in images] if isinstance(images, list | tuple) else None
