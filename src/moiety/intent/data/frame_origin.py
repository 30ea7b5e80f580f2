"""Where the frames of a sample come from.

Frames of another extractor may look like those of the right one, but their numbers mean something else, so they are
refused. An origin is the fingerprint of the extractor that made the frames, or :data:`USER` where no extractor did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from moiety.intent.data.samples import IntentSample, SampleError

USER = ""
"""Origin of frames that the user made, and of words, which the classifier itself turns into frames."""


def origin_of(modality: str, sample: IntentSample) -> str | None:
    """Origin of the frames of one modality; None where the modality is absent."""
    frames = sample.text_features if modality == "text" else getattr(sample, modality)
    if frames is not None:
        return sample.extractors.get(modality, USER)
    return USER if modality == "text" and (sample.text or "").strip() else None


def is_pretrained(origin: str) -> bool:
    """Whether a pretrained model made the frames; its numbers are used without z-scores."""
    return "weights_sha256" in _settings(origin)


def check_origins(samples: Sequence[IntentSample], expected: Mapping[str, str]) -> None:
    """Refuse frames that were made in another way than expected.

    Args:
        samples: All samples; any modality may be absent.
        expected: Modality -> origin that its frames must have.

    Raises:
        SampleError: some frames have another origin; the keys of their samples are listed, and both origins are shown
            with the settings in which they differ.
    """
    problems = []
    for name, wanted in expected.items():
        others: dict[str, list[str]] = {}
        for sample in samples:
            origin = origin_of(name, sample)
            if origin is not None and origin != wanted and _identity(origin) != _identity(wanted):
                others.setdefault(origin, []).append(sample.key)
        for origin, keys in others.items():
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            problems.append(
                f"{name} of {', '.join(keys[:5])}{more} was made by {_shown(origin, wanted)}, "
                f"expected {_shown(wanted, origin)}"
            )
    if problems:
        raise SampleError("; ".join(problems) + ". Read all clips with one extractor, as model.read_clips does")


def _settings(origin: str) -> dict[str, Any]:
    return json.loads(origin) if origin else {}


def _identity(origin: str) -> dict[str, Any]:
    """The settings that decide the numbers: a model with the same weights may lie in another folder."""
    settings = _settings(origin)
    place = ("extractor", "revision") if "weights_sha256" in settings else ()
    return {key: value for key, value in settings.items() if key not in place}


def _shown(origin: str, other: str) -> str:
    """An origin in words: the extractor's name, and the settings in which it differs from `other`."""
    if origin == USER:
        return "no extractor (frames that you made, or words)"
    settings, theirs = _settings(origin), _settings(other)
    changed = [f"{key} {value}" for key, value in settings.items() if key != "extractor" and theirs.get(key) != value]
    return f"{settings.get('extractor')} ({', '.join(changed)})" if changed else str(settings.get("extractor"))
