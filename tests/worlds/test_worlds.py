"""Made worlds: the same bytes again, questions that agree with what is drawn, balance where it is promised."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety.evaluate.question_floors import question_only_floor
from moiety.vlm.images import Images
from moiety.vlm.rows import load_rows
from moiety.worlds import WorldFiles, bayes_accuracy, write_conflict, write_containment
from moiety.worlds.board import AXES, BACKGROUND, CELL, COLOURS, GREY, SYMBOLS, board, ink, light
from moiety.worlds.conflict import NUM_RARE, SHAPES, TEST_TYPES
from moiety.worlds.tree import BLOCK, STRENGTH, grow, mosaic

FORMS = [("is_a", "named"), ("is_a", "path"), ("part_of", "named"), ("mixed", "named")]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def question(row: dict[str, Any]) -> str:
    return row["conversations"][0]["value"].removeprefix("<image>\n")


def same_bytes(one: WorldFiles, other: WorldFiles) -> list[bool]:
    pairs = zip([*one.images, *one.conversations.values()], [*other.images, *other.conversations.values()], strict=True)
    return [first.read_bytes() == second.read_bytes() for first, second in pairs]


@pytest.fixture(scope="module")
def conflict(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    return write_conflict(
        tmp_path_factory.mktemp("conflict"),
        num_train=3000,
        num_test=20,
        num_reading=1000,
        num_shown=5,
        seed=3,
        agreement=0.9,
    )


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def containment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    form, names = request.param
    return write_containment(
        tmp_path_factory.mktemp("containment"), form=form, names=names, num_train=2400, num_test=100, seed=3
    )


def seen(picture: Any) -> dict[str, tuple[str, int]]:
    """Shape -> colour and place, read from the pixels alone: what fits each cell best."""
    looks = {
        (shape, colour): ink(shape)[..., None] * light(index) + (1 - ink(shape)[..., None]) * BACKGROUND
        for shape in SHAPES
        for index, colour in enumerate(COLOURS)
    }
    stacked = np.stack(list(looks.values()))
    pixels, found = np.asarray(picture).astype(float), {}
    side = pixels.shape[0] // CELL
    for place in range(side**2):
        row, column = divmod(place, side)
        cell = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        if (cell != BACKGROUND).any():
            shape, colour = list(looks)[int(np.abs(stacked - cell).sum((1, 2, 3)).argmin())]
            found[shape] = colour, place
    return found


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    given: dict[str, Any] = {"num_train": 50, "num_test": 2, "num_reading": 20, "noise": 0.1}
    first, again, other = (
        write_conflict(tmp_path / name, seed=seed, **given) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(same_bytes(first, again))
    assert not any(same_bytes(first, other))


def test_a_world_of_containment_is_the_same_again(tmp_path: Path) -> None:
    first, again, other = (
        write_containment(tmp_path / name, num_train=120, num_test=4, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(same_bytes(first, again))
    assert not any(same_bytes(first, other))


def test_what_is_answered_is_what_is_drawn(conflict: WorldFiles) -> None:
    images = Images(conflict.images)
    for row in [*lines(conflict.conversations["train"])[:60], *lines(conflict.conversations["test"])]:
        shape, shown = question(row).split()[-1], seen(images[row["image"]])
        assert len(shown) == 5
        told = question(row).startswith("Here ")
        if told:
            assert question(row) == f"Here {shape} is {row['evidence_answer']}. Colour of {shape}"
        assert (shape in shown) == (row["type"] != "absent" and not told)
        if shape in shown:
            assert shown[shape][0] == row["evidence_answer"]
        assert row["answers"] == [row.get("evidence_answer", row["prior_answer"])]
        assert row["type"].endswith("conflict") == (row["answers"][0] != row["prior_answer"])


def test_memory_is_worth_having_and_sometimes_wrong(conflict: WorldFiles) -> None:
    rows = lines(conflict.conversations["train"])
    usual = {(question(row).split()[-1], row["prior_answer"]) for row in rows}
    assert len(usual) == len(SHAPES)
    assert set(Counter(colour for _, colour in usual).values()) == {len(SHAPES) // len(COLOURS)}
    counts = Counter(row["type"] for row in rows)
    assert set(counts) == {"consistent", "conflict", "absent", "text_consistent", "text_conflict"}
    told = counts["text_consistent"] + counts["text_conflict"]
    # 3,000 questions: six standard deviations of each share
    assert abs(counts["absent"] / 3000 - 0.15) < 6 * math.sqrt(0.15 * 0.85 / 3000)
    assert abs(told / 3000 - 0.10) < 6 * math.sqrt(0.1 * 0.9 / 3000)
    assert abs(counts["conflict"] / (counts["conflict"] + counts["consistent"]) - 0.1) < 6 * math.sqrt(0.09 / 2250)
    asked = Counter(question(row).split()[-1] for row in rows)
    assert max(asked[shape] for shape in SHAPES[-NUM_RARE:]) < min(asked[shape] for shape in SHAPES[:-NUM_RARE])


def test_every_type_is_tested_equally_often(conflict: WorldFiles) -> None:
    rows = lines(conflict.conversations["test"])
    assert Counter(row["type"] for row in rows) == dict.fromkeys(TEST_TYPES, 20)
    assert len({row["image"] for row in rows}) == len(rows)
    for row in rows:
        assert (question(row).split()[-1] in SHAPES[-NUM_RARE:]) == (row["type"] == "rare_conflict")


def test_full_agreement_never_shows_a_conflict_in_training(tmp_path: Path) -> None:
    files = write_conflict(tmp_path, num_train=500, num_test=3, num_reading=5, agreement=1.0)
    kinds = {row["type"] for row in lines(files.conversations["train"])}
    assert kinds == {"consistent", "absent", "text_consistent"}
    assert {row["type"] for row in lines(files.conversations["test"])} == set(TEST_TYPES)


def test_what_is_learned_first_has_no_usual_colour(conflict: WorldFiles) -> None:
    rows = lines(conflict.conversations["reading-train"])
    images = Images(conflict.images)
    for row in rows[:40]:
        told = question(row).startswith("Here ")
        shown = seen(images[row["image"]])
        assert row["answers"][0] == (row["evidence_answer"] if told else shown[question(row).split()[-1]][0])
    assert {row["type"] for row in rows} == {"reading"}
    agreeing = np.mean([row["answers"] == [row["prior_answer"]] for row in rows])
    assert abs(agreeing - 1 / 6) < 6 * math.sqrt(5 / 36 / 1000)


def test_one_shape_stands_alone_on_its_board(tmp_path: Path) -> None:
    files = write_conflict(tmp_path, num_train=20, num_test=3, num_reading=10)
    images = Images(files.images)
    for row in lines(files.conversations["test"]):
        picture = images[row["image"]]
        assert picture.size == (2 * CELL, 2 * CELL)
        ((shape, (colour, place)),) = seen(picture).items()
        asked = question(row).split()[-1]
        assert (shape == asked) == (row["type"] in ("consistent", "conflict", "rare_conflict"))
        if shape == asked:
            assert colour == row["evidence_answer"]
            left, top = place % 2 / 2, place // 2 / 2
            assert row["answer_box"] == [left, top, left + 0.5, top + 0.5]


@pytest.mark.parametrize(("agreement", "noise"), [(0.98, 0.3), (0.9, 0.3), (0.98, 0.4)])
def test_the_best_reader_is_as_good_as_the_formula_says(agreement: float, noise: float) -> None:
    argument = (1 / noise**2 - math.log(5 * agreement / (1 - agreement))) * noise / math.sqrt(2)
    formula = 0.5 * (1 + math.erf(argument / math.sqrt(2)))
    # the formula takes all colours for equally distant; one in five pairs is further apart. Measured: 0.008 to 0.034
    assert abs(bayes_accuracy(agreement, noise) - formula) < 0.04
    assert bayes_accuracy(agreement, 0.05) == 1.0


def test_noise_moves_the_light_of_a_colour() -> None:
    assert np.abs(light(0, (0.1, 0, 0)) - light(0)).tolist() == pytest.approx([6.4, 0, 0])
    assert AXES.shape == (len(COLOURS), 3)
    flat = [ink(shape).ravel() for shape in SYMBOLS]
    nearest = min(np.abs(one - other).mean() for one, other in itertools.combinations(flat, 2))
    assert nearest > 0.08  # measured 0.11: no two shapes look alike
    assert board([], 2).size == (2 * CELL, 2 * CELL)


def test_true_and_false_are_equally_many(containment: WorldFiles) -> None:
    train, test = (load_rows([containment.conversations[split]]) for split in ("train", "test"))
    for rows in (train, test):
        per_type = Counter((row.type, row.answers[0]) for row in rows)
        assert all(per_type[kind, "yes"] == per_type[kind, "no"] > 0 for kind, _ in per_type)
        assert len({row.id for row in rows}) == len(rows)
    floor = question_only_floor(train, test)
    assert all(value < 0.7 for value in floor.values()), floor  # few rows: lists of parts hardly repeat


def test_the_order_mark_says_whether_a_statement_holds(containment: WorldFiles) -> None:
    images = Images(containment.images)
    for split in ("train", "test"):
        for row in lines(containment.conversations[split]):
            asked, answered = row["conversations"]
            assert asked["order"] == int(answered["value"] == "yes")
            assert row["image"] in images


def test_kinds_named_alone_are_balanced_and_new_in_the_test(tmp_path: Path) -> None:
    """Each kind is affirmed as often as denied, and no pair of a leaf and its kind is affirmed in both splits."""
    files = write_containment(tmp_path, num_train=900, num_test=20, depth=3, seed=5)
    tree = grow(3, 3, "named", np.random.default_rng(5))
    node_of = {name: node for node, name in tree.names.items()}
    images, told = Images(files.images), defaultdict(list)
    affirmed: dict[str, list[set[Any]]] = {"train": [], "test": []}
    for split in affirmed:
        for row in lines(files.conversations[split]):
            kind = node_of[question(row).removeprefix("Is there ")]
            told[split, kind].append(row["answers"][0])
            members = {leaf for leaf in leaves_of(images[row["image"]], tree) if leaf[: len(kind)] == kind}
            assert bool(members) == (row["answers"] == ["yes"])
            assert row["type"] == f"level{len(kind)}"
            if members and len(kind) < tree.depth:
                affirmed[split].append({(leaf, kind) for leaf in members})
    assert all(answers.count("yes") == answers.count("no") for answers in told.values())
    known = set.union(*(pairs for pairs in affirmed["train"] if len(pairs) == 1))
    assert len(known) > 20
    assert not any(pairs & known for pairs in affirmed["test"])


def leaves_of(picture: Any, tree: Any) -> list[Any]:
    """What a picture shows, read from its pixels: the leaf whose textures fit each cell best."""
    looks = np.stack([sum(tree.textures[leaf[:n]] for n in range(1, tree.depth + 1)) for leaf in tree.leaves])
    pixels, found = np.asarray(picture).astype(float), []
    for row, column in itertools.product(range(pixels.shape[0] // CELL), repeat=2):
        cell = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] - GREY
        found.append(tree.leaves[int(np.square(cell - STRENGTH * looks).sum((1, 2, 3)).argmin())])
    return found


def test_leaves_below_one_kind_look_alike() -> None:
    tree = grow(2, 4, "path", np.random.default_rng(0))
    picture = mosaic(tree, [(0, 0, 0, 0), (0, 0, 0, 1), (1, 1, 1, 1)], 2, np.random.default_rng(0))
    pixels = np.asarray(picture).astype(float)
    one, near, far = pixels[:CELL, :CELL], pixels[:CELL, CELL:], pixels[CELL:, :CELL]
    assert np.square(one - near).mean() < 0.5 * np.square(one - far).mean()
    assert tree.names[(0, 1, 0)] == "1 2 1"
    assert (tree.textures[(0,)][:BLOCK, :BLOCK] == tree.textures[(0,)][0, 0]).all()


def test_the_lowest_levels_are_never_named_by_path_in_training(tmp_path: Path) -> None:
    files = write_containment(tmp_path, names="path", num_train=600, num_test=100, seed=1)
    assert {row["type"] for row in lines(files.conversations["train"])} == {"level1", "level2"}
    assert {row["type"] for row in lines(files.conversations["test"])} == {"level1", "level2", "level3", "level4"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"num_train": 7, "num_shown": 5},
            "num_train=7, num_reading=10000 and .*: give positive multiples of num_shown=5",
        ),
        ({"num_shown": 13}, "num_shown=13 must lie in 1..12"),
        ({"num_reading": 0}, "num_reading=0 and num_test=400: give"),
        ({"num_test": 0}, "num_reading=10000 and num_test=0: give"),
        ({"agreement": 0.0}, r"agreement=0.0 must lie in \(0, 1\] and noise=0.0"),
        ({"noise": -1.0}, "agreement=0.98 must .* and noise=-1.0 must be finite and >= 0"),
    ],
)
def test_impossible_conflicts(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_conflict(tmp_path, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"form": "has_a"}, "form='has_a' must be one of .*'part_of'.* and names='named'"),
        ({"names": "numbers"}, "names='numbers' one of"),
        ({"num_train": 10}, "num_train=10 and num_test=400: give at least 120 training questions"),
        ({"names": "path", "depth": 2}, "depth=2: the 2 lowest levels are kept for the test"),
        ({"branching": 1}, r"branching=1 must lie in 2..9 and depth=4 must be at least 2"),
        ({"branching": 9}, "7380 nodes, but only 4900 words of two syllables: name them by path"),
    ],
)
def test_impossible_containments(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_containment(tmp_path, **given)
