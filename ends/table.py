"""Print a table of what breaks, from pytest's JUnit file, under the versions that were met. It never fails."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

WATCHED = ("transformers", "torch", "accelerate", "peft", "trl", "gradio", "openai", "fastapi")


def broken(report: str) -> list[tuple[str, str]]:
    """Test and first line of its message, of every test that failed or could not be run.

    Args:
        report: Text of a JUnit file.
    """
    found = []
    for case in ElementTree.fromstring(report).iter("testcase"):
        for kind in ("failure", "error"):
            for part in case.findall(kind):
                lines = (part.get("message") or part.text or kind).strip().splitlines()
                found.append((f"{case.get('classname')}::{case.get('name')}", lines[0][:120]))
    return found


def table(report: str, versions: dict[str, str]) -> str:
    """Versions, how many tests ran, and a line for each that broke."""
    rows, total = broken(report), len(list(ElementTree.fromstring(report).iter("testcase")))
    head = ", ".join(f"{name} {release}" for name, release in versions.items())
    lines = [f"{test:<90} {said}" for test, said in rows]
    return "\n".join([f"newest of everything: {head}", f"{total} tests, {len(rows)} broken", *lines])


def main(path: str) -> None:
    """Print the table of one file; say where there is none, since nothing ran."""
    if not Path(path).is_file():
        print(f"no test ran: {path} is missing; what pytest said stands in {Path(path).with_name('said.txt')}")
        return
    print(table(Path(path).read_text(encoding="utf-8"), {name: version(name) for name in WATCHED}))


if __name__ == "__main__":
    main(sys.argv[1])
