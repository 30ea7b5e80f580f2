"""The worlds of ``cones.py``: each is a source of scenes, each with a true and a false caption.

- :class:`Tree`: a tree of kinds (branching 3, depth 5, 243 leaves). The token of a leaf is the sum of a fixed random
  vector for each of its ancestors, plus noise. A scene has four leaves. A caption names one node, or up to four. It is
  true if a leaf of the scene lies below that node. In the false caption a sibling replaces a true node; no leaf of the
  scene lies below the sibling. For each kind a third of its leaves is never trained with it, and the test uses these
  pairs.
- :class:`Facts`: 40 facts with a random vector each. A scene has six facts, and a caption states one to four of them.
  In the false caption one fact is replaced by an absent one. The test uses new scenes.
- :class:`Photos`: photos of groceries with their group, kind and sort (fruit, apple, Granny Smith), as features of the
  vision tower and projector of a model. A caption names one of the three, and the false caption names a sibling of it.
  Training photos are used for training, test photos for the test.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

BRANCHING, DEPTH, LEAVES, TOKEN, NOISE = 3, 5, 4, 64, 0.3
FACTS, SHOWN, TOLD = 40, 6, 4


class World(Protocol):
    """A source of questions.

    Args:
        num_names: Names that captions are made of.
        num_features: Size of a token.
        told: Largest number of names in a caption.
    """

    @property
    def num_names(self) -> int: ...

    @property
    def num_features(self) -> int: ...

    @property
    def told(self) -> int: ...

    def questions(self, number: int, trained: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Scenes ``(number, tokens, num_features)`` with a true and a false caption each: ``(number,)``, or
        ``(number, told)`` padded with -1 if captions name several."""
        ...

    def level_of(self, captions: Tensor) -> Tensor:
        """The level of each caption, by which results are grouped, ``(number,)``."""
        ...


@dataclass
class Tree:
    """The kinds: node 0 is the root, which no caption names.

    Args:
        parent: Parent of each node, ``(nodes,)``.
        level: Distance from the root, ``(nodes,)``.
        above: Whether a node is an ancestor of a leaf, the leaf itself included, ``(leaves, nodes)``.
        held_out: Pairs that training never affirms, ``(leaves, nodes)``.
        token: Picture token of each leaf, ``(leaves, TOKEN)``.
        told: Largest number of names in a caption.
    """

    parent: Tensor
    level: Tensor
    above: Tensor
    held_out: Tensor
    token: Tensor
    told: int = 1

    @classmethod
    def grow(cls, generator: torch.Generator, told: int = 1) -> Tree:
        parent, level = [0], [0]
        first = [0]
        for depth in range(1, DEPTH + 1):
            nodes = [len(parent) + i for i in range(len(first) * BRANCHING)]
            parent += [first[i // BRANCHING] for i in range(len(nodes))]
            level += [depth] * len(nodes)
            first = nodes
        parents, levels = torch.tensor(parent), torch.tensor(level)
        above = torch.zeros(len(first), len(parent), dtype=torch.bool)
        node = torch.tensor(first)
        for _ in range(DEPTH):
            above[torch.arange(len(first)), node] = True
            node = parents[node]
        # the same share of every kind's leaves, so that no name is true more often than another
        draw = torch.rand(above.shape, generator=generator).masked_fill(~above, 2.0)
        held_out = above & (draw.argsort(0).argsort(0) < above.sum(0) // 3) & (levels < DEPTH)
        vectors = torch.randn(len(parent), TOKEN, generator=generator) / TOKEN**0.5
        return cls(parents, levels, above, held_out, above.float() @ vectors, told)

    @property
    def num_names(self) -> int:
        return len(self.parent)

    @property
    def num_features(self) -> int:
        return TOKEN

    def level_of(self, captions: Tensor) -> Tensor:
        """Level of the name that tells a true caption from a false one, ``(number,)``."""
        return self.level[captions if captions.dim() == 1 else captions[:, 0]]

    def questions(self, number: int, trained: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Scenes ``(number, LEAVES, TOKEN)``, a true and a false caption of each, ``(number,)``.

        Training affirms pairs that are not held out; the test asks the others. Where captions may name several kinds
        they are ``(number, told)``, -1 where short: the kind in question, then trained ones that the scene has.
        """
        scenes, true, false, others = [], [], [], []
        while len(true) < number:
            leaves = torch.randint(len(self.above), (LEAVES,), generator=generator)
            shown = self.above[leaves].any(0)
            wanted = (self.above & (~self.held_out if trained else self.held_out))[leaves].any(0)
            if not trained:  # a pair is unseen only if no other leaf of the scene was trained with the same kind
                wanted &= ~(self.above & ~self.held_out)[leaves].any(0)
            brothers = torch.zeros_like(shown).scatter_(0, self.parent[shown], True)[self.parent] & ~shown
            brothers[0] = False
            good, bad = wanted.nonzero().flatten(), brothers.nonzero().flatten()
            if len(good) and len(bad):
                true.append(good[torch.randint(len(good), (1,), generator=generator)])
                same = bad[self.level[bad] == self.level[true[-1]]]
                bad = same if len(same) else bad
                false.append(bad[torch.randint(len(bad), (1,), generator=generator)])
                noise = NOISE * torch.randn(LEAVES, TOKEN, generator=generator) / TOKEN**0.5
                scenes.append(self.token[leaves] + noise)
                if self.told > 1:
                    seen = (self.above & ~self.held_out)[leaves].any(0)
                    seen[true[-1]] = False
                    others.append(self.some_of(seen.nonzero().flatten(), generator))
        kinds = torch.cat(true), torch.cat(false)
        if self.told > 1:
            kinds = tuple(torch.cat([kind[:, None], torch.stack(others)], 1) for kind in kinds)
        return torch.stack(scenes), *kinds

    def some_of(self, names: Tensor, generator: torch.Generator) -> Tensor:
        """A random choice of 0 to ``told - 1`` of `names`, padded with -1."""
        number = int(torch.randint(self.told, (1,), generator=generator))
        chosen = names[torch.randperm(len(names), generator=generator)[:number]]
        return torch.cat([chosen, chosen.new_full((self.told - 1 - len(chosen),), -1)])


@dataclass
class Facts:
    """Scenes that are sets of facts; a caption states some of them.

    Args:
        token: Picture token of each fact, ``(FACTS, TOKEN)``.
    """

    token: Tensor
    told: int = TOLD

    @classmethod
    def draw(cls, generator: torch.Generator) -> Facts:
        return cls(torch.randn(FACTS, TOKEN, generator=generator) / TOKEN**0.5)

    @property
    def num_names(self) -> int:
        return FACTS

    @property
    def num_features(self) -> int:
        return TOKEN

    def questions(self, number: int, trained: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Scenes ``(number, SHOWN, TOKEN)``, a true and a false caption of each, ``(number, TOLD)``, -1 where short.

        Every scene is drawn again, so the test asks about new ones.
        """
        order = torch.rand(number, FACTS, generator=generator).argsort(-1)
        shown, absent = order[:, :SHOWN], order[:, SHOWN]
        short = torch.arange(TOLD) > torch.randint(TOLD, (number, 1), generator=generator)
        true = shown[:, :TOLD].masked_fill(short, -1)
        false = true.clone()
        false[:, 0] = absent
        noise = NOISE * torch.randn(number, SHOWN, TOKEN, generator=generator) / TOKEN**0.5
        return self.token[shown] + noise, true, false

    def level_of(self, captions: Tensor) -> Tensor:
        """The number of facts that a caption states, ``(number,)``."""
        return (captions >= 0).sum(-1)


@dataclass
class Photos:
    """Photos of a hierarchy of kinds.

    Args:
        names: Every name of a group, a kind or a sort.
        parent: Parent of each name, ``(names,)``; -1 for a group.
        level: 1 group, 2 kind, 3 sort, ``(names,)``.
        tokens: Tokens of the training and the test photos, ``(photos, tokens, features)``.
        sort: The sort of each photo as index into `names`.
    """

    names: Sequence[str]
    parent: Tensor
    level: Tensor
    tokens: dict[bool, Tensor]
    sort: dict[bool, Tensor]
    told: int = 1

    @property
    def num_names(self) -> int:
        return len(self.names)

    @property
    def num_features(self) -> int:
        return self.tokens[True].shape[-1]

    def questions(self, number: int, trained: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """One photo for each scene; the level of the caption is drawn first, so all levels are equally frequent."""
        photo, true, false = [], [], []
        while len(true) < number:
            row = int(torch.randint(len(self.sort[trained]), (1,), generator=generator))
            level, name = int(torch.randint(1, 4, (1,), generator=generator)), int(self.sort[trained][row])
            while self.level[name] > level:
                name = int(self.parent[name])
            brothers = ((self.parent == self.parent[name]) & (torch.arange(self.num_names) != name)).nonzero().flatten()
            if self.level[name] == level and len(brothers):
                photo.append(row)
                true.append(name)
                false.append(int(brothers[torch.randint(len(brothers), (1,), generator=generator)]))
        return self.tokens[trained][photo], torch.tensor(true), torch.tensor(false)

    def level_of(self, captions: Tensor) -> Tensor:
        """1 group, 2 kind, 3 sort, ``(number,)``."""
        return self.level[captions]

    @classmethod
    def read(cls, folder: Path, model: str) -> Photos:
        """Photos of the grocery data as features of `model`: four tokens each, the means of the four quarters.

        No question is asked about a sort that is the only one of its kind.
        """
        items = [json.loads(line) for line in gzip.decompress((folder / "items.jsonl.gz").read_bytes()).splitlines()]
        names, parent, level = [], [], []
        place: dict[tuple[str, ...], int] = {}
        for item in items:
            path = (item["super"], item["coarse"], item["fine"])
            for depth in range(1, 4):
                if path[:depth] not in place:
                    place[path[:depth]] = len(names)
                    names.append(path[depth - 1])
                    parent.append(place[path[: depth - 1]] if depth > 1 else -1)
                    level.append(depth)
        tokens, sort = {}, {}
        for trained, split in ((True, "train"), (False, "test")):
            rows = [item for item in items if item["split"] == split]
            sort[trained] = torch.tensor([place[item["super"], item["coarse"], item["fine"]] for item in rows])
            tokens[trained] = seen([f"grocery/{split}/{item['id']}.jpg" for item in rows], folder, split, model)
        scale = tokens[True].std()
        return cls(
            names, torch.tensor(parent), torch.tensor(level), {key: x / scale for key, x in tokens.items()}, sort
        )


def seen(names: Sequence[str], folder: Path, split: str, source: str) -> Tensor:
    """The output of a model's projector, averaged over quarters of the picture, ``(photos, 4, hidden)``."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from moiety.vlm.images import Images

    images = Images([folder / f"images-{split}.tar"])
    processor: Any = AutoProcessor.from_pretrained(source)
    model: Any = AutoModelForImageTextToText.from_pretrained(source).eval()
    found = []
    with torch.no_grad():
        for first in range(0, len(names), 64):
            pictures = [images[name] for name in names[first : first + 64]]
            pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
            grid = torch.stack(list(model.get_image_features(pixels).pooler_output))
            side = int(grid.shape[1] ** 0.5)
            square = grid.view(-1, 2, side // 2, 2, side // 2, grid.shape[-1])
            found.append(square.mean((2, 4)).flatten(1, 2))
    return torch.cat(found)
