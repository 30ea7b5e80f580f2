"""Pictures inside a row: data URLs, base64 text, and bytes as in the tables of the Hub."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from moiety.vlm.problems import shown

_FORMATS = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.=+-]+)*),", re.IGNORECASE)
_SHORTEST = 64  # letters; even a picture of one pixel has more
_HEAD = 40


class InlinePicture(str):
    """The short name of a picture that came inside a row. It can also read the bytes of the picture.

    It is used like the name of a file. Equal pictures have equal names. So the rows of one picture can be joined, and
    the same question about the same picture is asked only once.

    Args:
        name: The name in messages.
        read: Function that returns the bytes of the picture file.
    """

    _read: Callable[[], bytes]

    def __new__(cls, name: str, read: Callable[[], bytes]) -> InlinePicture:  # noqa: D102
        picture = super().__new__(cls, name)
        picture._read = read
        return picture

    # arguments from which another process makes it again
    def __getnewargs__(self) -> tuple[str, Callable[[], bytes]]:  # type: ignore[override]
        return str(self), self._read

    @property
    def content(self) -> bytes:
        """Bytes of the picture file."""
        return self._read()

    @property
    def url(self) -> str:
        """The picture as a data URL, for rows that are written to a file."""
        content = self.content
        kind = next((kind for begins, kind in _FORMATS.items() if content.startswith(begins)), "unknown")
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def picture_in(value: Any) -> str:
    """The name of the picture that a field of a row gives.

    Args:
        value: A name; a data URL or the base64 text of a picture file; its bytes; or ``{"bytes": …, "path": …}``.

    Returns:
        A name for :class:`moiety.vlm.images.Images`: an :class:`InlinePicture` where the picture itself was given.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, InlinePicture):
        return value
    if isinstance(value, dict) and value.keys() <= {"bytes", "path", "url"}:
        name = value.get("path") or value.get("url") or ""
        content = value.get("bytes")
        if isinstance(content, str) and content:
            content = _from_base64(content, content)
        if isinstance(content, bytes) and content and isinstance(name, str):
            return of_content(content, name)
        value = name
    if isinstance(value, bytes) and value:
        return of_content(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"a picture must be a name, a data URL, base64 text or {{bytes, path}}, got {shown(value)}")
    if value[:5].lower() == "data:":
        return _of_data_url(value)
    if value[:7].lower() == "file://":
        return unquote(urlsplit(value).path)
    return _of_base64(value) if _is_base64(value) else value


def of_content(content: bytes, name: str = "", read: Callable[[], bytes] | None = None) -> InlinePicture:
    """A picture from its bytes. With `read`, the bytes are not kept; `read` returns them when they are needed."""
    digest = hashlib.sha256(content).hexdigest()[:8]
    return InlinePicture(f"{name or 'picture'}#{digest}", read or functools.partial(bytes, content))


def _of_data_url(url: str) -> InlinePicture:
    begins = _DATA_URL.match(url)
    kind = begins.group(1) if begins else None
    if begins is None or ";base64" not in begins.group(2).lower() or (kind or "image/").split("/")[0] != "image":
        raise ValueError(f"picture {shown(url)}: a data URL must begin with data:image/png;base64, (or another format)")
    return of_content(_from_base64(url[begins.end() :], url), f"{url[:_HEAD]}…")


def _of_base64(text: str) -> InlinePicture:
    return of_content(_from_base64(text, text), f"{text[:_HEAD]}…")


def _is_base64(text: str) -> bool:
    """Whether a text is a picture in base64 and not a name. Its first bytes decide: they name a picture format."""
    head = "".join(text[:_HEAD].split())
    if len(text) < _SHORTEST or not _BASE64.fullmatch(head):
        return False
    return base64.b64decode(_usual(head[: len(head) // 4 * 4])).startswith(tuple(_FORMATS))


def _from_base64(text: str, given: str) -> bytes:
    packed = "".join(text.split())
    try:
        content = base64.b64decode(_usual(packed) + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"picture {shown(given)}: its base64 is broken ({error}); encode the file again") from error
    if not content:
        raise ValueError(f"picture {shown(given)}: there is no picture after the comma; encode the file again")
    return content


def _usual(text: str) -> str:
    """The text with the base64 alphabet for addresses replaced by the usual alphabet."""
    return text.replace("-", "+").replace("_", "/")
