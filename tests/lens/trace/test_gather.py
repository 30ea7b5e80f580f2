"""Every scheme and every kind of row can be traced: several pictures, none, pieces, choices without a gate."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moiety.lens import read_trace
from moiety.lens.page.data import page_tree
from moiety.lens.trace.gather import LARGEST_PICTURE, as_png, fingerprint, pictures_of_batch
from moiety.vlm.model import load
from moiety.vlm.rows import Row, Turn
from moiety.vlm.templates import load_processor
from tests import model_folders
from tests.lens.trace import traces

TWO = Row("two", (Turn("user", "<image>\n<image>\nWhich?"),), ("a", "b"))
NONE = Row("none", (Turn("user", "Say yes."), Turn("assistant", "yes"), Turn("user", "And now?")))


@pytest.mark.parametrize(
    ("scheme", "top_k"),
    [("vanilla", 2), ("modality", 1), ("modality_routed", 2), ("two_router", 2), ("always_on", 2), ("dense_wide", 1),
     ("asymoe", 2)],
)  # fmt: skip
def test_every_scheme_can_be_traced(scheme: str, top_k: int, tmp_path: Path) -> None:
    folder = model_folders.asymoe_folder() if scheme == "asymoe" else model_folders.sparse_folder(scheme)
    found = traces.traced((load(folder), load_processor(folder, marks=False)), tmp_path / "t", max_new_tokens=2)
    assert found.scheme == scheme
    part = found.questions[0].phases["prefill"]
    assert part.index.shape == (len(found.layers), len(part.group), top_k)
    assert np.isfinite(part.entropy).all()
    assert (np.diff(part.weights.astype(float), axis=-1) <= 0).all(), "the heaviest first"
    for load_share in page_tree([found])["models"][0]["totals"]["prefill"]["load"]:
        np.testing.assert_allclose(np.sum(load_share, axis=-1), 1, atol=1e-4)


def test_rows_with_several_pictures_and_with_none(tmp_path: Path) -> None:
    traces.answer(traces.sparse(), tmp_path / "t", [TWO, NONE, *traces.rows(1)])
    two, none, one = read_trace(tmp_path / "t").questions
    assert [picture.grid for picture in two.pictures] == [(4, 4), (4, 4)]
    assert np.bincount(two.picture_of + 1)[1:].tolist() == [16, 16]
    assert (np.diff(two.picture_of[two.picture_of >= 0]) >= 0).all(), "first picture, first patches"
    assert two.pictures[0].png != two.pictures[1].png
    assert two.pictures[0].png == one.pictures[0].png, "both show picture a"
    assert two.expected is None
    assert (none.question, none.expected) == ("And now?", None)
    assert none.pictures == []
    assert none.note == ""
    assert (none.picture_of < 0).all()
    assert all(none.words)


def test_a_blank_picture_is_shown_as_it_was_asked(tmp_path: Path) -> None:
    traces.answer(traces.sparse(), tmp_path / "t", traces.rows(1), blank_image=True)
    (question,) = read_trace(tmp_path / "t").questions
    with Image.open(io.BytesIO(question.pictures[0].png or b"")) as picture:
        assert len(picture.getcolors() or []) == 1


def test_pieces_of_a_picture_have_no_grid() -> None:
    images: Any = traces.pictures()
    pixels = {"pixel_values": torch.zeros(1, 5, 3, 8, 8)}
    ((shown, whole),) = pictures_of_batch(traces.rows(1), pixels, traces.sparse()[1], images)
    assert not whole
    assert shown == [images["a"]], "the given picture stands in for its pieces"


def test_pictures_are_made_small() -> None:
    with Image.open(io.BytesIO(as_png(Image.new("RGB", (2000, 500), "red")))) as picture:
        assert picture.size == (LARGEST_PICTURE, LARGEST_PICTURE // 4)


def test_a_fingerprint_tells_questions_apart() -> None:
    rows = [*traces.rows(4), TWO, NONE, Row("other", NONE.turns)]
    assert len({fingerprint(row) for row in rows}) == len(rows)
    assert fingerprint(TWO) == fingerprint(Row(TWO.id, TWO.turns, TWO.images, type="x", answers=("y",)))
