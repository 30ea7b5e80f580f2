"""Several questions about one picture open and process it once, and get the same tensors as without that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from moiety.evaluate.recent import RecentPictures, processing_once


class Opening(dict[str, Image.Image]):
    """Pictures that are made when they are asked for, as a file is opened."""

    asked = 0

    def __getitem__(self, name: str) -> Image.Image:
        self.asked += 1
        if name not in self:
            raise KeyError(name)
        return Image.new("RGB", (4, 4), super().__getitem__(name))


class Processor:
    size = 7

    def __init__(self) -> None:
        self.calls = 0
        self.image_processor = self.process

    def process(self, images: Any, scale: int = 1) -> dict[str, Any]:
        self.calls += 1
        flat = images[0] if isinstance(images[0], list) else images
        return {"pixel_values": torch.tensor([image.getpixel((0, 0))[0] * scale for image in flat])}


def test_a_picture_is_opened_once_while_it_is_kept() -> None:
    files = Opening({"a": "red", "b": "black"})
    recent = RecentPictures(files)
    assert recent["a"] is recent["a"]
    assert recent["b"].getpixel((0, 0)) == (0, 0, 0)
    assert files.asked == 2
    assert "a" in recent
    assert "c" not in recent
    with pytest.raises(KeyError, match="c"):
        recent["c"]


def test_equal_calls_are_processed_once_and_results_can_be_changed() -> None:
    true = Processor()
    once = processing_once(true)
    red, grey = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), (9, 9, 9))
    first = once.image_processor([red])
    assert first.pop("pixel_values").tolist() == [255], "a processor may take entries out of the result"
    assert once.image_processor([red])["pixel_values"].tolist() == [255]
    assert true.calls == 1
    assert once.image_processor([red], scale=2)["pixel_values"].tolist() == [510], "other options"
    assert once.image_processor([[red]])["pixel_values"].tolist() == [255], "nested otherwise"
    assert once.image_processor([red, grey])["pixel_values"].tolist() == [255, 9]
    assert once.image_processor([grey])["pixel_values"].tolist() == [9]
    assert true.calls == 5
    assert true.image_processor == true.process, "the given processor stays as it is"


def test_few_results_are_kept() -> None:
    true = Processor()
    once = processing_once(true)
    pictures = [Image.new("RGB", (1, 1), (value, 0, 0)) for value in range(9)]
    for value, picture in enumerate(pictures):
        assert once.image_processor([picture])["pixel_values"].tolist() == [value]
    once.image_processor([pictures[8]])
    assert true.calls == 9
    once.image_processor([pictures[0]])
    assert true.calls == 10, "the oldest of nine is gone"
