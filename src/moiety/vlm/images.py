"""Pictures by name, read in place from folders and uncompressed tar files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from moiety.vlm.deep_grey import deep_grey


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
        self._members = {source: _index_tar(source) for source in self.sources if not _is_folder(source)}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and next(self._places(name), None) is not None

    def __getitem__(self, name: str) -> Image.Image:
        """The picture called `name` as RGB, turned as its EXIF entry says, transparency on white.

        Raises:
            FileNotFoundError: no source holds the name.
            ValueError: the file cannot be decoded.
        """
        for source, offset, size in self._places(name):
            with open(source, "rb") as file:
                file.seek(offset)
                content = file.read(size)
            return decode(content, f"{name!r} of {source}")
        raise FileNotFoundError(
            f"picture {name!r} is in none of {len(self.sources)} image sources "
            f"({', '.join(map(str, self.sources)) or 'data.images is empty'}); names are paths inside a folder or a tar"
        )

    def _places(self, name: str) -> Iterator[tuple[Path, int, int]]:
        """File, offset and size (-1: to the end) of every source that holds `name`."""
        for source in self.sources:
            members = self._members.get(source)
            if members is None:
                if name and (source / name).is_file():
                    yield source / name, 0, -1
            elif name in members:
                yield source, *members[name]


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
        return as_rgb(Image.open(io.BytesIO(content)))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL raises all four
        why = "no format of pictures that is known" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"picture {where} cannot be decoded ({len(content)} bytes): {why}") from error


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any kind as RGB of 8 bits: turned as its EXIF entry says, transparency on white, deep grey scaled.

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
