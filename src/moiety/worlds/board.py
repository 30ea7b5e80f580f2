"""Pictures for a tiny vision tower: a square board of cells. Each cell is one patch, empty or with a coloured symbol.

The six colours lie on the axes of RGB space around middle grey: colour k is ``grey + RADIUS * (+-axis)``. Four fifths
of all pairs of colours are equally far apart, so that noise of one size blurs all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 12
"""Side of a cell in pixels: the ``patch_size`` of a tower that reads one symbol as one token."""
BACKGROUND = 16
GREY, RADIUS = 128.0, 64.0
AXES = np.concatenate([np.eye(3), -np.eye(3)])
"""Direction of each colour from grey, ``(colours, 3)``, in the order of :data:`COLOURS`."""
COLOURS = ("red", "green", "blue", "teal", "purple", "olive")
SYMBOLS = {
    "star": "★",
    "heart": "♥",
    "diamond": "♦",
    "club": "♣",
    "sun": "☀",
    "umbrella": "☂",
    "phone": "☎",
    "plane": "✈",
    "anchor": "⚓",
    "note": "♫",
    "moon": "☾",
    "scissors": "✂",
    "letter": "✉",
    "flag": "⚑",
    "queen": "♛",
    "horse": "♞",
    "tower": "♜",
    "bolt": "⚡",
    "flower": "❀",
    "face": "☺",
    "cross": "✚",
    "arrow": "➔",
    "gear": "⚙",
    "hammer": "⚒",
}


@cache
def ink(shape: str) -> np.ndarray:
    """Share of each pixel of a cell that a shape covers, ``(CELL, CELL)`` in 0..1; one pixel on every side stays empty.

    Args:
        shape: Key of :data:`SYMBOLS`; drawn with the font that comes with matplotlib.
    """
    import matplotlib

    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 4 * CELL)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(SYMBOLS[shape]))
    drawn = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(drawn).text((-left, -top), SYMBOLS[shape], fill=255, font=font)
    inner = np.asarray(drawn.resize((CELL - 2, CELL - 2), Image.Resampling.BOX), dtype=np.float64)
    return np.pad(inner / 255, 1)


def light(colour: int, noise: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Red, green and blue of a colour with noise, each within 0..255.

    Args:
        colour: Index into :data:`COLOURS`.
        noise: Noise along the three axes, in units of :data:`RADIUS`.

    Example:
        >>> light(0).tolist(), light(3).tolist()
        ([192.0, 128.0, 128.0], [64.0, 128.0, 128.0])
    """
    return np.clip(GREY + RADIUS * (AXES[colour] + np.asarray(noise)), 0, 255)


def board(cells: Sequence[tuple[int, str, np.ndarray]], side: int) -> Image.Image:
    """A picture of ``side x side`` cells.

    Args:
        cells: Place in reading order, shape, and red, green and blue in 0..255 of each symbol.
        side: Number of cells in a row.
    """
    pixels = np.full((side * CELL, side * CELL, 3), float(BACKGROUND))
    for place, shape, rgb in cells:
        row, column = divmod(place, side)
        cell = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        cover = ink(shape)[..., None]
        cell[...] = cover * rgb + (1 - cover) * cell
    return Image.fromarray(pixels.round().astype(np.uint8))
