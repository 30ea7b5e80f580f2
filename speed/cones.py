"""Do hyperbolic cones order kinds better than flat cones, or than an order of coordinates?

    python speed/cones.py --seeds 8 --steps 600 --out cones.jsonl

This measures the geometry alone, without a language model, on four worlds (``--form``, see ``containment.py``):
``is_a``, a tree of kinds; ``part_of``, scenes made of facts; ``mixed``, captions with several kinds; ``photos``, real
photos with the hierarchy of their labels. The photos (``--photos FOLDER`` with items.jsonl.gz and images-train.tar,
images-test.tar) are represented by the features of the model ``--model``.

A small network turns a scene into a point. A table gives each name its point, or a network reads the set of names. The
point of a caption does not depend on the scene.

Lorentz and flat cones are trained with the project's own cone loss. The order of coordinates is trained with the hinge
loss of its paper. The output is the area under the ROC curve on hard negatives, averaged over seeds, for each number of
coordinates and each apex, with paired differences and the exact sign-flip p.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from containment import TOLD, Facts, Photos, Tree, World
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from moiety.moe.asymoe import geometry
from moiety.moe.asymoe.cone_loss import cone_loss, default_rho0, shift_and_cap
from moiety.recipe.asymoe import AsyMoESettings
from moiety.stats.permutation import sign_flip_test

BATCH = 128
KINDS = ("lorentz", "euclidean", "order")
KEYS = ("form", "kind", "n", "apex", "seed")


class Sets(nn.Module):
    """Turns a set of names into one point: the sum of their vectors, then a network."""

    def __init__(self, names: int, n: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(names + 1, 128, padding_idx=0)
        self.read = nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.Linear(128, n))

    def forward(self, names: Tensor) -> Tensor:
        return self.read(self.vectors(names + 1).sum(1))


class Points(nn.Module):
    """Turns a scene (by a network over its tokens) and a caption (by a table, or a network) into points."""

    def __init__(self, world: World, n: int, kind: str, settings: AsyMoESettings) -> None:
        super().__init__()
        names, told = world.num_names, world.told
        self.look = nn.Sequential(nn.Linear(world.num_features, 128), nn.GELU(), nn.Linear(128, 128))
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
    """Distance of `inside` from the cone of `apex`; at most 0 if it lies inside."""
    if kind == "order":
        return (apex - inside).relu().square().sum(-1)
    if kind == "euclidean":
        psi = geometry.flat_aperture(settings.aperture, geometry.safe_norm(apex), settings.cone_k)
        return geometry.flat_exterior_angle(apex, inside) - settings.eta * psi
    psi = geometry.aperture(settings.aperture, geometry.radius(apex, 1.0), settings.cone_k)
    return geometry.exterior_angle(apex, inside, 1.0) - settings.eta * psi


def worlds(photos: Path | None, model: str | None) -> dict[str, Callable[[torch.Generator], World]]:
    """A function for each form that makes its world; photos are read once."""
    made: dict[str, Callable[[torch.Generator], World]] = {
        "is_a": Tree.grow,
        "part_of": Facts.draw,
        "mixed": lambda generator: Tree.grow(generator, TOLD),
    }
    if photos is not None and model is not None:
        read = cache(lambda: Photos.read(photos, model))
        made["photos"] = lambda generator: read()
    return made


def auc_of(
    begin: Callable[[torch.Generator], World], kind: str, n: int, apex: str, seed: int, steps: int
) -> dict[str, float]:
    """Train one model and score it on unseen pairs or scenes, for all levels together and for each level."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    world = begin(generator)
    space = "euclidean" if kind == "order" else kind
    settings = AsyMoESettings(inter_kind=space, apex=apex)  # type: ignore[arg-type]
    points = Points(world, n, kind, settings)
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
            found = cone_loss(*pair, *wrong, settings)
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
    for depth in sorted(set(level.tolist())):
        own = level == depth
        if 0 < y[own].sum() < own.sum():
            found[f"level {depth}"] = float(roc_auc_score(y[own], score[own]))
    return found


def show(form: str, lines: list[dict]) -> None:
    """Print means over seeds, and the difference of each kind to the Lorentz cone."""
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
    parser.add_argument("--form", nargs="+", choices=["is_a", "part_of", "mixed", "photos"], default=["is_a"])
    parser.add_argument("--photos", type=Path, help="folder of the grocery data, for --form photos")
    parser.add_argument("--model", help="dense vision-language model whose features of the photos are used")
    parser.add_argument(
        "--out", type=Path, default=Path("cones.jsonl"), help="one line for each run; finished runs are kept"
    )
    given = parser.parse_args()
    known = worlds(given.photos, given.model)
    if missing := [form for form in given.form if form not in known]:
        parser.error(f"--form {missing[0]} needs --photos FOLDER and --model MODEL")
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    lines = [{"form": "is_a", **line} for line in lines]
    done = {tuple(line[key] for key in KEYS) for line in lines}
    for run in product(given.form, KINDS, given.n, ("vision", "text"), range(given.seeds)):
        if run not in done:
            lines.append({**dict(zip(KEYS, run, strict=True)), **auc_of(known[run[0]], *run[1:], given.steps)})
            with given.out.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    for form in given.form:
        show(form, [line for line in lines if line["form"] == form])


if __name__ == "__main__":
    main()
