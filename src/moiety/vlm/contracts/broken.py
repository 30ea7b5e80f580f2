"""The error for an installed release that lacks something that moiety relies on."""

from __future__ import annotations

from importlib import metadata


class ContractBroken(RuntimeError):
    """An outside library no longer has something that moiety relies on; the result would be wrong without an error.

    Args:
        library: Name of the package, as pip knows it.
        lacks: What is gone, and under which names it was looked for.
    """

    def __init__(self, library: str, lacks: str) -> None:
        super().__init__(
            f"{library} {installed(library) or '(not installed)'}: {lacks}. moiety does not work with this release. "
            "`moiety env --check` lists everything that does not hold; install a release that was tested, see the "
            "section Install of the README"
        )
        self.library, self.lacks = library, lacks


def installed(library: str) -> str | None:
    """Installed release of a package; None where it is absent."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
