"""Pictures of a request: data URLs of four formats, whose size is checked before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings

from PIL import Image

from moiety.serve.refusal import Refusal
from moiety.serve.request import ChatRequest, ImagePart, Limits
from moiety.vlm.images import decode

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""Formats that Pillow decodes by itself; no other decoder is ever tried."""
_DATA_URL = re.compile(r"data:image/(png|jpeg|jpg|webp|gif);base64,", re.IGNORECASE)
_ACCEPTED = "data:image/png;base64,… (or jpeg, webp, gif)"


def decode_pictures(request: ChatRequest, limits: Limits) -> list[Image.Image]:
    """All pictures of a request in reading order, as RGB; of an animation the first frame.

    Raises:
        Refusal: one of them is no data URL, no whole picture, or all together have too many pixels.
    """
    found = [
        (part.image_url.url, f"messages[{number}].content[{place}].image_url.url")
        for number, message in enumerate(request.messages)
        for place, part in enumerate(message.content)
        if isinstance(part, ImagePart)
    ]
    contents = [(_content(url, param), param) for url, param in found]
    num_pixels = 0
    for content, param in contents:
        num_pixels += _num_pixels(content, param, limits)
        if num_pixels > limits.max_pixels:
            raise Refusal(
                400,
                f"{param}: pictures of together {num_pixels:,} pixels; one request may bring {limits.max_pixels:,}",
                param,
            )
    return [_decoded(content, param) for content, param in contents]


def _content(url: str, param: str) -> bytes:
    """Bytes of a data URL."""
    begins = _DATA_URL.match(url)
    if begins is None:
        raise Refusal(
            400,
            f"{param}: pictures come inside the request as {_ACCEPTED}, got {url[:60]!a}; "
            "addresses, paths and drawings (SVG) are never opened",
            param,
            "invalid_image_url",
        )
    try:
        return base64.b64decode(url[begins.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"{param}: not base64: {error}", param, "invalid_base64") from error


def _num_pixels(content: bytes, param: str, limits: Limits) -> int:
    """Number of pixels as the header of the file says; nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return image.width * image.height
    except Image.DecompressionBombError as error:
        raise Refusal(
            400, f"{param}: {error}; one request may bring {limits.max_pixels:,} pixels", param, "image_too_large"
        ) from error
    except Exception as error:  # Pillow raises many kinds of errors at broken files; each means a broken picture
        raise _no_picture(content, param, f"begins with {content[:12]!r}") from error


def _decoded(content: bytes, param: str) -> Image.Image:
    try:
        return decode(content, param)
    except Exception as error:
        raise _no_picture(content, param, str(error)) from error


def _no_picture(content: bytes, param: str, reason: str) -> Refusal:
    message = f"{param}: {len(content)} bytes that are no whole picture ({reason}); accepted: {', '.join(FORMATS)}"
    return Refusal(400, message, param, "invalid_image")
