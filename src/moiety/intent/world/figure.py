"""The moving figure of the small spoken world: head, trunk and two arms, drawn without a drawing library.

A limb is a line with round ends. A pixel is covered as far as its centre is inside a limb. Lengths are in units of the
height of the figure; y points down, x to the right; the origin is the middle of the figure at rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SIDE = 48
"""Pixels a side of a picture."""
FPS = 10
"""Pictures a second."""
HALF_WIDTHS = (0.13, 0.13, 0.05, 0.045, 0.045)
"""Half widths of head, trunk, shoulders, near arm and far arm."""


@dataclass(frozen=True)
class Pose:
    """Where the moving parts are.

    Args:
        head: Offset of the head from its place.
        near_hand: Place of the hand that gestures; the figure is mirrored for left-handed speakers.
        far_hand: Place of the other hand.
        shoulders: How far the shoulders are lifted.
        shift: Offset of the whole figure.
    """

    head: tuple[float, float] = (0.0, 0.0)
    near_hand: tuple[float, float] = (0.24, 0.22)
    far_hand: tuple[float, float] = (-0.24, 0.22)
    shoulders: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Look:
    """What is the same in all clips of one person.

    Args:
        colour: Red, green and blue of the figure, 0..255.
        background: The same of what is behind.
        size: Height of the figure, of the picture.
        place: Middle of the figure, of the picture.
        hand: 1: gestures with the right hand of the picture; -1: with the left one.
        noise: Deviation of every pixel value.
    """

    colour: tuple[float, float, float]
    background: tuple[float, float, float]
    size: float
    place: tuple[float, float]
    hand: int
    noise: float

    @classmethod
    def drawn(cls, rng: np.random.Generator, noise: float = 1.0) -> Look:
        """A person, light on dark or dark on light; `noise` is a factor on that of the pixels."""
        light, dark = rng.uniform(160, 245, 3), rng.uniform(10, 90, 3)
        colour, background = (light, dark) if rng.random() < 0.5 else (dark, light)
        return cls(
            tuple(colour),
            tuple(background),
            size=rng.uniform(0.8, 0.95),
            place=(rng.uniform(0.45, 0.55), rng.uniform(0.48, 0.55)),
            hand=int(rng.choice([-1, 1])),
            noise=noise * rng.uniform(2, 6),
        )


def _hold(t: float) -> float:
    """Rises from 0 to 1, stays, falls back."""
    return float(np.interp(t, [0, 0.25, 0.75, 1], [0, 1, 1, 0]))


def _nod(t: float) -> Pose:
    return Pose(head=(0.0, 0.13 * abs(np.sin(3 * np.pi * t))))


def _shake(t: float) -> Pose:
    return Pose(head=(0.15 * np.sin(6 * np.pi * t), 0.0))


def _wave(t: float) -> Pose:
    up = _hold(t)
    return Pose(near_hand=(0.24 + up * (0.08 + 0.12 * np.sin(8 * np.pi * t)), 0.22 - 0.62 * up))


def _walk(t: float) -> Pose:
    return Pose(shift=(1.2 * max(0.0, t - 0.1) ** 1.5, 0.03 * abs(np.sin(5 * np.pi * t))))


def _point(t: float) -> Pose:
    return Pose(near_hand=(0.24 + 0.22 * _hold(t), 0.22 - 0.3 * _hold(t)))


def _shrug(t: float) -> Pose:
    up = abs(np.sin(2 * np.pi * t))
    return Pose((0.0, 0.02 * up), (0.24 + 0.1 * up, 0.22 - 0.25 * up), (-0.24 - 0.1 * up, 0.22 - 0.25 * up), 0.09 * up)


def _still(t: float) -> Pose:
    return Pose()


GESTURES: dict[str, Callable[[float], Pose]] = {
    "nod": _nod, "shake": _shake, "wave": _wave, "walk": _walk, "point": _point, "shrug": _shrug, "still": _still,
}  # fmt: skip
"""Gesture -> pose at a time between 0 (begins) and 1 (is over)."""


def move(gesture: str, look: Look, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Moving pictures of one gesture, ``(frames, SIDE, SIDE, 3)`` uint8, :data:`FPS` a second.

    Args:
        gesture: Key of :data:`GESTURES`.
        look: Who moves.
        seconds: Length; the gesture fills the middle of it.
        rng: Draws begin and length of the gesture, a little sway, and the noise of the pixels.
    """
    count = max(2, round(seconds * FPS))
    begin, length = rng.uniform(0.05, 0.25) * seconds, rng.uniform(0.6, 0.75) * seconds
    sway, phase = rng.uniform(0.0, 0.008, 2), rng.uniform(0, 2 * np.pi, 2)
    time = np.arange(count) / FPS
    poses = [GESTURES[gesture](at) for at in np.clip((time - begin) / length, 0, 1).tolist()]
    swayed = sway * np.sin(0.8 * np.pi * time[:, None] + phase)
    shift = np.array([pose.shift for pose in poses]) * (look.hand, 1)
    cover = _cover(poses, look, swayed + shift)[..., None]
    paper, contrast = np.array(look.background), np.subtract(look.colour, look.background)
    grain = rng.normal(0, look.noise, (count, SIDE, SIDE, 1))
    return np.clip(paper + cover * contrast + grain, 0, 255).round().astype(np.uint8)


def _cover(poses: Sequence[Pose], look: Look, shift: np.ndarray) -> np.ndarray:
    """How much of each pixel the figure covers, ``(frames, SIDE, SIDE)`` in 0..1; `shift` is ``(frames, 2)``."""
    scale = look.size * SIDE
    centre = np.array(look.place) * SIDE + scale * shift
    pixel = np.arange(SIDE) + 0.5
    x = ((pixel - centre[:, :1]) * look.hand / scale)[:, None, :]
    y = ((pixel - centre[:, 1:]) / scale)[:, :, None]
    inside = np.full((len(poses), SIDE, SIDE), -np.inf)
    for limb, half_width in zip(zip(*map(_limbs, poses), strict=True), HALF_WIDTHS, strict=True):
        (from_x, from_y), (to_x, to_y) = (np.array(ends).T[:, :, None, None] for ends in zip(*limb, strict=True))
        line_x, line_y = to_x - from_x, to_y - from_y
        along = ((x - from_x) * line_x + (y - from_y) * line_y) / (line_x**2 + line_y**2)
        along = np.clip(along, 0, 1)
        distance = np.sqrt((x - from_x - along * line_x) ** 2 + (y - from_y - along * line_y) ** 2)
        inside = np.maximum(inside, half_width - distance)
    return np.clip(inside * scale + 0.5, 0, 1)


def _limbs(pose: Pose) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Both ends of every limb, in the order of :data:`HALF_WIDTHS`."""
    x, y = pose.head
    shoulder = -0.12 - pose.shoulders
    return [
        ((x, y - 0.32), (x, y - 0.30)),
        ((0.0, 0.07 + shoulder), (0.0, 0.42)),
        ((0.17, shoulder), (-0.17, shoulder)),
        ((0.17, shoulder), pose.near_hand),
        ((-0.17, shoulder), pose.far_hand),
    ]
