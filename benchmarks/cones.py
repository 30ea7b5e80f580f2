"""Do hyperbolic cones tell what belongs below what better than flat cones, or than an order of coordinates?

    python benchmarks/cones.py --seeds 8 --steps 600 --out cones.jsonl

The geometry alone, without a language model. A tree of kinds (branching 3, depth 5, 243 leaves); the token of a leaf
is the sum of a fixed random vector for each of its ancestors, plus noise; a scene is four leaves. A caption names one
node. It is true of a scene where a leaf of the scene lies below that node; the false caption beside it names a brother
of a true one under which no leaf of the scene lies. For each kind a third of its leaves is never trained with it, and
the test asks those pairs. A small network reads the scene, a table gives each name its point: the caption does not see
the scene.

Lorentz and flat cones are trained with the project's own order loss, the order embedding with the hinge of its paper.
Printed: mean area under the ROC curve on hard negatives over seeds, by number of coordinates and apex, with paired
differences and the exact sign-flip p.
"""

from __future__ import annotations

import argparse
import json
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
KINDS = ("lorentz", "euclidean", "order")


@dataclass
class Tree:
    """The kinds: node 0 is the root, which no caption names.

    Args:
        parent: Parent of each node, ``(nodes,)``.
        level: Distance from the root, ``(nodes,)``.
        above: Whether a node is an ancestor of a leaf, the leaf itself included, ``(leaves, nodes)``.
        held_out: Pairs that training never affirms, ``(leaves, nodes)``.
        token: Picture token of each leaf, ``(leaves, TOKEN)``.
    """

    parent: Tensor
    level: Tensor
    above: Tensor
    held_out: Tensor
    token: Tensor

    @classmethod
    def grow(cls, generator: torch.Generator) -> Tree:
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
        return cls(parents, levels, above, held_out, above.float() @ vectors)

    def questions(self, number: int, trained: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Scenes ``(number, LEAVES, TOKEN)``, a true and a false caption of each, ``(number,)``.

        Training affirms pairs that are not held out; the test asks the others.
        """
        scenes, true, false = [], [], []
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
        return torch.stack(scenes), torch.cat(true), torch.cat(false)


class Points(nn.Module):
    """Scene and caption to points: a network over tokens, averaged; a row of a table."""

    def __init__(self, nodes: int, n: int, kind: str, settings: AsyMoESettings) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Linear(TOKEN, 128), nn.GELU(), nn.Linear(128, 128))
        self.scene, self.name = nn.Linear(128, n), nn.Embedding(nodes, n)
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


def auc_of(kind: str, n: int, apex: str, seed: int, steps: int) -> dict[str, float]:
    """Train one model and grade it on unseen pairs: all levels together and each."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    tree = Tree.grow(generator)
    space = "euclidean" if kind == "order" else kind
    settings = AsyMoESettings(inter_kind=space, apex=apex)  # type: ignore[arg-type]
    points = Points(len(tree.parent), n, kind, settings)
    optimizer = torch.optim.Adam(points.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    scenes, true, false = tree.questions(8192, True, generator)
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
        scenes, true, false = tree.questions(2000, False, generator)
        pair, wrong = (points(scenes, names)[:: -1 if apex == "text" else 1] for names in (true, false))
        score = -torch.cat([energy(*pair, kind, settings), energy(*wrong, kind, settings)])
    level, y = tree.level[torch.cat([true, false])], torch.cat([torch.ones(2000), torch.zeros(2000)])
    found = {"all": float(roc_auc_score(y, score))}
    for depth in range(1, DEPTH + 1):
        own = level == depth
        if 0 < y[own].sum() < own.sum():
            found[f"level {depth}"] = float(roc_auc_score(y[own], score[own]))
    return found


def show(lines: list[dict]) -> None:
    """Means over seeds, and each kind against the Lorentz cone."""
    print(
        f"{'apex':8}{'n':>4}  " + "".join(f"{kind:>12}" for kind in KINDS) + "   lorentz - euclidean   lorentz - order"
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
    parser.add_argument("--out", type=Path, default=Path("cones.jsonl"), help="one line a run; finished runs are kept")
    given = parser.parse_args()
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    done = {(line["kind"], line["n"], line["apex"], line["seed"]) for line in lines}
    for seed, n, apex, kind in product(range(given.seeds), given.n, ("vision", "text"), KINDS):
        if (kind, n, apex, seed) not in done:
            lines.append({"kind": kind, "n": n, "apex": apex, "seed": seed, **auc_of(kind, n, apex, seed, given.steps)})
            with given.out.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    show(lines)


if __name__ == "__main__":
    main()
