"""Pictures by name, read in place from folders and uncompressed tar files."""

from __future__ import annotations

import functools
import io
import os
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from moiety.vlm.deep_grey import deep_grey
from moiety.vlm.inline_pictures import InlinePicture
from moiety.vlm.problems import shown

_LONGEST_NAME = 255
MOST_PIXELS = 89_478_485
"""Pixels of one picture: where Pillow begins to warn. Four times as much costs more than a GiB to decode."""


class Pictures(Protocol):
    """Pictures by the names that rows use: :class:`Images`, a dict, or whatever decodes them."""

    def __getitem__(self, name: str, /) -> Image.Image:
        """The picture called `name`."""

    def __contains__(self, name: object, /) -> bool:
        """Whether there is a picture called `name`."""


class Images:
    """Look-up of pictures by the names that rows use.

    Sources are searched in the given order. A tar is indexed once (member name -> offset) and read in place. No file
    stays open between two look-ups, so an object can be pickled and shared by forked workers.

    A name leads to a place inside the given folders and to no other: rows are written by others. It may be absolute or
    hold ``..`` as long as it ends in one of them; links inside the folders are followed.

    Args:
        paths: Image folders and ``.tar`` files.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a file is not an uncompressed tar.

    Example:
        >>> len(Images([]).sources)
        0
    """

    def __init__(self, paths: Iterable[str | Path] = ()) -> None:
        self.sources = [Path(path) for path in paths]
        self._roots = [os.path.abspath(source) for source in self.sources]
        self._members = {source: _index_tar(source) for source in self.sources if not _is_folder(source)}

    def __contains__(self, name: object) -> bool:
        if isinstance(name, InlinePicture):
            return True
        return isinstance(name, str) and next(self._places(name), None) is not None

    def __getitem__(self, name: str) -> Image.Image:
        """The picture called `name` as RGB, turned as its EXIF entry says, transparency on white.

        Raises:
            FileNotFoundError: no source holds the name.
            ValueError: the file cannot be decoded.
            OSError: the file cannot be read.
        """
        if isinstance(name, InlinePicture):
            return decode(name.content, repr(str(name)))
        for source, offset, size in self._places(name):
            with open(source, "rb") as file:
                file.seek(offset)
                content = file.read(size)
            return decode(content, f"{name!r} of {source}")
        places = ", ".join(map(str, self.sources)) or "data.images is empty"
        if self.leads_outside(name):
            raise FileNotFoundError(
                f"picture {shown(name)} lies outside of the image sources ({places}); "
                "give the folder that holds it, too"
            )
        raise FileNotFoundError(
            f"picture {shown(name)} is in none of {len(self.sources)} image sources ({places}); "
            "names are paths inside a folder or a tar"
        )

    def leads_outside(self, name: str) -> bool:
        """Whether a name leads out of every folder that was given."""
        folders = [root for root, source in zip(self._roots, self.sources, strict=True) if source not in self._members]
        return _is_roving(name) and not any(self._inside(root, name) for root in folders)

    def _inside(self, root: str, name: str) -> str | None:
        """The place of `name` seen from a folder; None outside of all folders."""
        place = os.path.join(root, name)
        if not _is_roving(name):
            return place
        place = os.path.normpath(place)
        held = any(os.path.commonpath([place, other]) == other for other in self._roots)
        return place if held else None

    def _places(self, name: str) -> Iterator[tuple[Path, int, int]]:
        """File, offset and size (-1: to the end) of every source that holds `name`."""
        for source, root in zip(self.sources, self._roots, strict=True):
            members = self._members.get(source)
            if members is None:
                place = self._inside(root, name) if name else None
                if place is not None and os.path.isfile(place):
                    yield Path(place), 0, -1
            elif name in members:
                yield source, *members[name]


def absence(name: str, pictures: Pictures) -> str:
    """What to say of a picture that is not there."""
    if isinstance(pictures, Images) and pictures.leads_outside(name):
        return f"picture {shown(name)} lies outside of the image sources; give the folder that holds it, too"
    if name[:8].lower().startswith(("http://", "https://")):
        return f"picture {shown(name)} is an address; nothing is fetched: download it and name the file"
    if len(name) > _LONGEST_NAME:
        return f"picture {shown(name)} is no file and no picture in base64 that is known"
    return f"picture {shown(name)} is missing"


@functools.lru_cache(maxsize=8)
def plain_picture(size: tuple[int, int], colour: tuple[int, ...]) -> Image.Image:
    """A picture of one RGB colour; the same object for the next question, so that it need not be processed again."""
    return Image.new("RGB", size, colour)


def _is_roving(name: str) -> bool:
    """Whether a name can lead out of its folder: it is absolute, or it has ``..`` in it."""
    return os.path.isabs(name) or ".." in name.replace("\\", "/").split("/")


def open_picture(path: str | Path) -> Image.Image:
    """The picture in one file, as RGB.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {path}{': that is a folder' * path.is_dir()}")
    return decode(path.read_bytes(), str(path))


def decode(content: bytes, where: str) -> Image.Image:
    """Decode one picture file to RGB; `where` names it in the error.

    Raises:
        ValueError: the bytes are not a whole picture.
    """
    try:
        return as_rgb(_measured(content))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL raises all four
        why = "its format is unknown" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"picture {where} cannot be decoded ({len(content)} bytes): {why}") from error


def _measured(content: bytes) -> Image.Image:
    """A picture whose size is known and bearable; no pixel of it is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is the same
        image = Image.open(io.BytesIO(content))
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(
            f"{image.width:,} x {image.height:,} pixels, more than the {MOST_PIXELS // 10**6} million that are read; "
            "make it smaller"
        )
    return image


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture as RGB of 8 bits. EXIF rotation is applied, transparency becomes white, and deep grey is scaled.

    What counts as white is what the format says, 65535 for 16 bits and 1.0 for floats, never the brightest pixel.

    Raises:
        ValueError: nothing says which value is white: whole numbers of 32 bits, floats outside 0..1.
    """
    picture.load()
    if picture.mode.startswith(("I", "F")):
        picture = deep_grey(picture)
    if type(picture) is not Image.Image or picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _is_folder(path: Path) -> bool:
    if not path.exists():
        raise FileNotFoundError(f"no image folder or tar at {path}; data.images is relative to data.root")
    return path.is_dir()


def _index_tar(path: Path) -> dict[str, tuple[int, int]]:
    """Member name -> offset and size of its bytes."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}
    except tarfile.ReadError as error:
        raise ValueError(
            f"{path} is neither a folder nor an uncompressed tar ({error}); unpack it or pack it without compression"
        ) from error
