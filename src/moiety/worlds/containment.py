"""Containment: is a statement true of a picture? Statements about kinds, about parts, and about parts by kind.

``is_a``: a picture shows four leaves of a tree of kinds. A true statement names a kind, of any level, that one of the
leaves belongs to. A false statement names a sibling of such a kind that no leaf in the picture belongs to. With
arbitrary names, training never affirms half of all pairs (leaf, kind), and the test asks for those. With names that
spell the path, training never names the two lowest levels.
``part_of``: a picture shows six of forty facts (a shape in a colour). A statement lists one to four facts. In a false
one, one fact is replaced by a fact that the picture does not show.
``mixed``: as ``part_of``, with the pictures and kinds of ``is_a``.

There are as many true as false statements, for ``is_a`` about each kind, so that the statement alone gives the right
answer half of the time. Each question turn says for the cone loss whether the statement belongs to the picture.

Source:
    AsyMoE's claim that hyperbolic experts suit the containment of text in a scene (arXiv 2606.00275, section 4.2);
    these worlds are ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from moiety.worlds.board import COLOURS, SYMBOLS, board, light
from moiety.worlds.files import WorldFiles, files_in, question_row, write_pictures, write_rows
from moiety.worlds.tree import Node, Tree, grow, mosaic

Form = Literal["is_a", "part_of", "mixed"]
Names = Literal["named", "path"]
LEAVES, LEAF_SIDE = 4, 2
FACTS, FACTS_SHOWN, FACT_SIDE = 40, 6, 3
MOST_PARTS = {"part_of": 4, "mixed": 3}
PER_SCENE = 6
UNSEEN_LEVELS = 2


@dataclass(frozen=True)
class Statement:
    """A statement about one scene: its words, whether it is true, and the type of question."""

    text: str
    holds: bool
    kind: str


@dataclass(frozen=True)
class _World:
    """One form of the world: how scenes are drawn at random, shown and described.

    Args:
        side: Number of cells in a row of a picture.
        content: Draws the content of a scene at random.
        show: Makes its picture.
        state: Makes statements about it for a split.
    """

    side: int
    content: Callable[[], list[Any]]
    show: Callable[[list[Any]], Image.Image]
    state: Callable[[list[Any], str], list[Statement]]


def write_containment(
    folder: str | Path,
    *,
    form: Form = "is_a",
    names: Names = "named",
    num_train: int = 20_000,
    num_test: int = 400,
    branching: int = 3,
    depth: int = 4,
    seed: int = 0,
) -> WorldFiles:
    """Write pictures and yes/no questions; the same arguments write the same bytes.

    Args:
        folder: Where the files go; files of an earlier call are overwritten.
        form: Kind of containment: ``is_a``, ``part_of`` or ``mixed``.
        names: Words for the kinds: arbitrary, or the path from the root.
        num_train: Approximate number of training questions; surplus questions are dropped for balance.
        num_test: Approximate number of test questions of each type, at least 2.
        branching: Children of each kind.
        depth: Levels of the tree; with names by path at least 3.
        seed: Seed of all random choices.

    Raises:
        ValueError: a number or a name is out of range.
    """
    if form not in get_args(Form) or names not in get_args(Names):
        raise ValueError(f"form={form!r} must be one of {get_args(Form)} and names={names!r} one of {get_args(Names)}")
    if num_train < 20 * PER_SCENE or num_test < 2:
        raise ValueError(
            f"num_train={num_train} and num_test={num_test}: give at least {20 * PER_SCENE} training questions and 2 "
            "test questions of each type"
        )
    if names == "path" and depth <= UNSEEN_LEVELS:
        raise ValueError(f"depth={depth}: the {UNSEEN_LEVELS} lowest levels are kept for the test, so give more")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    world = _facts(rng) if form == "part_of" else _kinds(form, grow(branching, depth, names, rng), names, rng)
    files = files_in(folder, ("train", "test"))
    types = len({said.kind for _ in range(50) for said in world.state(world.content(), "test")})
    sizes = {"train": num_train * 5 // 4, "test": num_test * types * 4}  # balance drops some, mostly in the test
    for (split, size), tar in zip(sizes.items(), files.images, strict=True):
        scenes = [world.content() for _ in range(-(-size // PER_SCENE))]
        most = num_test // 2 if split == "test" else None
        said = _balanced([world.state(scene, split) for scene in scenes], form == "is_a", rng, most)
        rows = [row for number, found in enumerate(said) for row in _rows(found, number, split)]
        write_rows(files.conversations[split], rows)
        write_pictures(tar, ((_name(split, n), world.show(scene)) for n, scene in enumerate(scenes) if said[n]))
    return files


def _kinds(form: Form, tree: Tree, names: Names, rng: np.random.Generator) -> _World:
    """Scenes of leaves, and statements about them that name one kind or several."""
    leaves = tree.leaves
    held_out = _held_out(tree, names, rng)

    def content() -> list[Node]:
        return [leaves[index] for index in rng.choice(len(leaves), LEAVES, replace=False)]

    def show(scene: list[Node]) -> Image.Image:
        return mosaic(tree, scene, LEAF_SIDE, rng)

    def kinds(scene: list[Node], split: str) -> list[Statement]:
        found = []
        for leaf in scene:
            level = int(rng.integers(1, tree.depth + 1))
            found += _about_kind(tree, scene, leaf, level, split, held_out, rng)
        return found

    def parts(scene: list[Node], split: str) -> list[Statement]:
        return [said for _ in range(PER_SCENE // 2) for said in _about_several(tree, scene, split, held_out, rng)]

    return _World(LEAF_SIDE, content, show, kinds if form == "is_a" else parts)


def _held_out(tree: Tree, names: Names, rng: np.random.Generator) -> set[tuple[Node, Node]]:
    """Pairs (leaf, kind) that training never affirms: half of the leaves of each kind, or the lowest levels."""
    pairs = set()
    for kind in tree.names:
        below = [leaf for leaf in tree.leaves if leaf[: len(kind)] == kind]
        if names == "path":
            pairs |= {(leaf, kind) for leaf in below if len(kind) > tree.depth - UNSEEN_LEVELS}
        elif len(below) > 1:  # a leaf is its own only member: without affirmation its name could not be learned
            pairs |= {(below[index], kind) for index in rng.permutation(len(below))[: len(below) // 2].tolist()}
    return pairs


def _about_kind(
    tree: Tree,
    scene: Sequence[Node],
    leaf: Node,
    level: int,
    split: str,
    held_out: set[tuple[Node, Node]],
    rng: np.random.Generator,
) -> list[Statement]:
    """A true statement about the kind of `leaf` at `level`, and a false one about a sibling of that kind, if possible.

    Training affirms no held-out pair: it names a kind only if at least one shown leaf below it is not held out. The
    test asks only for held-out pairs, and for kinds without any (leaves by their own name).
    """
    kind = leaf[:level]
    members = [shown for shown in scene if shown[:level] == kind]
    new = all((shown, kind) in held_out for shown in members)
    known_kind = not any((shown, kind) in held_out for shown in tree.leaves)
    label = f"level{level}"
    found = []
    if (split == "train" and not new) or (split == "test" and (new or known_kind)):
        found.append(Statement(_is_there(tree.names[kind]), True, label))
    by_path = all((shown, kind) in held_out for shown in tree.leaves if shown[:level] == kind)
    brothers = [node for node in tree.siblings(kind) if not any(shown[:level] == node for shown in scene)]
    if brothers and not (split == "train" and by_path):
        found.append(Statement(_is_there(tree.names[brothers[int(rng.integers(len(brothers)))]]), False, label))
    return found


def _about_several(
    tree: Tree, scene: Sequence[Node], split: str, held_out: set[tuple[Node, Node]], rng: np.random.Generator
) -> list[Statement]:
    """A true list of kinds of different leaves, and a false one in which an absent sibling replaces one kind."""
    count = int(rng.integers(1, MOST_PARTS["mixed"] + 1))
    shown = [scene[index] for index in rng.permutation(len(scene))[:count]]
    kinds = []
    for leaf in shown:
        levels = [n for n in range(1, tree.depth + 1) if split == "test" or (leaf, leaf[:n]) not in held_out]
        kinds.append(leaf[: int(rng.choice(levels))])
    place = int(rng.integers(count))
    brothers = [n for n in tree.siblings(kinds[place]) if not any(leaf[: len(n)] == n for leaf in scene)]
    if not brothers:
        return []
    false = [*kinds[:place], brothers[int(rng.integers(len(brothers)))], *kinds[place + 1 :]]
    return [
        Statement(_is_there(" and ".join(tree.names[kind] for kind in said)), said is kinds, f"parts{count}")
        for said in (kinds, false)
    ]


def _facts(rng: np.random.Generator) -> _World:
    """Scenes of facts (a shape in a colour), and lists of facts of which at most one is absent."""
    chosen = rng.choice(len(SYMBOLS) * len(COLOURS), FACTS, replace=False).tolist()
    facts = [(list(SYMBOLS)[number // len(COLOURS)], number % len(COLOURS)) for number in chosen]

    def content() -> list[int]:
        return rng.choice(FACTS, FACTS_SHOWN, replace=False).tolist()

    def show(scene: list[int]) -> Image.Image:
        places = rng.choice(FACT_SIDE**2, len(scene), replace=False).tolist()
        cells = [(place, facts[fact][0], light(facts[fact][1])) for place, fact in zip(places, scene, strict=True)]
        return board(cells, FACT_SIDE)

    def words(said: Sequence[int]) -> str:
        return _is_there(" and ".join(f"{COLOURS[facts[fact][1]]} {facts[fact][0]}" for fact in said))

    def state(scene: list[int], split: str) -> list[Statement]:
        found = []
        for _ in range(PER_SCENE // 2):
            count = int(rng.integers(1, MOST_PARTS["part_of"] + 1))
            true = [scene[index] for index in rng.permutation(len(scene))[:count].tolist()]
            absent = int(rng.choice([fact for fact in range(FACTS) if fact not in scene]))
            place = int(rng.integers(count))
            false = [*true[:place], absent, *true[place + 1 :]]
            found += [Statement(words(true), True, f"parts{count}"), Statement(words(false), False, f"parts{count}")]
        return found

    return _World(FACT_SIDE, content, show, state)


def _is_there(words: str) -> str:
    return f"Is there {words}"


def _balanced(
    said: Sequence[Sequence[Statement]], per_text: bool, rng: np.random.Generator, most: int | None = None
) -> list[list[Statement]]:
    """Choose statements of each scene at random, with as many true as false ones for each text or type of question.

    At most `most` pairs of a true and a false statement are kept for each type of question.
    """
    places: dict[object, dict[bool, list[tuple[int, int]]]] = defaultdict(lambda: {True: [], False: []})
    for number, statements in enumerate(said):
        for place, statement in enumerate(statements):
            places[statement.text if per_text else statement.kind][statement.holds].append((number, place))
    pairs: dict[str, list[Any]] = defaultdict(list)
    for found in places.values():
        size = min(map(len, found.values()))
        true, false = ([side[index] for index in rng.permutation(len(side))[:size].tolist()] for side in found.values())
        for one, other in zip(true, false, strict=True):
            pairs[said[one[0]][one[1]].kind].append((one, other))
    kept: set[tuple[int, int]] = set()
    for found_pairs in pairs.values():
        for index in rng.permutation(len(found_pairs))[:most].tolist():
            kept |= set(found_pairs[index])
    return [
        [statement for place, statement in enumerate(statements) if (number, place) in kept]
        for number, statements in enumerate(said)
    ]


def _rows(found: Sequence[Statement], number: int, split: str) -> list[dict[str, Any]]:
    """Questions about one scene; ``order`` says whether the statement belongs to the picture."""
    rows = []
    for place, said in enumerate(found):
        name = f"containment-{split}-{number:05d}-{place}"
        row = question_row(name, _name(split, number), said.text, "yes" if said.holds else "no", said.kind, split)
        row["conversations"][0]["order"] = int(said.holds)
        rows.append(row)
    return rows


def _name(split: str, number: int) -> str:
    return f"containment/{split}/{number:05d}.png"
