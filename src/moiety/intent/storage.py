"""Saving a fitted classifier as a folder of JSON and safetensors, and loading it. Nothing is pickled."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from moiety.intent.data.prepare import Preparation
from moiety.intent.data.samples import fingerprint_of
from moiety.intent.labels.descriptions import LabelDescription
from moiety.intent.network.baselines import network_for
from moiety.intent.network.reader import TextReader
from moiety.intent.scope import ScopeRule
from moiety.intent.settings import IntentSettings
from moiety.intent.word_blend import WordBlend
from moiety.records.saving import whole_folder

FORMAT = 1
TEXT_ENCODER = "text_encoder"
"""Folder with configuration and tokenizer of a text encoder that learned; its weights are with all others."""
_LIBRARIES = ("moiety", "torch", "transformers", "scikit-learn", "numpy")


def save_classifier(classifier: Any, folder: str | Path) -> Path:
    """Write a fitted classifier.

    Args:
        classifier: A fitted :class:`moiety.intent.IntentClassifier`.
        folder: A folder that does not exist yet, is empty, or holds a classifier, which is replaced.

    Raises:
        FileExistsError: the folder holds other files.
        OSError: writing failed; an earlier classifier is intact.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} holds other files; choose a new folder for the classifier")
    preparation: Preparation = classifier.preparation_
    state = classifier.model_.state_dict()
    tensors = {f"model.{name}": value.detach().clone().contiguous() for name, value in state.items()}
    for kind in ("mean", "deviation"):
        tensors |= {f"{kind}.{name}": torch.from_numpy(value) for name, value in getattr(preparation, kind).items()}
    if isinstance(classifier.thresholds_, torch.Tensor):
        tensors["thresholds"] = classifier.thresholds_
    tensors |= {} if classifier.blend_ is None else classifier.blend_.tensors()
    with whole_folder(folder) as fresh:
        save_file(tensors, fresh / "model.safetensors")
        if classifier.model_.reader is not None:
            classifier.model_.reader.save(fresh / TEXT_ENCODER)
        described = classifier.label_descriptions_ or {}
        _write(fresh / "label_descriptions.json", {"labels": [asdict(entry) for entry in described.values()]})
        _write(fresh / "metrics.json", {"history": classifier.history_, "best_epoch": classifier.best_epoch_})
        if classifier.blend_ is not None:
            _write(fresh / "vocabulary.json", classifier.blend_.vocabulary)
        (fresh / "README.md").write_text(card_of(classifier), encoding="utf-8")
        _write(fresh / "config.json", _config_of(classifier))
    return folder


def _config_of(classifier: Any) -> dict[str, Any]:
    parameters = dict(classifier.get_params())
    parameters["label_descriptions"] = "stored" if classifier.label_descriptions_ else None
    number = None if isinstance(classifier.thresholds_, torch.Tensor) else classifier.thresholds_
    return {
        "format": FORMAT,
        "parameters": parameters,
        "classes": classifier.classes_.tolist(),
        "dims": dict(classifier.preparation_.dims),
        "extractors": classifier.extractors_,
        "oos_rule": classifier.oos_rule_,
        "threshold": number,
        "best_epoch": classifier.best_epoch_,
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def card_of(classifier: Any) -> str:
    """The README of the folder: what a person should know before using the classifier."""
    reads = classifier.model_.reader is not None
    widths = {name: "word pieces" if name == "text" and reads else dim for name, dim in classifier.dims_.items()}
    dims = ", ".join(f"{name} ({width})" for name, width in widths.items())
    extractors = ", ".join(f"{name} by {known['extractor']}" for name, known in classifier.extractors_.items())
    best = classifier.history_[classifier.best_epoch_ - 1]
    grades = "\n".join(f"| {name} | {value:.4f} |" for name, value in best.items() if name != "epoch")
    settings = "\n".join(f"| {name} | {value} |" for name, value in sorted(classifier.get_params().items()))
    return (
        f"# Intent classifier: {classifier.method}\n\nWritten by moiety {version('moiety')}. "
        f"A-MESS here means A-MESS as reconstructed by moiety.\n\n"
        f"Labels ({len(classifier.classes_)}): {', '.join(map(str, classifier.classes_))}\n\n"
        f"Inputs and their widths: {dims}\n\n"
        f"Extractors: {extractors or 'none, frames were given'}\n\n"
        f"Out-of-scope rule: {classifier.oos_rule_ or 'none'}\n\n"
        f"## Best epoch ({classifier.best_epoch_} of {len(classifier.history_)})\n\n"
        "| measure | value |\n| --- | ---: |\n"
        f"{grades}\n\n## Settings\n\n| name | value |\n| --- | --- |\n{settings}\n"
    )


def load_classifier(cls: Any, folder: str | Path) -> Any:
    """Read a classifier that :func:`save_classifier` wrote.

    Raises:
        FileNotFoundError: the folder holds no classifier.
        ValueError: the classifier is damaged, or has a newer format.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no intent classifier at {folder}; give a folder that `save` wrote")
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        known = config["format"] <= FORMAT
        classifier = _restored(cls, folder, config) if known else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise ValueError(f"{folder} is damaged ({reason}); write it again with save") from error
    if not known:
        raise ValueError(f"{folder} has format {config['format']}, this moiety reads up to {FORMAT}; update moiety")
    return classifier


def _restored(cls: Any, folder: Path, config: dict[str, Any]) -> Any:
    tensors = load_file(folder / "model.safetensors")
    table = json.loads((folder / "label_descriptions.json").read_text("utf-8"))["labels"]
    parameters = config["parameters"]
    classifier = cls(**{**parameters, "modalities": tuple(parameters["modalities"] or ()) or None})
    settings = IntentSettings.model_validate(classifier.get_params())
    classifier.classes_, classifier.dims_ = np.array(config["classes"]), config["dims"]
    classifier.extractors_ = config.get("extractors", {})
    reader = TextReader.stored(folder / TEXT_ENCODER) if settings.reads_words else None
    classifier.preparation_ = Preparation(
        config["dims"],
        {name[5:]: value.numpy() for name, value in tensors.items() if name.startswith("mean.")},
        {name[10:]: value.numpy() for name, value in tensors.items() if name.startswith("deviation.")},
        settings.max_frames or {},
        settings.text_encoder,
        {name: fingerprint_of(known) for name, known in classifier.extractors_.items()},
        None if reader is None else reader.tokenizer,
    )
    state = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    described = state.get("label_embeddings")
    classifier.model_ = network_for(config["dims"], len(config["classes"]), settings, described, reader)
    classifier.model_.load_state_dict(state)
    classifier.model_.eval()
    classifier.blend_ = None
    if settings.word_blend:
        words = json.loads((folder / "vocabulary.json").read_text("utf-8"))
        classifier.blend_ = WordBlend.stored(words, tensors)
    classifier.label_descriptions_ = {
        entry["label"]: LabelDescription(entry["label"], tuple(entry["descriptions"]), entry["name"], entry["cues"])
        for entry in table
    } or None
    classifier.best_epoch_ = config["best_epoch"]
    classifier.scope_ = ScopeRule(config["oos_rule"], tensors.get("thresholds", config["threshold"]), classifier.model_)
    classifier.history_ = json.loads((folder / "metrics.json").read_text("utf-8"))["history"]
    return classifier


def _write(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=1, default=str) + "\n", encoding="utf-8")
