"""Grey pictures of more than 8 bits: what the format calls white is white, and nothing is cut off."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from moiety.vlm.images import as_rgb, decode

RAMP = np.linspace(0, 1, 48 * 32).reshape(32, 48)
SIXTEEN = Image.fromarray(np.rint(RAMP * 65535).astype(np.uint16))


def packed(picture: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def pgm(most: int) -> bytes:
    return b"P5 48 32 %d\n" % most + np.rint(RAMP * most).astype(">u2").tobytes()


def as_float(scale: float) -> Image.Image:
    return Image.fromarray((RAMP * scale).astype(np.float32))


DEEP = {
    "png": packed(SIXTEEN, "PNG"),
    "tiff": packed(SIXTEEN, "TIFF"),
    "jpeg2000": packed(SIXTEEN, "JPEG2000"),
    "pgm": pgm(65535),
    "pgm-12-bits": pgm(4095),
    "float": packed(as_float(1), "TIFF"),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_grey_is_scaled(name: str) -> None:
    seen = np.asarray(decode(DEEP[name], name)).astype(float)
    assert seen.shape == (32, 48, 3)
    assert np.abs(seen - 255 * RAMP[..., None]).max() <= 1


def test_white_is_zero_transparency_and_orientation() -> None:
    assert np.asarray(decode(packed(SIXTEEN, "TIFF", tiffinfo={262: 0}), "x"))[0, 0].tolist() == [255] * 3
    clear = np.asarray(decode(packed(SIXTEEN, "PNG", transparency=0), "x"))
    assert clear[0, 0].tolist() == [255] * 3
    assert clear[0, 47].tolist() == [8] * 3
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    assert decode(packed(SIXTEEN, "PNG", exif=turned), "x").size == (32, 48)
    assert np.asarray(as_rgb(SIXTEEN)).max() == 255


WITHOUT_WHITE = {
    "I with values from 0 to 65535; expected a format that says": Image.fromarray((RAMP * 65535).astype(np.int32)),
    r"F with values from 0\.0 to 255\.0; expected 0 \(black\) to 1": as_float(255),
    r"F with values from -1\.0 to -?0": as_float(-1),
    r"F with values from 1\.0 to 1\.0, \d+ of them no number \(NaN\); ": Image.fromarray(
        np.where(RAMP > 0, np.nan, 1).astype(np.float32)
    ),
}


@pytest.mark.parametrize("said", WITHOUT_WHITE)
def test_grey_without_a_white_is_refused(said: str) -> None:
    picture = WITHOUT_WHITE[said]
    with pytest.raises(ValueError, match=f"the picture is grey of mode {said}"):
        as_rgb(picture)
    with pytest.raises(ValueError, match=f"picture x cannot be decoded .* mode {said}"):
        decode(packed(picture, "TIFF"), "x")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_kinds_keep_black_and_white(mode: str) -> None:
    picture = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert(mode if mode == "LA" else "RGB")
    seen = np.asarray(as_rgb(picture.convert(mode)))
    assert seen[0, 0].max() <= 1
    assert seen[0, 1].min() >= 254
