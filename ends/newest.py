"""Print what ``make test-newest`` installs: every package of ours without its bounds, so that the newest one comes."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
EXTRAS = ("dev", "lora", "parquet", "serve", "app", "trl")


def unbounded(project: dict, extras: tuple[str, ...] = EXTRAS) -> list[str]:
    """Names of the dependencies and of some extras, without bounds.

    Args:
        project: Table ``project`` of a pyproject.toml.
        extras: Names of extras.
    """
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return sorted({Requirement(line).name for line in lines})


if __name__ == "__main__":
    print("\n".join(unbounded(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])))
    sys.exit(0)
