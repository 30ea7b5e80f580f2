"""A tree of kinds with names and textures: a node looks like its parent, with a texture of its own added.

A node is the tuple of branches that lead to it: ``()`` is the root, ``(0, 2)`` the third child of the first child. The
look of a leaf is the sum of one fixed random texture for each node on its way from the root, so that all leaves below
a node have its texture in common, and nothing else tells what belongs together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from moiety.worlds.board import CELL, GREY

Node = tuple[int, ...]
BLOCK = 2
"""Side in pixels of the uniform squares of a texture."""
STRENGTH, NOISE = 30.0, 10.0
"""How far one texture, and the noise, move a pixel from middle grey; pixels lie in 0..255."""
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Tree:
    """All nodes below the root, their names and their textures.

    Args:
        branching: Children of a node, at least 2.
        depth: Levels below the root, at least 2; the leaves form the last level.
        names: Node -> words.
        textures: Node -> -1 or 1 for each pixel, ``(CELL, CELL, 3)``.
    """

    branching: int
    depth: int
    names: dict[Node, str]
    textures: dict[Node, np.ndarray]

    @property
    def leaves(self) -> list[Node]:
        """Nodes of the last level."""
        return [node for node in self.names if len(node) == self.depth]

    def siblings(self, node: Node) -> list[Node]:
        """The other children of its parent."""
        return [(*node[:-1], branch) for branch in range(self.branching) if branch != node[-1]]


def grow(branching: int, depth: int, names: Literal["named", "path"], rng: np.random.Generator) -> Tree:
    """A tree with random textures. Its names tell either nothing or everything about the place of a node.

    Args:
        branching: Children of a node, 2 to 9.
        depth: Levels below the root, at least 2.
        names: ``named``: each node has an arbitrary word of two syllables; ``path``: its branches from the root, as
            digits from 1.
        rng: Source of all random choices.

    Raises:
        ValueError: `branching` or `depth` is out of range, or there are more nodes than words.
    """
    if not 2 <= branching <= 9 or depth < 2:
        raise ValueError(f"branching={branching} must lie in 2..9 and depth={depth} must be at least 2")
    nodes = [node for level in range(1, depth + 1) for node in itertools.product(range(branching), repeat=level)]
    syllables = [first + second for first in _CONSONANTS for second in _VOWELS]
    if names == "named" and len(nodes) > len(syllables) ** 2:
        raise ValueError(
            f"{len(nodes)} nodes, but only {len(syllables) ** 2} words of two syllables: name them by path"
        )
    words = rng.choice(len(syllables) ** 2, min(len(nodes), len(syllables) ** 2), replace=False).tolist()
    named = {
        node: " ".join(str(branch + 1) for branch in node)
        if names == "path"
        else syllables[words[number] // len(syllables)] + syllables[words[number] % len(syllables)]
        for number, node in enumerate(nodes)
    }
    blocks = rng.integers(0, 2, (len(nodes), CELL // BLOCK, CELL // BLOCK, 3)) * 2.0 - 1.0
    textures = blocks.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)
    return Tree(branching, depth, named, dict(zip(nodes, textures, strict=True)))


def mosaic(tree: Tree, leaves: list[Node], side: int, rng: np.random.Generator) -> Image.Image:
    """A picture of ``side x side`` cells with one leaf in each of the first cells, slightly noisy.

    Args:
        tree: Has the textures.
        leaves: The leaves to show, in reading order.
        side: Number of cells in a row.
        rng: Source of the noise.
    """
    pixels = np.full((side * CELL, side * CELL, 3), GREY)
    for place, leaf in enumerate(leaves):
        row, column = divmod(place, side)
        look = sum(tree.textures[leaf[:level]] for level in range(1, len(leaf) + 1))
        cell = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        cell += STRENGTH * look + NOISE * rng.standard_normal(cell.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
