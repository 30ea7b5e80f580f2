"""Making an extractor by its name: a built-in one, or a Hugging Face model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moiety.groups import nearest_name
from moiety.intent.clips.built_in import BUILT_IN
from moiety.intent.clips.extractor import VERSION, Extractor, checked
from moiety.intent.clips.pretrained import pretrained_extractor
from moiety.intent.data.encoders import HASHING
from moiety.intent.data.samples import MODALITIES


def extractor_for(modality: str, spec: str | Mapping[str, Any], *, device: str = "cpu") -> Extractor:
    """Make an extractor from its name or its settings.

    Args:
        modality: ``text``, ``video`` or ``audio``.
        spec: ``prosody`` (audio), ``motion`` (video), or a Hugging Face id or folder. Or a mapping with this name under
            ``extractor`` and with options, for instance the settings that :meth:`Extractor.settings` returned.
        device: Where a Hugging Face model runs.

    Raises:
        ValueError: the modality, an option or a value is unknown, the extractor is for another modality, or its model
            cannot be loaded or is not the one that the settings identify.
    """
    if modality not in MODALITIES:
        raise ValueError(f"unknown modality {modality!r}; {nearest_name(modality, MODALITIES)}")
    given = {"extractor": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("extractor", None)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"the extractor of {modality} is {name!r}, expected a name, a folder or a Hugging Face id")
    if name == HASHING:
        raise ValueError("hashing extracts nothing from a clip: words stay words, and setting text_encoder reads them")
    version = given.pop("version", VERSION)
    if version != VERSION:
        raise ValueError(f"extractor {name!r} has version {version!r}, this moiety makes version {VERSION}; fit again")
    if name not in BUILT_IN:
        return pretrained_extractor(modality, name, given, device=device)
    options, kind = BUILT_IN[name]
    if kind.modality != modality:
        fitting = [other for other, (_, one) in BUILT_IN.items() if one.modality == modality]
        raise ValueError(
            f"extractor {name!r} is for {kind.modality}, not for {modality}; "
            f"give {', '.join([*fitting, 'a Hugging Face id or folder'])}"
        )
    return kind(checked(options, name, given))
