"""Finds the files of a benchmark in a folder by name, in any subfolder, and reads archives without unpacking them."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from PIL import Image

from moiety.vlm.images import decode

MAX_DEPTH = 7
"""Folders below the benchmark's own in which files are looked for."""
_PICTURE_NAMES = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)$", re.IGNORECASE)
_ARCHIVE_NAMES = re.compile(r"\.(zip|tar|tar\.gz|tgz)$", re.IGNORECASE)
_PACKED_TAR_BYTES = 512 * 2**20  # a larger compressed tar holds pictures; to list it would mean to unpack all of it


class Readable(Protocol):
    """A file, or a member of an archive."""

    @property
    def name(self) -> str:
        """Its last part."""

    @property
    def suffix(self) -> str:
        """What stands behind the last full stop of its name, with it."""

    def read_bytes(self) -> bytes:
        """All of it."""


@dataclass(frozen=True)
class Member:
    """A file inside an archive.

    Args:
        archive: The archive.
        member: Its name there.
    """

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.member}"

    @property
    def name(self) -> str:
        """Its last part."""
        return PurePosixPath(self.member).name

    @property
    def suffix(self) -> str:
        """What stands behind the last full stop of its name, with it."""
        return PurePosixPath(self.member).suffix

    def read_bytes(self) -> bytes:
        """All of it."""
        if _is_zip(self.archive):
            with zipfile.ZipFile(self.archive) as packed:
                return packed.read(self.member)
        with tarfile.open(self.archive) as tar:
            file = tar.extractfile(self.member)
            assert file is not None, "members are files"
            return file.read()


class Release:
    """The files in a folder. A pattern names the end of a path; anything may stand before it.

    The name of the folder itself is part of a path: ``OCR/*.txt`` names the files of a folder ``OCR`` that was given.
    Case is ignored, ``*`` stands for anything inside one name, ``{a,b}`` for one of several words, ``./`` at the front
    for the folder itself, whatever its name. A file may have ``.gz`` behind its name. Archives are opened only where
    nothing outside them matches.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
        self.folder, self.name = folder, folder.resolve().name
        self.folders: list[str] = [""]
        self.broken: dict[str, str] = {}
        """Archives that could not be opened when they were looked into -> what is told of them."""
        self._paths: dict[str, Path] = {}
        for name, path, is_folder in _below(folder):
            if is_folder:
                self.folders.append(name)
            else:
                self._paths[name] = path

    def all(self, pattern: str) -> list[Readable]:
        """The files that match `pattern`, sorted by the number of folders above them, then by name."""
        matches = _pattern(pattern).fullmatch
        before = "" if pattern.startswith("./") else f"{self.name}/"
        plain: dict[str, Readable] = {name: path for name, path in self._paths.items() if matches(before + name)}
        found = plain or {name: member for name, member in self._members.items() if matches(before + name)}
        return [found[name] for name in sorted(found, key=lambda name: (name.count("/"), name))]

    def has(self, *patterns: str) -> bool:
        """Whether a file matches one of `patterns`."""
        return any(self.all(pattern) for pattern in patterns)

    def find(self, *patterns: str) -> Readable | None:
        """The file that matches the first possible one of `patterns`; None if there is none.

        Raises:
            ValueError: two files fit equally well and differ.
        """
        for pattern in patterns:
            found = self.all(pattern)
            if found:
                self._check_alike(found)
                return found[0]
        return None

    def one(self, *patterns: str) -> Readable:
        """The same as :meth:`find`, but the file must exist.

        Raises:
            FileNotFoundError: there is none.
            ValueError: two files fit equally well and differ.
        """
        found = self.find(*patterns)
        if found is None:
            raise FileNotFoundError(f"no {' or '.join(patterns)} in {self.folder}{self.told_of_broken}")
        return found

    def relative(self, file: Readable) -> str:
        """Path of a file below the folder."""
        return next((name for name, path in self._paths.items() if path is file), file.name)

    def _check_alike(self, found: Sequence[Readable]) -> None:
        first = found[0]
        depth = str(first).count("/")
        for other in found[1:]:
            if str(other).count("/") == depth and other.name == first.name and other.read_bytes() != first.read_bytes():
                raise ValueError(
                    f"{first} and {other} differ and either could be meant; leave one of them in {self.folder}"
                )

    @property
    def told_of_broken(self) -> str:
        """Text for the error about a missing file, if a damaged archive may hold that file."""
        return "".join(f"; {told}" for told in self.broken.values())

    @cached_property
    def archives(self) -> dict[str, Path]:
        """Archives by path below the folder."""
        return {name: path for name, path in self._paths.items() if _ARCHIVE_NAMES.search(name)}

    @cached_property
    def _members(self) -> dict[str, Readable]:
        """Members of archives by the path they would have if they were unpacked beside their archive."""
        members: dict[str, Readable] = {}
        for name, path in self.archives.items():
            if not _is_zip(path) and not name.lower().endswith(".tar") and path.stat().st_size > _PACKED_TAR_BYTES:
                continue
            before = name.rpartition("/")[0]
            try:
                inside = members_of(path)
            except ValueError as error:
                self.broken[name] = str(error)
                continue
            for member in inside:
                if not _PICTURE_NAMES.search(member) and not _is_hidden(member):
                    members[f"{before}/{member}".lstrip("/")] = Member(path, member)
        return members


def _below(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """Path below `folder`, full path, and whether it is a folder. Pictures and hidden names are skipped."""
    todo: list[tuple[str, Path, int]] = [("", folder, 0)]
    seen = {folder.resolve()}
    while todo:
        before, place, depth = todo.pop()
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            if entry.name.startswith(".") or entry.name == "__MACOSX" or _PICTURE_NAMES.search(entry.name):
                continue
            name, path = f"{before}{entry.name}", Path(entry.path)
            if not entry.is_dir():
                if entry.is_file():
                    yield name, path, False
                continue
            if entry.is_symlink():
                if path.resolve() in seen:
                    continue
                seen.add(path.resolve())
            yield name, path, True
            if depth < MAX_DEPTH:
                todo.append((f"{name}/", path, depth + 1))


def _is_hidden(member: str) -> bool:
    return any((part.startswith(".") and part not in (".", "..")) or part == "__MACOSX" for part in member.split("/"))


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _opens_in_place(path: Path) -> bool:
    """Whether one member can be read without unpacking all before it."""
    return path.suffix.lower() in (".zip", ".tar")


def members_of(archive: Path) -> list[str]:
    """Names of the files in an archive.

    Raises:
        ValueError: the archive is damaged.
    """
    try:
        if _is_zip(archive):
            with zipfile.ZipFile(archive) as packed:
                return [info.filename for info in packed.infolist() if not info.is_dir()]
        with tarfile.open(archive) as tar:
            return [member.name for member in tar if member.isfile()]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        why = str(error).split("\n")[0].rstrip(":-")
        raise ValueError(f"{archive} is not a complete archive ({why}); fetch it again or remove it") from error


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    anchored, bare = pattern.startswith("./"), pattern.removeprefix("./")
    text = re.escape(bare).replace(r"\*", "[^/]*")
    text = re.sub(r"\\\{(.*?)\\\}", lambda match: f"(?:{'|'.join(match.group(1).split(','))})", text)
    return re.compile(f"{'' if anchored else '(?:.*/)?'}{text}(?:\\.gz)?", re.IGNORECASE)


# -- pictures ----------------------------------------------------------------------------------------------------------
class ReleasePictures:
    """Pictures of a folder by name: in the folders called `places`, in archives of them, and in the folder itself.

    Args:
        release: The folder.
        places: Ends of paths of folders, the likeliest first, for instance ``val2014``.

    Example:
        ``places=("test/png", "png")`` finds ``1.png`` as ``ChartQA Dataset/test/png/1.png`` and in ``png.zip``.
    """

    def __init__(self, release: Release, places: Sequence[str] = ()) -> None:
        self.release, self.places = release, tuple(places)
        named = [(place, name) for place in places for name in release.folders if _ends_with(name, place)]
        self.folders = [release.folder / name for _, name in named]
        self.folders.append(release.folder)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (self._path(name) is not None or name in self._packed)

    def __getitem__(self, name: str) -> Image.Image:
        """The picture called `name`, as RGB.

        Raises:
            FileNotFoundError: the picture is not found.
            ValueError: it cannot be decoded.
        """
        path = self._path(name)
        if path is not None:
            return decode(path.read_bytes(), str(path))
        if name in self._packed:
            archive, member = self._packed[name]
            return decode(archive.read(member), f"{member!r} of {archive.path}")
        looked = ", ".join(["there", *(f"in {place}/" for place in self.places)])
        told = f"picture {name!r:.80} is not in {self.release.folder}; looked {looked} and in archives (zip, tar)"
        packed = next((key for key, path in self.release.archives.items() if not _opens_in_place(path)), None)
        raise FileNotFoundError(told + (f"; unpack {packed}, it cannot be read in place" if packed else ""))

    def _path(self, name: str) -> Path | None:
        if not name:
            return None
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    @cached_property
    def _packed(self) -> dict[str, tuple[_Archive, str]]:
        """Name of a picture -> archive and member: what stands behind the likeliest place in the member's path."""
        found: dict[str, tuple[_Archive, str]] = {}
        whole: dict[str, tuple[_Archive, str]] = {}
        for path in self.release.archives.values():
            if not _opens_in_place(path):
                continue
            archive = _Archive(path)
            for member in members_of(path):
                name = member.removeprefix("./")
                if _PICTURE_NAMES.search(name) or "." not in PurePosixPath(name).name:
                    whole.setdefault(name, (archive, member))
        for place in self.places:
            for name, where in whole.items():
                _, inside, rest = f"/{name}".rpartition(f"/{place}/")
                if inside:
                    found.setdefault(rest, where)
        return whole | found


class _Archive:
    """A zip or an uncompressed tar that stays open between look-ups."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        with tarfile.open(self.path, "r:") as tar:
            return {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}

    def read(self, member: str) -> bytes:
        if _is_zip(self.path):
            return self._zip.read(member)
        offset, size = self._places[member]
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(size)


def _ends_with(name: str, place: str) -> bool:
    return f"/{name}".lower().endswith(f"/{place}".lower())
