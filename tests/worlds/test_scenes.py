import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from moiety.evaluate.question_floors import question_only_floor
from moiety.vlm.images import Images
from moiety.vlm.rows import load_rows
from moiety.worlds.scenes import COLOURS, PLACES, TYPES, Placed, SceneFiles, _split_sources, caption, draw, write_scenes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SceneFiles:
    return write_scenes(tmp_path_factory.mktemp("scenes"), num_train=120, num_test=60, seed=3)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_same_seed_writes_the_same_bytes(world: SceneFiles, tmp_path: Path) -> None:
    again = write_scenes(tmp_path / "again", num_train=120, num_test=60, seed=3)
    other = write_scenes(tmp_path / "other", num_train=120, num_test=60, seed=4)
    for field in ("train", "test", "captions"):
        assert getattr(world, field).read_bytes() == getattr(again, field).read_bytes()
        assert getattr(world, field).read_bytes() != getattr(other, field).read_bytes()
    assert [path.read_bytes() for path in world.images] == [path.read_bytes() for path in again.images]


def test_existence_questions_are_balanced_for_every_object(world: SceneFiles) -> None:
    train, test = load_rows([world.train]), load_rows([world.test])
    for rows in (train, test):
        counts = Counter((row.turns[0].text, row.answers[0]) for row in rows if row.type == "exist")
        asked = {text for text, _ in counts}
        assert len(asked) == 10
        assert all(counts[text, "yes"] == counts[text, "no"] > 0 for text in asked)
    assert question_only_floor(train, test)["exist"] == 0.5


def test_rows_are_whole_and_answers_are_single_words(world: SceneFiles) -> None:
    images = Images(world.images)
    for path in (world.train, world.test):
        rows = load_rows([path])
        assert {row.type for row in rows} == set(TYPES)
        assert len({row.id for row in rows}) == len(rows)
        for row in rows:
            assert row.num_marks == len(row.images) == 1
            assert row.images[0] in images
            assert " " not in row.turns[-1].text
            assert row.answers == (row.turns[-1].text,)
    assert images[rows[0].images[0]].size == (32, 32)


def is_true(kind: str, question: str, answer: str, scene: list[Placed]) -> bool:
    """Whether some digit of the scene makes the answer right."""
    fitting = {
        "place": lambda placed: f"at the {placed.place}?" in question and str(placed.digit) == answer,
        "colour": lambda placed: f"the {placed.digit}?" in question and placed.colour == answer,
        "parity": lambda placed: f"the {placed.colour} digit" in question and placed.digit % 2 == (answer == "odd"),
        "count": lambda placed: len(scene) == int(answer),
        "exist": lambda placed: f"a {placed.digit}?" in question,
    }[kind]
    return any(map(fitting, scene)) == (answer != "no")


def test_questions_agree_with_the_scene(world: SceneFiles) -> None:
    scenes = {row["image"]: [Placed(**placed) for placed in row["objects"]] for row in lines(world.captions)}
    assert len(scenes) == 120
    for row in lines(world.train):
        question = row["conversations"][0]["value"]
        assert is_true(row["type"], question, row["answers"][0], scenes[row["image"]]), row


def test_scenes_are_unambiguous_and_splits_share_no_scan(world: SceneFiles) -> None:
    for row in lines(world.captions):
        scene = row["objects"]
        assert 1 <= len(scene) <= 3
        for key in ("digit", "colour", "place"):
            assert len({placed[key] for placed in scene}) == len(scene)
        places = [PLACES.index(placed["place"]) for placed in scene]
        assert places == sorted(places)
    sources = _split_sources(np.random.default_rng(3))
    train, test = (set(np.concatenate(sources[split]).tolist()) for split in ("train", "test"))
    assert not train & test
    assert len(train | test) == 1797
    assert {placed["source"] for row in lines(world.captions) for placed in row["objects"]} <= train


def test_a_digit_is_drawn_in_its_place_and_colour() -> None:
    scans = load_digits().images
    picture = np.asarray(draw([Placed(0, "red", "bottom left", 0)], scans, 32)).astype(int)
    bright = picture.max(-1) > 100
    assert bright[16:, :16].sum() > 20
    assert bright.sum() == bright[16:, :16].sum()
    strongest = picture.reshape(-1, 3)[picture.sum(-1).argmax()]
    assert np.abs(strongest - COLOURS["red"]).max() < 12


def test_captions_name_everything() -> None:
    placed = Placed(7, "red", "top left", 0)
    second = dataclasses.replace(placed, digit=3, colour="blue", place="top right")
    third = dataclasses.replace(placed, digit=5, colour="green", place="bottom left")
    assert caption([placed]) == "a red 7 at the top left."
    assert caption([placed, second, third]) == (
        "a red 7 at the top left, a blue 3 at the top right and a green 5 at the bottom left."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_train": 19}, "num_train=19 and num_test=400: a split needs at least 20 scenes"),
        ({"num_test": 0}, "num_train=2000 and num_test=0: a split needs"),
        ({"canvas": 16}, "canvas=16: two digits a side need at least 24 pixels"),
    ],
)
def test_impossible_worlds(tmp_path: Path, given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_scenes(tmp_path, **given)
