"""Knowledge conflict: every shape has a usual colour, but some pictures and sentences show another one.

A picture shows one or several of 24 shapes. A shape has its usual colour with probability ``agreement``, so a model can
nearly always answer from memory. Otherwise it has another colour, and the model must look at the picture. Some
questions ask for a shape that the picture does not show: then the usual colour is right, so that memory stays useful.
Before some of these, a sentence tells the colour, which agrees with the usual one as often as in pictures; then the
sentence is right.

There is no type of question for exchanged pictures: with a picture that lacks the shape, a question becomes an absent
one; with a picture that shows it, a consistent or a conflicting one.

Source:
    AsyMoE's claim that evidence should win over memory (arXiv 2606.00275, sections 3.2 and 4.3); this world is ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moiety.worlds.board import AXES, COLOURS, SYMBOLS, board, light
from moiety.worlds.files import WorldFiles, files_in, question_row, write_pictures, write_rows

SHAPES = tuple(SYMBOLS)
NUM_RARE = 4
"""The last shapes of :data:`SHAPES` occur in training ten times less often, in pictures and in questions."""
RARE_WEIGHT = 0.1
ABSENT_SHARE, TOLD_SHARE = 0.15, 0.10
TEST_TYPES = ("consistent", "conflict", "absent", "text_conflict", "rare_conflict")


_Named = tuple[str, Image.Image]


@dataclass(frozen=True)
class ConflictWorld:
    """The rules of one world.

    Args:
        usual: Usual colour of each shape, an index into :data:`moiety.worlds.board.COLOURS`.
        agreement: Probability that a shape (or a sentence about it) has its usual colour.
        noise: Standard deviation of the colours along each axis, in units of their distance from grey.
        num_shown: Number of shapes in a picture.
    """

    usual: tuple[int, ...]
    agreement: float = 0.98
    noise: float = 0.0
    num_shown: int = 1

    @property
    def side(self) -> int:
        """Number of cells in a row of a picture: the smallest that leaves a cell empty."""
        return math.isqrt(self.num_shown) + 1

    def colour(self, shape: int, rng: np.random.Generator) -> int:
        """A colour for `shape`: the usual one with probability `agreement`, else any other one."""
        return self.usual[shape] if rng.random() < self.agreement else self.other(shape, rng)

    def other(self, shape: int, rng: np.random.Generator) -> int:
        """A random colour other than the usual one."""
        return int((self.usual[shape] + rng.integers(1, len(COLOURS))) % len(COLOURS))


@dataclass(frozen=True)
class Scene:
    """The shapes of a picture, all different: index, colour and place of each."""

    shapes: tuple[int, ...]
    colours: tuple[int, ...]
    places: tuple[int, ...]


def write_conflict(
    folder: str | Path,
    *,
    num_train: int = 10_000,
    num_test: int = 400,
    num_reading: int = 10_000,
    num_shown: int = 1,
    seed: int = 0,
    agreement: float = 0.98,
    noise: float = 0.0,
) -> WorldFiles:
    """Write pictures and questions; the same arguments write the same bytes.

    Files: ``conversations-reading-train.jsonl`` (every shape in every colour, so that memory does not help and a model
    learns to read pictures and sentences), ``conversations-train.jsonl`` (as many questions about a picture as it shows
    shapes) and ``conversations-test.jsonl`` (one question for each picture, `num_test` of each of :data:`TEST_TYPES`).
    A row contains the answer from memory (``prior_answer``) and, if the prompt tells the colour, ``evidence_answer``.

    Args:
        folder: Where the files go; files of an earlier call are overwritten.
        num_train: Training questions, a multiple of `num_shown`.
        num_test: Test questions of each type.
        num_reading: Questions of the reading file, a multiple of `num_shown`.
        num_shown: Number of shapes in a picture, 1 to 12. From two on, a model must find the place of the shape in
            question, which tower and decoder learn very slowly from random weights (see docs/results.md).
        seed: Seed of all random choices, the usual colours included.
        agreement: Share of pictures and sentences with the usual colour, in (0, 1].
        noise: Standard deviation of the colours, 0 or more; :func:`bayes_accuracy` gives the best possible score.

    Raises:
        ValueError: a number is out of range.
    """
    _check(num_train, num_test, num_reading, num_shown, agreement, noise)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    usual = rng.permutation(np.arange(len(SHAPES)) % len(COLOURS))  # each colour is usual for four shapes
    world = ConflictWorld(tuple(usual.tolist()), agreement, noise, num_shown)
    files = files_in(folder, ("reading-train", "train", "test"))
    lessons, first_pictures = _lessons(num_reading // num_shown, replace(world, agreement=1 / len(COLOURS)), rng)
    scenes = [_scene(_draw_shapes(num_shown, rng), world, rng) for _ in range(num_train // num_shown)]
    rows = [row for number, scene in enumerate(scenes) for row in _train_rows("train", scene, number, world, rng)]
    asked, exams = _test_rows(world, num_test, rng)
    for path, written in zip(files.conversations.values(), (lessons, rows, asked), strict=True):
        write_rows(path, written)
    drawn = ((_name("train", number), _picture(scene, world, rng)) for number, scene in enumerate(scenes))
    tests = ((_name("test", number), _picture(scene, world, rng)) for number, scene in enumerate(exams))
    for path, pictures in zip(files.images, (itertools.chain(first_pictures, drawn), tests), strict=True):
        write_pictures(path, pictures)
    return files


def _check(num_train: int, num_test: int, num_reading: int, num_shown: int, agreement: float, noise: float) -> None:
    """Check the numbers."""
    if not 1 <= num_shown <= len(SHAPES) // 2:
        raise ValueError(f"num_shown={num_shown} must lie in 1..{len(SHAPES) // 2}, so that enough shapes are absent")
    if min(num_train, num_reading) < 1 or num_train % num_shown or num_reading % num_shown or num_test < 1:
        raise ValueError(
            f"num_train={num_train}, num_reading={num_reading} and num_test={num_test}: give positive multiples of "
            f"num_shown={num_shown} training and reading questions and at least one test question of each type"
        )
    if not 0 < agreement <= 1 or not 0 <= noise < math.inf:
        raise ValueError(f"agreement={agreement} must lie in (0, 1] and noise={noise} must be finite and >= 0")


def bayes_accuracy(agreement: float, noise: float, num_draws: int = 100_000, seed: int = 0) -> float:
    """Share of conflicting pictures whose colour the best possible reader names, found by simulation.

    The reader knows `agreement` and `noise`, and names the most probable colour. The standard error at the default
    `num_draws` is below 0.002.

    Args:
        agreement: Probability of the usual colour, in (0, 1).
        noise: Standard deviation along each axis, above 0.
        num_draws: Simulated pictures.
        seed: Seed of the simulation.

    Source:
        For equally distant colours about ``Phi((1/noise^2 - ln(5 agreement/(1 - agreement))) noise / sqrt(2))``; of our
        colours one in five pairs is further apart.
    """
    rng = np.random.default_rng(seed)
    others = len(COLOURS) - 1
    shown = 1 + rng.integers(0, others, num_draws)  # colour 0 is the usual one
    seen = AXES[shown] + noise * rng.standard_normal((num_draws, 3))
    prior = np.log([agreement] + [(1 - agreement) / others] * others)
    squared = ((seen[:, None] - AXES) ** 2).sum(-1)  # (draws, colours)
    return float(((prior - squared / (2 * noise**2)).argmax(-1) == shown).mean())


def _draw_shapes(count: int, rng: np.random.Generator, without: Sequence[int] = ()) -> list[int]:
    """Draw different shapes; rare ones are less probable."""
    weight = np.ones(len(SHAPES))
    weight[-NUM_RARE:] = RARE_WEIGHT
    weight[list(without)] = 0
    return rng.choice(len(SHAPES), count, replace=False, p=weight / weight.sum()).tolist()


def _scene(shapes: Sequence[int], world: ConflictWorld, rng: np.random.Generator) -> Scene:
    places = rng.choice(world.side**2, len(shapes), replace=False)
    return Scene(tuple(shapes), tuple(world.colour(shape, rng) for shape in shapes), tuple(places.tolist()))


def _picture(scene: Scene, world: ConflictWorld, rng: np.random.Generator) -> Image.Image:
    noise = world.noise * rng.standard_normal((len(scene.shapes), 3))
    cells = zip(scene.places, scene.shapes, scene.colours, noise, strict=True)
    return board([(place, SHAPES[shape], light(colour, blur)) for place, shape, colour, blur in cells], world.side)


def _lessons(count: int, world: ConflictWorld, rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[_Named]]:
    """Questions and pictures of the world in which any shape may have any colour and no shape in question is absent."""
    rows, pictures = [], []
    for number in range(count):
        scene = _scene(_draw_shapes(world.num_shown, rng), world, rng)
        pictures.append((_name("reading", number), _picture(scene, world, rng)))
        rows += [{**row, "type": "reading"} for row in _train_rows("reading", scene, number, world, rng, absent=0.0)]
    return rows, pictures


def _train_rows(
    split: str, scene: Scene, number: int, world: ConflictWorld, rng: np.random.Generator, absent: float = ABSENT_SHARE
) -> Iterator[dict[str, Any]]:
    """As many questions as shapes, each about another shape; for a share `absent`, the picture lacks it."""
    kinds = rng.choice(3, world.num_shown, p=(1 - absent - TOLD_SHARE, absent, TOLD_SHARE))
    present = rng.permutation(len(scene.shapes)).tolist()
    missing = _draw_shapes(world.num_shown, rng, without=scene.shapes)
    image = _name(split, number)
    for place, kind in enumerate(kinds.tolist()):
        name = f"conflict-{split}-{number:05d}-{place}"
        if kind == 0:
            shape, colour = scene.shapes[present[place]], scene.colours[present[place]]
            yield _row(name, image, shape, colour, world)
        elif kind == 1:
            yield _row(name, image, missing[place], None, world)
        else:
            yield _row(name, image, missing[place], world.colour(missing[place], rng), world, told=True)


def _test_rows(
    world: ConflictWorld, num_test: int, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], list[Scene]]:
    """`num_test` questions of each type, each with its own picture. Only `rare_conflict` asks for rare shapes."""
    rows, scenes = [], []
    common = len(SHAPES) - NUM_RARE
    for number in range(num_test * len(TEST_TYPES)):
        kind = TEST_TYPES[number % len(TEST_TYPES)]
        asked = int(rng.integers(common, len(SHAPES)) if kind == "rare_conflict" else rng.integers(common))
        there = kind in ("consistent", "conflict", "rare_conflict")
        others = _draw_shapes(world.num_shown - there, rng, without=[asked])
        scene = _scene([asked, *others] if there else others, world, rng)
        colour = None if kind == "absent" else world.usual[asked] if kind == "consistent" else world.other(asked, rng)
        if there and colour is not None:
            scene = Scene(scene.shapes, (colour, *scene.colours[1:]), scene.places)
        told = kind == "text_conflict"
        row = _row(f"conflict-test-{number:05d}", _name("test", number), asked, colour, world, told=told)
        rows.append({**row, "type": kind, "split": "test", **(_box(scene.places[0], world.side) if there else {})})
        scenes.append(scene)
    return rows, scenes


def _box(place: int, side: int) -> dict[str, list[float]]:
    """The place of the answer in the picture: left, top, right, bottom of its cell in 0..1."""
    row, column = divmod(place, side)
    return {"answer_box": [column / side, row / side, (column + 1) / side, (row + 1) / side]}


def _row(
    name: str, image: str, shape: int, colour: int | None, world: ConflictWorld, told: bool = False
) -> dict[str, Any]:
    """One question; with `colour` None, only memory tells the colour."""
    usual = world.usual[shape]
    kind = "absent" if colour is None else "consistent" if colour == usual else "conflict"
    question = f"Colour of {SHAPES[shape]}"
    passage = f"Here {SHAPES[shape]} is {COLOURS[colour]}." if told and colour is not None else None
    if passage:
        kind, question = f"text_{kind}", f"{passage} {question}"
    row = question_row(name, image, question, COLOURS[usual if colour is None else colour], kind, "train")
    row["prior_answer"] = COLOURS[usual]
    if passage:
        row["context"] = passage  # the evidence that context-aware decoding removes
    if colour is not None:
        row["evidence_answer"] = COLOURS[colour]
    return row


def _name(split: str, number: int) -> str:
    return f"conflict/{split}/{number:05d}.png"
