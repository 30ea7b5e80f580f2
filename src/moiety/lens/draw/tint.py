"""Routing as colours: each patch or word in the colour of its first choice, with a corner for the second one."""

from __future__ import annotations

import numpy as np
from PIL import Image

from moiety.groups import ExpertGroups
from moiety.lens.draw.palette import colours_of, rgb
from moiety.lens.trace.observe import Observation
from moiety.moe.trace import Routing

CELL = 16  # pixels of each side of a patch: enough for a clean corner
SHADE = 0.45  # how far the picture darkens a tint: more shows the picture, less the experts


def ranked(routing: Routing) -> tuple[np.ndarray, np.ndarray]:
    """Chosen experts and their weights, the heaviest first: two ``(tokens, top_k)`` arrays."""
    weights, index = routing.weights.numpy(), routing.index.numpy()
    order = np.argsort(-weights, axis=1, kind="stable")
    return np.take_along_axis(index, order, 1), np.take_along_axis(weights, order, 1)


def tint(index: np.ndarray, weights: np.ndarray, grid: tuple[int, int], groups: ExpertGroups) -> np.ndarray:
    """Colours of a patch grid: the first choice fills a patch, the second its lower right corner.

    The area of the corner is the share of the second choice in both weights. Colours are never mixed.

    Args:
        index: Chosen experts, the heaviest first, ``(patches, top_k)``; padding stays white.
        weights: Their weights, ``(patches, top_k)``.
        grid: Rows and columns, whose product is `patches`.
        groups: Expert groups, which give the colours.

    Returns:
        Red, green, blue in 0..1, ``(rows * CELL, columns * CELL, 3)``.
    """
    table = np.array([*map(rgb, colours_of(groups)), (1.0, 1.0, 1.0)])
    cells = np.repeat(np.repeat(table[index[:, 0]].reshape(*grid, 3), CELL, 0), CELL, 1)
    if index.shape[1] == 1:
        return cells
    second = np.repeat(np.repeat(table[index[:, 1]].reshape(*grid, 3), CELL, 0), CELL, 1)
    share = weights[:, 1] / np.maximum(weights[:, :2].sum(1), 1e-12)
    leg = np.sqrt(2 * share).reshape(grid)  # side of a right-angled corner whose area is `share` of the patch
    far = (np.arange(CELL) + 0.5) / CELL
    depth = np.tile(np.add.outer(far, far), grid)
    inside = depth > 2 - np.repeat(np.repeat(leg, CELL, 0), CELL, 1)
    return np.where(inside[..., None], second, cells)


def over_picture(tinted: np.ndarray, picture: Image.Image) -> np.ndarray:
    """The tints, darker where the picture is dark, so that its shapes stay visible."""
    size = (tinted.shape[1], tinted.shape[0])
    light = np.asarray(picture.convert("L").resize(size, Image.Resampling.BILINEAR)) / 255
    return tinted * (1 - SHADE * (1 - light[..., None]))


def most_varied_layer(observation: Observation) -> int:
    """The layer whose patches spread most evenly over first choices; of equal layers the last one."""

    def spread(layer: int) -> float:
        first = ranked(observation.phases["prefill"][layer])[0][observation.is_image, 0]
        share = np.bincount(first, minlength=observation.groups.num_experts) / max(1, len(first))
        return float(-(share[share > 0] * np.log(share[share > 0])).sum())

    return max(observation.layers, key=lambda layer: (round(spread(layer), 9), layer))
