"""Do hyperbolic cones tell what belongs below what better than flat cones, or than an order of coordinates?

    python benchmarks/cones.py --seeds 8 --steps 600 --out cones.jsonl

The geometry alone, without a language model, on three kinds of containment (``--form``):

- ``is_a``: a tree of kinds (branching 3, depth 5, 243 leaves); the token of a leaf is the sum of a fixed random vector
  for each of its ancestors, plus noise; a scene is four leaves. A caption names one node. It is true of a scene where a
  leaf of the scene lies below that node; the false caption beside it names a brother of a true one under which no leaf
  of the scene lies. For each kind a third of its leaves is never trained with it, and the test asks those pairs.
- ``part_of``: 40 facts with a random vector each; a scene is six of them, a caption one to four of the scene's. The
  false caption has one fact replaced by an absent one. The test asks about new scenes.
- ``mixed``: scenes of ``is_a``, captions of one to four nodes; in the false one a brother takes the place of a node.

A small network reads the scene; a table gives each name its point, or a network reads the set of names: the caption
does not see the scene.

Lorentz and flat cones are trained with the project's own order loss, the order embedding with the hinge of its paper.
Printed: mean area under the ROC curve on hard negatives over seeds, by number of coordinates and apex, with paired
differences and the exact sign-flip p.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from moiety.asymmetric import AsyMoESettings
from moiety.moe import geometry
from moiety.moe.order_loss import default_rho0, order_loss, shift_and_cap
from moiety.permutation import sign_flip_test

BRANCHING, DEPTH, LEAVES, TOKEN, NOISE, BATCH = 3, 5, 4, 64, 0.3, 128
FACTS, SHOWN, TOLD = 40, 6, 4
KINDS = ("lorentz", "euclidean", "order")
KEYS = ("form", "kind", "n", "apex", "seed")


@dataclass
class Tree:
    """The kinds: node 0 is the root, which no caption names.

    Args:
        parent: Parent of each node, ``(nodes,)``.
        level: Distance from the root, ``(nodes,)``.
        above: Whether a node is an ancestor of a leaf, the leaf itself included, ``(leaves, nodes)``.
        held_out: Pairs that training never affirms, ``(leaves, nodes)``.
        token: Picture token of each leaf, ``(leaves, TOKEN)``.
        told: Most names in a caption.
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
        """None to ``told - 1`` of `names` by chance, filled up with -1."""
        number = int(torch.randint(self.told, (1,), generator=generator))
        chosen = names[torch.randperm(len(names), generator=generator)[:number]]
        return torch.cat([chosen, chosen.new_full((self.told - 1 - len(chosen),), -1)])


@dataclass
class Facts:
    """Scenes that are sets of facts, told in part.

    Args:
        token: Picture token of each fact, ``(FACTS, TOKEN)``.
    """

    token: Tensor

    @classmethod
    def draw(cls, generator: torch.Generator) -> Facts:
        return cls(torch.randn(FACTS, TOKEN, generator=generator) / TOKEN**0.5)

    @property
    def num_names(self) -> int:
        return FACTS

    def questions(self, number: int, trained: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Scenes ``(number, SHOWN, TOKEN)``, a true and a false caption of each, ``(number, TOLD)``, -1 where short.

        Every scene is drawn anew, so the test asks about new ones.
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
        """How many facts a caption tells, ``(number,)``."""
        return (captions >= 0).sum(-1)


class Sets(nn.Module):
    """A set of names as one point: their vectors summed, and a network."""

    def __init__(self, names: int, n: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(names + 1, 128, padding_idx=0)
        self.read = nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.Linear(128, n))

    def forward(self, names: Tensor) -> Tensor:
        return self.read(self.vectors(names + 1).sum(1))


class Points(nn.Module):
    """Scene and caption to points: a network over tokens, averaged; a row of a table, or a network over names."""

    def __init__(self, names: int, told: int, n: int, kind: str, settings: AsyMoESettings) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Linear(TOKEN, 128), nn.GELU(), nn.Linear(128, 128))
        self.scene = nn.Linear(128, n)
        self.name = nn.Embedding(names, n) if told == 1 else Sets(names, n)
        if isinstance(self.name, nn.Embedding):
            nn.init.normal_(self.name.weight, std=n**-0.5)
        self.kind, self.settings = kind, settings

    def forward(self, scenes: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.scene(self.look(scenes).mean(1)), self.name(names)
        if self.kind == "order":
            return raw[0].abs(), raw[1].abs()
        rho0 = default_rho0(self.settings)
        scene, name = (shift_and_cap(u, 1.0, rho0) for u in raw)
        return scene, name


def energy(apex: Tensor, inside: Tensor, kind: str, settings: AsyMoESettings) -> Tensor:
    """How far `inside` is from lying in what `apex` spans; at most 0 inside."""
    if kind == "order":
        return (apex - inside).relu().square().sum(-1)
    if kind == "euclidean":
        psi = geometry.flat_aperture(settings.aperture, geometry.safe_norm(apex), settings.cone_k)
        return geometry.flat_exterior_angle(apex, inside) - settings.eta * psi
    psi = geometry.aperture(settings.aperture, geometry.radius(apex, 1.0), settings.cone_k)
    return geometry.exterior_angle(apex, inside, 1.0) - settings.eta * psi


FORMS: dict[str, Callable[[torch.Generator], Tree | Facts]] = {
    "is_a": Tree.grow,
    "part_of": Facts.draw,
    "mixed": lambda generator: Tree.grow(generator, TOLD),
}


def auc_of(form: str, kind: str, n: int, apex: str, seed: int, steps: int) -> dict[str, float]:
    """Train one model and grade it on unseen pairs or scenes: all levels together and each."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    world = FORMS[form](generator)
    space = "euclidean" if kind == "order" else kind
    settings = AsyMoESettings(inter_kind=space, apex=apex)  # type: ignore[arg-type]
    points = Points(world.num_names, 1 if form == "is_a" else TOLD, n, kind, settings)
    optimizer = torch.optim.Adam(points.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    scenes, true, false = world.questions(8192, True, generator)
    for _ in range(steps):
        rows = torch.randint(len(true), (BATCH,), generator=generator)
        pair, wrong = (points(scenes[rows], names[rows]) for names in (true, false))
        if apex == "text":
            pair, wrong = pair[::-1], wrong[::-1]
        if kind == "order":
            loss = energy(*pair, kind, settings).mean() + (1 - energy(*wrong, kind, settings)).relu().mean()
        else:
            found = order_loss(*pair, *wrong, settings)
            loss = found.pair + found.negative
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(points.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        scenes, true, false = world.questions(2000, False, generator)
        pair, wrong = (points(scenes, names)[:: -1 if apex == "text" else 1] for names in (true, false))
        score = -torch.cat([energy(*pair, kind, settings), energy(*wrong, kind, settings)])
    level, y = world.level_of(torch.cat([true, false])), torch.cat([torch.ones(2000), torch.zeros(2000)])
    found = {"all": float(roc_auc_score(y, score))}
    for depth in range(1, DEPTH + 1):
        own = level == depth
        if 0 < y[own].sum() < own.sum():
            found[f"level {depth}"] = float(roc_auc_score(y[own], score[own]))
    return found


def show(form: str, lines: list[dict]) -> None:
    """Means over seeds, and each kind against the Lorentz cone."""
    print(
        f"\n{form}\n{'apex':8}{'n':>4}  "
        + "".join(f"{kind:>12}" for kind in KINDS)
        + "   lorentz - euclidean   lorentz - order"
    )
    for apex, n in sorted({(line["apex"], line["n"]) for line in lines}):
        values = {
            kind: {
                line["seed"]: line["all"]
                for line in lines
                if (line["apex"], line["n"], line["kind"]) == (apex, n, kind)
            }
            for kind in KINDS
        }
        if not all(values.values()):
            continue
        means = "".join(f"{np.mean(list(values[kind].values())):12.3f}" for kind in KINDS)
        gaps = []
        for other in KINDS[1:]:
            shared = sorted(values["lorentz"].keys() & values[other].keys())
            gap = [values["lorentz"][seed] - values[other][seed] for seed in shared]
            gaps.append(f"{np.mean(gap):+.3f} (p = {sign_flip_test(gap).p:.3f}, {len(gap)} seeds)")
        print(f"{apex:8}{n:4}  {means}   {'   '.join(gaps)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--n", type=int, nargs="*", default=[4, 8, 16, 64])
    parser.add_argument("--form", nargs="+", choices=list(FORMS), default=["is_a"])
    parser.add_argument("--out", type=Path, default=Path("cones.jsonl"), help="one line a run; finished runs are kept")
    given = parser.parse_args()
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    lines = [{"form": "is_a", **line} for line in lines]
    done = {tuple(line[key] for key in KEYS) for line in lines}
    for run in product(given.form, KINDS, given.n, ("vision", "text"), range(given.seeds)):
        if run not in done:
            lines.append({**dict(zip(KEYS, run, strict=True)), **auc_of(*run, given.steps)})
            with given.out.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    for form in given.form:
        show(form, [line for line in lines if line["form"] == form])


if __name__ == "__main__":
    main()
