"""Grey pictures of more than 8 bits: scans, depth maps, medical and satellite pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


def deep_grey(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 or 32 bits or of floats as one of 8 bits, turned as its EXIF entry says.

    Args:
        picture: Of a mode of Pillow that begins with ``I`` or ``F``.

    Returns:
        Mode ``L``; ``LA`` where one value means transparent.

    Raises:
        ValueError: nothing says which value is white; names the mode and the values.
    """
    white, tags = _white(picture), getattr(picture, "tag_v2", {})
    clear = picture.info.get("transparency")
    values = np.asarray(ImageOps.exif_transpose(picture))
    if white is None or not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= white):
        holes = int(np.isnan(values).sum())
        raise ValueError(
            f"the picture is grey of mode {picture.mode} with values from {np.nanmin(values)} to {np.nanmax(values)}"
            f"{f', {holes} of them no number (NaN)' if holes else ''}; "
            f"expected {'a format that says which of them is white' if white is None else f'0 (black) to {white:g}'}, "
            "save it with 8 or 16 bits"
        )
    shares = values / white
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        shares = 1 - shares
    grey = Image.fromarray(np.rint(shares * 255).astype(np.uint8))
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _white(picture: Image.Image) -> float | None:
    """The value that means white; None where the format does not say."""
    if picture.mode == "F":
        return 1.0
    bits: Any = getattr(picture, "tag_v2", {}).get(_BITS, (16,))
    if picture.mode.startswith("I;16"):
        return 2.0 ** min(bits[0], 16) - 1
    return 65535.0 if picture.format in ("PNG", "PPM") else None  # Pillow scales a PGM to 16 bits, and widens its mode
