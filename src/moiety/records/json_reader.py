"""JSON that somebody else wrote: whatever is wrong with it is one kind of error."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes, **options: Any) -> Any:
    """What ``json.loads`` gives; a text without end of brackets is a mistake in it, too, and no failure of the program.

    Args:
        text: JSON.
        options: As in ``json.loads``.

    Raises:
        json.JSONDecodeError: it is no JSON, or nested more deeply than Python reads.

    Example:
        >>> parse_json('{"a": [1]}')
        {'a': [1]}
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        said = text if isinstance(text, str) else text.decode("utf-8", "replace")
        raise json.JSONDecodeError("brackets are nested too deeply, some hundred levels are read", said, 0) from error
