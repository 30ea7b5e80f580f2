"""A world that two CPU cores can learn: scenes of real handwritten digits, with captions and questions.

A scene holds one to three digits of scikit-learn's ``load_digits`` (8 x 8 scans of handwriting), each in its own
colour and in its own place of a 2 x 2 grid. No digit picture occurs in both splits. The questions ask for place,
colour, count, parity and existence; for every object that an existence question names, each
split has as many yes as no, so that the question alone gives the right answer exactly half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from moiety.worlds.files import question_row, write_pictures, write_rows

COLOURS = {
    "red": (230, 60, 50),
    "green": (60, 200, 80),
    "blue": (80, 120, 255),
    "yellow": (240, 220, 60),
    "purple": (200, 80, 220),
}
PLACES = ("top left", "top right", "bottom left", "bottom right")
TYPES = ("place", "colour", "count", "parity", "exist")
MOST_DIGITS = 3
_BACKGROUND = (16, 16, 20)
_TEST_SHARE = 0.25
_CAPTION_PROMPTS = ("What does this picture show?", "Describe the picture.", "Write a caption for this picture.")


@dataclass(frozen=True)
class Placed:
    """One digit in a scene; `source` is its index in ``load_digits``."""

    digit: int
    colour: str
    place: str
    source: int


@dataclass(frozen=True)
class SceneFiles:
    """The files of a world.

    Args:
        folder: Folder with all files.
        images: Tars with the pictures of both splits.
        train: Questions of the training split.
        test: Questions of the test split.
        captions: Captions of the training split.
    """

    folder: Path
    images: tuple[Path, Path]
    train: Path
    test: Path
    captions: Path


def write_scenes(
    folder: str | Path, *, num_train: int = 2000, num_test: int = 400, seed: int = 0, canvas: int = 32
) -> SceneFiles:
    """Compose scenes and write pictures, captions and questions; the same arguments write the same bytes.

    Args:
        folder: Where the files go; files of an earlier call are overwritten.
        num_train: Scenes of the training split, at least 20, so that every object occurs.
        num_test: Scenes of the test split, at least 20.
        seed: Seed of all random choices.
        canvas: Side of a picture in pixels, at least 24.

    Raises:
        ValueError: too few scenes or too small a canvas.
    """
    if min(num_train, num_test) < 20:
        raise ValueError(f"num_train={num_train} and num_test={num_test}: a split needs at least 20 scenes")
    if canvas < 24:
        raise ValueError(f"canvas={canvas}: two digits a side need at least 24 pixels")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = SceneFiles(
        folder=folder,
        images=(folder / "images-train.tar", folder / "images-test.tar"),
        train=folder / "conversations-train.jsonl",
        test=folder / "conversations-test.jsonl",
        captions=folder / "conversations-caption-train.jsonl",
    )
    rng = np.random.default_rng(seed)
    scans = np.asarray(load_digits().images)  # (1797, 8, 8), values 0..16
    sources = _split_sources(rng)
    for split, count, tar in (("train", num_train, files.images[0]), ("test", num_test, files.images[1])):
        scenes = [compose(sources[split], rng) for _ in range(count)]
        write_pictures(tar, ((_name(split, number), draw(scene, scans, canvas)) for number, scene in enumerate(scenes)))
        write_rows(folder / f"conversations-{split}.jsonl", ask(scenes, split, rng))
        if split == "train":
            write_rows(files.captions, [_caption_row(scene, number, rng) for number, scene in enumerate(scenes)])
    return files


def compose(sources: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[Placed, ...]:
    """Draw one scene: one to three different digits, different colours, different places, in reading order.

    Args:
        sources: For each digit 0..9 the indices of its scans that may be used.
        rng: Source of all draws.
    """
    count = int(rng.integers(1, MOST_DIGITS + 1))
    digits = rng.choice(10, count, replace=False)
    colours = rng.choice(list(COLOURS), count, replace=False)
    places = np.sort(rng.choice(len(PLACES), count, replace=False))
    return tuple(
        Placed(int(digit), str(colour), PLACES[place], int(rng.choice(sources[digit])))
        for digit, colour, place in zip(digits, colours, places, strict=True)
    )


def draw(scene: Sequence[Placed], scans: np.ndarray, canvas: int) -> Image.Image:
    """The picture of a scene, with sides of ``canvas`` pixels; every scan is enlarged to fill its place.

    Nothing is moved or turned: a small tower that never saw anything else learns, in minutes, to tell digits apart that
    stand still, and hardly begins to with digits that do not.
    """
    picture = Image.new("RGB", (canvas, canvas), _BACKGROUND)
    cell = canvas // 2
    for placed in scene:
        ink = Image.fromarray((scans[placed.source] * 255 / 16).astype(np.uint8))
        ink = ink.resize((cell, cell), Image.Resampling.BICUBIC)
        row, column = divmod(PLACES.index(placed.place), 2)
        picture.paste(COLOURS[placed.colour], (column * cell, row * cell), mask=ink)
    return picture


def ask(scenes: Sequence[Sequence[Placed]], split: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Questions about all scenes of a split, in the format of LLaVA, sorted by scene.

    Every scene is asked for the digit in each filled place, one colour, one parity and its count. Existence questions
    are drawn for each digit: as many scenes that hold it as scenes that do not. The questions of one scene stand in
    random order, so that no kind always follows another when they are merged into one conversation.
    """
    asked: list[list[tuple[str, str, str]]] = [[] for _ in scenes]
    for questions, scene in zip(asked, scenes, strict=True):
        one, two = (scene[int(index)] for index in rng.integers(0, len(scene), 2))
        questions += [("place", f"Which digit is at the {placed.place}?", str(placed.digit)) for placed in scene]
        questions += [
            ("colour", f"What colour is the {one.digit}?", one.colour),
            ("count", "How many digits are there?", str(len(scene))),
            ("parity", f"Is the {two.colour} digit odd or even?", ("even", "odd")[two.digit % 2]),
        ]
    for digit in range(10):
        holds = np.array([any(placed.digit == digit for placed in scene) for scene in scenes])
        size = max(1, min(len(scenes) // 20, int(holds.sum()), int((~holds).sum())))
        for answer, candidates in (("yes", holds), ("no", ~holds)):
            for number in rng.choice(np.flatnonzero(candidates), size, replace=False):
                asked[int(number)].append(("exist", f"Is there a {digit}?", answer))
    rows = [
        (number, *questions[index])
        for number, questions in enumerate(asked)
        for index in rng.permutation(len(questions)).tolist()
    ]
    return [
        question_row(f"scenes-{split}-{index:06d}", _name(split, number), text, answer, kind, split)
        for index, (number, kind, text, answer) in enumerate(rows)
    ]


def caption(scene: Sequence[Placed]) -> str:
    """All digits of a scene with colour and place.

    Example:
        >>> caption([Placed(7, "red", "top left", 0), Placed(3, "blue", "bottom right", 1)])
        'a red 7 at the top left and a blue 3 at the bottom right.'
    """
    named = [f"a {placed.colour} {placed.digit} at the {placed.place}" for placed in scene]
    return ", ".join([*named[:-2], " and ".join(named[-2:])]) + "."


def _split_sources(rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """For each split and digit, the scans it may use; every scan belongs to one split."""
    target = np.asarray(load_digits().target)
    sources: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for digit in range(10):
        scans = rng.permutation(np.flatnonzero(target == digit))
        num_test = round(_TEST_SHARE * len(scans))
        sources["test"].append(scans[:num_test])
        sources["train"].append(scans[num_test:])
    return sources


def _caption_row(scene: Sequence[Placed], number: int, rng: np.random.Generator) -> dict[str, Any]:
    prompt = _CAPTION_PROMPTS[int(rng.integers(len(_CAPTION_PROMPTS)))]
    row = question_row(
        f"scenes-caption-{number:06d}", _name("train", number), prompt, caption(scene), "caption", "train"
    )
    return {**row, "objects": [asdict(placed) for placed in scene]}


def _name(split: str, number: int) -> str:
    return f"scenes/{split}/{number:06d}.png"
