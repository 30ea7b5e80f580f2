"""Who made the frames of a sample: frames of another extractor look like those of the right one, and mean nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from moiety.intent.data.samples import IntentSample, SampleError

OWN = ""
"""Stands for frames of the user's own, and for words that the classifier itself reads."""


def maker_of(modality: str, sample: IntentSample) -> str | None:
    """Fingerprint of what made the frames of one modality, :data:`OWN` where none is named; None where it is absent."""
    has_words = modality == "text" and bool((sample.text or "").strip())
    frames = sample.text_features if modality == "text" else getattr(sample, modality)
    return sample.extractors.get(modality, OWN) if frames is not None else OWN if has_words else None


def is_pretrained(fingerprint: str) -> bool:
    """Whether a pretrained model made the frames, whose numbers are left as they are."""
    return "weights_sha256" in _settings(fingerprint)


def check_makers(samples: Sequence[IntentSample], known: Mapping[str, str]) -> None:
    """Refuse frames of one modality that were made in another way than those that are known.

    Args:
        samples: All samples, in any modality.
        known: Modality -> fingerprint of its extractor, or :data:`OWN`.

    Raises:
        SampleError: there are such; their keys are named, and both extractors where they differ.
    """
    problems = []
    for name, own in known.items():
        others: dict[str, list[str]] = {}
        for sample in samples:
            maker = maker_of(name, sample)
            if maker is not None and maker != own and _identity(maker) != _identity(own):
                others.setdefault(maker, []).append(sample.key)
        for maker, keys in others.items():
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            problems.append(
                f"{name} of {', '.join(keys[:5])}{more} was made by {_shown(maker, own)}, expected {_shown(own, maker)}"
            )
    if problems:
        raise SampleError("; ".join(problems) + ". Read all clips with one extractor, as model.read_clips does")


def _settings(fingerprint: str) -> dict[str, Any]:
    return json.loads(fingerprint) if fingerprint else {}


def _identity(fingerprint: str) -> dict[str, Any]:
    """What decides the numbers: a model with the same weights may lie elsewhere."""
    settings = _settings(fingerprint)
    place = ("extractor", "revision") if "weights_sha256" in settings else ()
    return {key: value for key, value in settings.items() if key not in place}


def _shown(fingerprint: str, other: str) -> str:
    """An extractor by name, with the settings in which it differs from another."""
    if fingerprint == OWN:
        return "no extractor (frames of your own, or words)"
    settings, theirs = _settings(fingerprint), _settings(other)
    changed = [f"{key} {value}" for key, value in settings.items() if key != "extractor" and theirs.get(key) != value]
    return f"{settings.get('extractor')} ({', '.join(changed)})" if changed else str(settings.get("extractor"))
