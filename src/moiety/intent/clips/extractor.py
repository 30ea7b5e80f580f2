"""What an extractor is: it makes the frames ``(frames, dim)`` of one modality of a clip.

The settings of an extractor decide its numbers, all of them. Its fingerprint is these settings, written out in one
fixed way: two extractors with the same fingerprint make the same frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from moiety.groups import nearest_name
from moiety.intent.clips.media import Frames, decode_video
from moiety.intent.data.rows import ClipRow
from moiety.recipe.section import Section

VERSION = 1
"""This number rises when the same settings make other frames than before, so that no cache mixes both."""

Features = tuple[np.ndarray, np.ndarray]
"""Frames ``(frames, dim)`` float32 and the second of each, ``(frames,)`` float32; no seconds for text."""


class Extractor(Protocol):
    """Makes the frames of one modality, ``(frames, dim)`` float32, and the second of each, ``(frames,)``.

    Attributes:
        modality: ``text``, ``video`` or ``audio``.
    """

    modality: str

    def settings(self) -> dict[str, Any]:
        """All settings that decide the numbers, as JSON values; ``extractor`` is a name, folder or Hugging Face id."""

    @property
    def fingerprint(self) -> str:
        """The settings as one line of JSON."""

    def source(self, row: ClipRow) -> Path | str | None:
        """The file or the text of a row that is read; None: the row has none."""

    def extract(self, row: ClipRow) -> Features | None:
        """Frames and their seconds; None where the row has no such stream.

        Raises:
            MediaError: the file cannot be used.
        """


def pictures_of(row: ClipRow, options: Any) -> Frames | None:
    """The pictures of the clip of a row; None where there are none.

    Args:
        row: The row.
        options: Options of an extractor, with ``fps``, ``max_frames`` and ``max_side``.

    Raises:
        MediaError: the file cannot be used.
    """
    if row.clip is None:
        return None
    return decode_video(
        row.clip,
        fps=options.fps,
        max_frames=options.max_frames,
        start_s=row.start_s,
        end_s=row.end_s,
        max_side=options.max_side,
    )


def checked(options: type[Section], name: str, given: Mapping[str, Any]) -> Any:
    """The options of an extractor, with every value checked.

    Args:
        options: The class of the options.
        name: Name of the extractor, for messages.
        given: Name of an option -> value.

    Raises:
        ValueError: an option is unknown, or values are not allowed; all of these are named.
    """
    for option in given:
        if option not in options.model_fields:
            raise ValueError(
                f"extractor {name!r} has no option {option!r}; {nearest_name(option, options.model_fields)}"
            )
    try:
        return options.model_validate(dict(given))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise ValueError(f"extractor {name!r}: {wrong}") from error
