"""Pictures show the numbers they are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from moiety.intent.compare import pictures
from moiety.intent.compare.pictures import draw_confusion, draw_embedding, plane


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they are saved; they are still written."""
    seen: list[Figure] = []
    write = pictures._write

    def keep(figure: Figure, path: Path) -> None:
        seen.append(figure)
        write(figure, path)

    monkeypatch.setattr(pictures, "_write", keep)
    return seen


def texts(axes: Axes) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in axes.texts}


def test_confusion_shows_counts_as_numbers_and_shares_as_shade(drawn: list[Figure], tmp_path: Path) -> None:
    draw_confusion(["go", "stay", "wait"], [[3, 1, 0], [0, 2, 0], [0, 0, 0]], tmp_path / "c.png")
    axes = drawn[0].axes[0]
    assert texts(axes) == {(0, 0): "3", (1, 0): "1", (1, 1): "2"}, "(across, down): answers across"
    shade = np.asarray(axes.images[0].get_array())
    assert shade.tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]], "a label without rows is white"
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["go", "stay", "wait"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answer", "true label")
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 300


def test_embedding_fills_right_answers_and_hollows_wrong_ones(drawn: list[Figure], tmp_path: Path) -> None:
    points = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    draw_embedding(points, ["a", "a", "b", "b"], ["a", "b", "b", "b"], tmp_path / "e.png")
    filled, hollow = [], []
    for collection in drawn[0].axes[0].collections:
        offsets = np.asarray(collection.get_offsets()).tolist()
        (filled if len(collection.get_facecolors()) else hollow).extend(offsets)
    assert sorted(filled) == [[0, 0], [2, 0], [3, 1]]
    assert sorted(hollow) == [[1, 1]]
    assert {text.get_text() for text in drawn[0].legends[0].texts} == {"a", "b", "wrong answer"}


def test_more_labels_than_colours_stay_apart(drawn: list[Figure], tmp_path: Path) -> None:
    labels = [f"l{number}" for number in range(30)]
    draw_embedding(np.arange(60.0).reshape(30, 2), labels, labels, tmp_path / "e.png")
    handles = drawn[0].axes[0].collections
    looks = {
        (tuple(handle.get_facecolors()[0]), handle.get_paths()[0].vertices.tobytes())
        for handle in handles
        if len(handle.get_facecolors()) and len(handle.get_offsets())
    }
    assert len(looks) == 30


@pytest.mark.parametrize("kind", ["pca", "tsne"])
def test_planes_keep_who_lies_beside_whom(kind: str) -> None:
    draw = np.random.default_rng(0)
    vectors = np.concatenate([draw.normal(size=(12, 7)), draw.normal(size=(12, 7)) + 20])
    points = plane(vectors, kind)  # type: ignore[arg-type]
    assert points.shape == (24, 2)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(24) * 1e9
    assert (distance.argmin(1) // 12 == np.arange(24) // 12).all()


def test_pca_is_the_projection_with_the_largest_spread() -> None:
    vectors = np.random.default_rng(1).normal(size=(40, 5)) * [5, 3, 1, 1, 1]
    points, centred = plane(vectors), vectors - vectors.mean(0)
    largest = np.linalg.svd(centred, compute_uv=False)[:2]
    assert np.allclose(np.linalg.norm(points, axis=0), largest)  # measured difference 2e-15
    assert plane(vectors[:, :1]).shape == (40, 2)


def test_too_few_samples_make_no_picture() -> None:
    with pytest.raises(ValueError, match="2 samples make no picture; give at least 3"):
        plane(np.zeros((2, 4)))


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.png"
    draw_confusion(["a", "b"], [[1, 0], [0, 1]], path)
    before = path.read_bytes()

    def fail(self: Figure, *given: object, **options: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_confusion(["a"], [[1]], path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.png"]
