"""Reads JSON that another program wrote. Every mistake in it raises the same kind of error."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Parse JSON as ``json.loads`` does. A text with too many nested brackets also counts as a mistake in the JSON.

    Args:
        text: JSON.
        options: As in ``json.loads``.

    Raises:
        json.JSONDecodeError: the text is not JSON, or it is nested more deeply than Python can read.

    Example:
        >>> parse_json('{"a": [1]}')
        {'a': [1]}
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        said = text if isinstance(text, str) else text.decode("utf-8", "replace")
        raise json.JSONDecodeError("brackets are nested too deeply, some hundred levels are read", said, 0) from error
