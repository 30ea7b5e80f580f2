"""Where recorded numbers lie, and which cases there are: tests compare with whatever the folder holds."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("MOIETY_SHARED", Path(__file__).parents[1].parent / "shared"))
"""Folder with ``golden/`` and ``data/``: $MOIETY_SHARED, or ``shared`` beside the project."""


def cases(pattern: str) -> list[str]:
    """Names without ending of the files below ``golden/`` that fit; none without the folder, and pytest then skips.

    Args:
        pattern: For instance ``moiie/block_*.npz``.
    """
    return sorted(path.name.removesuffix("".join(path.suffixes)) for path in (SHARED / "golden").glob(pattern))
