r"""Semantic synchronisation: a sample moves towards the description of its label and away from the others.

:math:`f_i` is the projected embedding of sample *i*, :math:`g_c` the projected description of class *c*, both of
length 1. All losses are means over samples and computed in float32 or better. For an empty batch they are 0.

Source:
    A-MESS (arXiv 2503.19474) names a triplet loss towards label descriptions written by a language model; margins,
    mining and the two further forms are our reconstruction.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Negative = Literal["hard", "semihard", "random"]
Distance = Literal["cosine", "squared_l2"]


class Projections(nn.Module):
    """Projects samples and descriptions into one space, with two small networks.

    Args:
        hidden: Width of a sample's embedding.
        label_dim: Width of an encoded description.
        sync_dim: Width of the common space.
    """

    def __init__(self, hidden: int, label_dim: int, sync_dim: int) -> None:
        super().__init__()
        self.sample = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, sync_dim))
        self.label = nn.Sequential(nn.Linear(label_dim, hidden), nn.GELU(), nn.Linear(hidden, sync_dim))

    def forward(
        self, embedding: Float[Tensor, "samples hidden"], description: Float[Tensor, "classes label_dim"]
    ) -> tuple[Float[Tensor, "samples sync_dim"], Float[Tensor, "classes sync_dim"]]:
        """Points of samples and of classes, each of length 1, in float32 or better."""
        with torch.autocast(embedding.device.type, enabled=False):
            kind = torch.promote_types(next(self.parameters()).dtype, torch.float32)
            points = self.sample(embedding.to(kind)), self.label(description.to(kind))
            return F.normalize(points[0], dim=-1), F.normalize(points[1], dim=-1)


def distances(f: Tensor, g: Tensor, kind: Distance = "cosine") -> Float[Tensor, "samples classes"]:
    """Distance of every sample to every class: 1 - cosine, or the squared length of the difference (twice that)."""
    cosine = 1 - f @ g.T
    return cosine if kind == "cosine" else 2 * cosine


def mine_negatives(
    distance: Float[Tensor, "samples classes"],
    y: Int[Tensor, " samples"],
    kind: Negative = "hard",
    generator: torch.Generator | None = None,
) -> Int[Tensor, " samples"]:
    """One wrong class for each sample; no gradient.

    Args:
        distance: Distance of each sample to every class.
        y: The right class of each sample.
        kind: ``hard``: the nearest wrong class. ``semihard``: the nearest wrong class that is farther away than the
            right one, or the nearest if there is none. ``random``: any wrong class. Of equally near classes the first.
        generator: Draws the random classes.

    Example:
        >>> distance, y = torch.tensor([[0.5, 0.2, 0.7]]), torch.tensor([0])
        >>> mine_negatives(distance, y).item(), mine_negatives(distance, y, "semihard").item()
        (1, 2)
    """
    samples, classes = distance.shape
    if kind == "random":
        shift = torch.randint(1, classes, (samples,), generator=generator).to(y.device)
        return (y + shift) % classes
    distance = distance.detach()
    right = F.one_hot(y, classes).bool()
    hard = distance.masked_fill(right, float("inf"))
    if kind == "hard":
        return hard.argmin(1)
    farther = hard.masked_fill(distance <= distance.gather(1, y.unsqueeze(1)), float("inf"))
    return torch.where(torch.isfinite(farther).any(1), farther.argmin(1), hard.argmin(1))


def triplet_loss(
    distance: Float[Tensor, "samples classes"],
    y: Int[Tensor, " samples"],
    margin: float,
    kind: Negative = "hard",
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r"""Mean of :math:`\max(0, margin + d(f_i, g_{y_i}) - d(f_i, g_n))` with one mined wrong class *n* for each sample.

    With a single class there is no wrong one, and the loss is 0.

    Example:
        >>> triplet_loss(torch.tensor([[0.1, 0.2]]), torch.tensor([0]), margin=0.3).item()
        0.20000000298023224
    """
    if distance.shape[1] < 2 or not len(y):
        return distance.sum() * 0
    negative = mine_negatives(distance, y, kind, generator)
    to_right = distance.gather(1, y.unsqueeze(1)).squeeze(1)
    to_wrong = distance.gather(1, negative.unsqueeze(1)).squeeze(1)
    return (margin + to_right - to_wrong).clamp(min=0).mean()


def batch_triplet_loss(
    distance: Float[Tensor, "samples classes"], y: Int[Tensor, " samples"], margin: float
) -> Float[Tensor, ""]:
    """The same from the description of a sample's class: this sample against the nearest of another class."""
    if not len(y):
        return distance.sum() * 0
    from_class = distance[:, y].T  # (samples i, samples k): from the description of i's class to sample k
    foreign = y.unsqueeze(1) != y.unsqueeze(0)
    nearest = from_class.masked_fill(~foreign, float("inf")).amin(1)
    some = foreign.any(1)
    hinge = (margin + from_class.diagonal() - nearest.masked_fill(~some, 0)).clamp(min=0)
    return hinge.masked_fill(~some, 0).sum() / some.sum().clamp(min=1)


def info_nce_loss(
    f: Float[Tensor, "samples sync_dim"],
    g: Float[Tensor, "classes sync_dim"],
    y: Int[Tensor, " samples"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of the cosines to all descriptions, divided by `temperature`.

    Source:
        van den Oord et al. 2018, eq. 4, with the descriptions of all classes as candidates.
    """
    return F.cross_entropy(f @ g.T / temperature, y) if len(y) else f.sum() * 0


@torch.no_grad()
def synchrony(
    distance: Float[Tensor, "samples classes"], g: Float[Tensor, "classes sync_dim"], y: Tensor, margin: float
) -> dict[str, float]:
    """Numbers to watch in training.

    ``own_distance`` and ``other_distance``: mean distance to the right description, and to the nearest wrong one.
    ``active_share``: share of the samples whose triplet loss is not 0. ``description_cosine``: mean cosine between
    descriptions; near 1 they have all become one point.
    """
    classes = g.shape[0]
    to_right = distance.gather(1, y.unsqueeze(1)).squeeze(1)
    found = {"own_distance": to_right.mean().item()}
    if classes > 1:
        to_wrong = distance.gather(1, mine_negatives(distance, y).unsqueeze(1)).squeeze(1)
        cosine = g @ g.T
        found["other_distance"] = to_wrong.mean().item()
        found["active_share"] = (margin + to_right - to_wrong > 0).float().mean().item()
        found["description_cosine"] = ((cosine.sum() - cosine.trace()) / (classes * (classes - 1))).item()
    return found
