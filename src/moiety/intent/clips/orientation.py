"""Turns pictures upright: phones store them as the sensor sees them, with a note how to turn and mirror them."""

from __future__ import annotations

from typing import Any

import numpy as np


def upright(image: np.ndarray, frame: Any) -> np.ndarray:
    """A decoded picture, turned and mirrored as its file says.

    Args:
        image: ``(height, width, 3)``.
        frame: The PyAV frame of the picture. Its display matrix is used, since ``rotation`` knows no mirror.

    Returns:
        ``(height, width, 3)``, or ``(width, height, 3)`` after a quarter turn.
    """
    stored = next((side for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if stored is not None:
        image = shown(image, np.frombuffer(bytes(stored), np.int32, 9).reshape(3, 3)[:2, :2])
    return np.ascontiguousarray(image)


def shown(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A picture after the nearest of the eight turns and mirrors that keep its edges level.

    Args:
        image: ``(height, width, 3)``.
        matrix: ``(2, 2)``: a point (x, y), rightwards and downwards, goes to (x, y) times the matrix.

    Source:
        ISO/IEC 14496-12, matrix of the track header.

    Example:
        >>> row = np.array([[[1], [2]]])
        >>> shown(row, np.array([[-1, 0], [0, 1]])).ravel().tolist()
        [2, 1]
        >>> shown(row, np.array([[0, -1], [1, 0]]))[:, 0, 0].tolist()  # a quarter turn against the clock
        [2, 1]
    """
    (a, b), (c, d) = np.asarray(matrix, np.float64)
    if abs(b) + abs(c) > abs(a) + abs(d):
        # x and y change places: what went right goes down, and is mirrored where it goes up
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
