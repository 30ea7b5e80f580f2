"""Features of pictures: small grey thumbnails, their changes, and motion. Nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

MOTION_NAMES = ("activity", "centre_y", "centre_x", "spread_y", "spread_x", "velocity_y", "velocity_x")
"""Last columns of :func:`motion`."""
_STIFFNESS = 1e-4
"""Added to the mean square of the grey slope, so that a picture without contrast has velocity 0."""


def motion(
    images: Sequence[np.ndarray], times: Float[np.ndarray, " frames"], *, rows: int = 12, columns: int = 16
) -> Float[np.ndarray, "frames dim"]:
    r"""Thumbnails, their changes, and where and how fast things move.

    The columns are: the grey thumbnail, 0 to 1, row by row; its change a second since the picture before; the mean size
    of that change; its centre and its spread, both -1 to 1 over the picture (0 where nothing changes); and the one
    velocity v, picture heights and widths a second, that explains the changes best:
    :math:`v = -(\overline{\nabla I \nabla I^T} + s)^{-1} \, \overline{\nabla I \, \partial_t I}`. All but the thumbnail
    are 0 in the first picture.

    Args:
        images: Pictures, each ``(height, width, 3)`` uint8; sizes may differ.
        times: Second of each, rising.
        rows: Height of the thumbnail.
        columns: Its width.

    Returns:
        ``(frames, 2 * rows * columns + 7)`` float32.

    Source:
        Lucas and Kanade 1981, one window over the whole picture, with a small s so that an empty picture stands still.
    """
    grey = np.stack([thumbnail(image, rows, columns) for image in images])
    change = np.zeros_like(grey)
    if len(grey) > 1:
        seconds = np.diff(np.asarray(times, np.float64))[:, None, None]
        change[1:] = np.diff(grey, axis=0) / np.maximum(seconds, 1e-3)
    flat = (len(grey), rows * columns)
    summary = np.column_stack([_centre(np.abs(change)), _velocity(grey, change)])
    return np.hstack([grey.reshape(flat), change.reshape(flat), summary]).astype(np.float32)


def thumbnail(image: np.ndarray, rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    """Mean grey of each cell of a grid over a picture, 0 to 1.

    Args:
        image: ``(height, width, 3)`` uint8.
        rows: Cells from top to bottom.
        columns: Cells from left to right.

    Example:
        >>> half = np.zeros((4, 4, 3), np.uint8)
        >>> half[:, 2:] = 255
        >>> thumbnail(half, 1, 2).round(3).tolist()
        [[0.0, 1.0]]
    """
    cells = (image @ np.array([0.299, 0.587, 0.114])) / 255
    for axis, count in ((0, rows), (1, columns)):
        size = cells.shape[axis]
        starts = np.arange(count) * size // count
        # a cell narrower than a pixel is that pixel
        widths = np.maximum(1, np.diff(starts, append=size))
        cells = np.add.reduceat(cells, starts, axis=axis) / np.expand_dims(widths, 1 - axis)
    return cells


def _centre(size: Float[np.ndarray, "frames rows columns"]) -> Float[np.ndarray, "frames 5"]:
    """Mean of each picture, and centre and spread (y, x) of its mass."""
    _, rows, columns = size.shape
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None]
    mass = size.sum((1, 2))
    share = size / np.maximum(mass, 1e-9)[:, None, None]
    centres = [(share * place).sum((1, 2)) for place in (y, x)]
    squares = [(share * place**2).sum((1, 2)) for place in (y, x)]
    spreads = [np.sqrt(np.maximum(0, s - c**2)) for s, c in zip(squares, centres, strict=True)]
    return np.column_stack([size.mean((1, 2)), *centres, *spreads])


def _velocity(grey: np.ndarray, change: np.ndarray) -> Float[np.ndarray, "frames 2"]:
    """Heights and widths a second (y, x) of the one shift that explains each change."""
    _, rows, columns = grey.shape
    # the slope halfway between two pictures, so that a shift there and back gives equal and opposite velocities
    halfway = np.concatenate([grey[:1], (grey[1:] + grey[:-1]) / 2])
    slopes = [
        np.gradient(halfway, axis=axis) * count if count > 1 else np.zeros_like(halfway)
        for axis, count in ((1, rows), (2, columns))
    ]
    slope = np.stack(slopes, -1).reshape(len(grey), -1, 2)
    cells = slope.shape[1]
    matrix = np.einsum("fci,fcj->fij", slope, slope) / cells + _STIFFNESS * np.eye(2)
    moved = np.einsum("fci,fc->fi", slope, change.reshape(len(grey), -1)) / cells
    return -np.linalg.solve(matrix, moved[..., None])[..., 0]
