"""The ends of the range of versions: floors come from pyproject.toml, doors exist, the lock file is whole."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "ends" / name))


def test_the_file_of_oldest_releases_is_that_of_the_metadata() -> None:
    lines = (ROOT / "ends" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [f"{name}=={release}" for name, release in script("oldest.py")["oldest"](PROJECT).items()]
    assert {"torch", "transformers", "accelerate", "peft"} <= {line.split("==")[0] for line in lines[1:]}


def test_floors_are_read_from_requirements() -> None:
    project = {
        "dependencies": ["A_b>=1.2,<2; python_version >= '3.11'", "c[x]==3"],
        "optional-dependencies": {"e": ["a.b>=1.2"]},
    }
    assert script("oldest.py")["oldest"](project, ["e"]) == {"a-b": "1.2", "c": "3"}


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["torch"], r"torch names no oldest release; write torch>=X, X a release that was tried"),
        (["torch<3"], r"torch<3 names no oldest release"),
        (["torch>=2,>=2.1"], r"names no oldest release"),
        (["torch>=2", "torch>=3"], r"torch has two floors, 2 and 3; give it one"),
    ],
)
def test_a_floor_that_is_none_is_refused(lines: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        script("oldest.py")["oldest"]({"dependencies": lines}, [])


def test_the_newest_have_no_bounds() -> None:
    names = script("newest.py")["unbounded"](PROJECT)
    assert {"torch", "transformers", "peft", "gradio", "trl"} <= set(names)
    assert not re.search("[<>=;]", "".join(names))


def test_what_breaks_is_a_line_in_a_table() -> None:
    report = """<testsuites><testsuite>
    <testcase classname="tests.a" name="test_good"/>
    <testcase classname="tests.a" name="test_bad[1]">
    <failure message="AssertionError: 1 != 2&#10;…">where</failure></testcase>
    <testcase classname="" name="tests.b"><error message="collection failure">ImportError</error></testcase>
    </testsuite></testsuites>"""
    lines = script("table.py")["table"](report, {"torch": "9.9"}).splitlines()
    assert lines[:2] == ["newest of everything: torch 9.9", "3 tests, 2 broken"]
    assert [line.split(maxsplit=1) for line in lines[2:]] == [
        ["tests.a::test_bad[1]", "AssertionError: 1 != 2"],
        ["::tests.b", "collection failure"],
    ]


def test_a_run_without_a_report_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script("table.py")["main"](str(tmp_path / "found.xml"))
    assert "no test ran" in capsys.readouterr().out


def test_every_door_is_there() -> None:
    for line in (ROOT / "ends" / "doors.txt").read_text(encoding="utf-8").splitlines():
        path, _, name = line.partition("::")
        assert (ROOT / path).exists(), line
        assert not name or re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), line


def test_every_locked_package_has_a_version_and_a_hash() -> None:
    packages = re.split(r"^(?=[a-z])", LOCK, flags=re.MULTILINE)[1:]
    assert len(packages) > 80
    for package in packages:
        assert re.match(r"[a-z0-9-]+==\S+", package), package[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", package), package[:80]
    assert not re.search(r"://|--index|--find-links|^torch==|^nvidia-", LOCK, re.MULTILINE)


def test_the_lock_holds_every_dependency_of_the_two_commands() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    locked = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", LOCK, re.MULTILINE))
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name != "torch":
            assert requirement.specifier.contains(locked[name]), f"{line}: locked is {locked[name]}; run make lock"
