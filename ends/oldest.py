"""Write ``ends/oldest.txt``: the oldest release of everything that pyproject.toml allows, as constraints for pip.

Run it after a floor has moved: ``python ends/oldest.py``. Torch stands alone in its file, since it is installed first.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = ("lora", "parquet", "serve", "app")
"""Extras that are installed at the ends, beside ``dev``, which holds tools."""


def floor(requirement: Requirement) -> str:
    """The oldest release that a requirement allows.

    Raises:
        ValueError: it names no such release.
    """
    floors = [one.version for one in requirement.specifier if one.operator in (">=", "==")]
    if len(floors) != 1:
        raise ValueError(
            f"{requirement} names no oldest release; write {requirement.name}>=X, X a release that was tried"
        )
    return floors[0]


def oldest(project: dict[str, object], extras: Iterable[str] = EXTRAS) -> dict[str, str]:
    """Package -> oldest release, of the dependencies and of some extras.

    Args:
        project: Table ``project`` of a pyproject.toml.
        extras: Names of extras.

    Raises:
        ValueError: a package has no floor, or two of them.
    """
    optional = project.get("optional-dependencies", {})
    found: dict[str, str] = {}
    for line in [*project["dependencies"], *(line for extra in extras for line in optional[extra])]:
        requirement = Requirement(line)
        name, release = canonicalize_name(requirement.name), floor(requirement)
        if found.setdefault(name, release) != release:
            raise ValueError(f"{name} has two floors, {found[name]} and {release}; give it one")
    return dict(sorted(found.items()))


def main(root: Path = ROOT) -> int:
    """Write the file."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [f"{name}=={release}" for name, release in oldest(project).items()]
    target = root / "ends" / "oldest.txt"
    target.write_text("# made by ends/oldest.py from pyproject.toml\n" + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{target}: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
