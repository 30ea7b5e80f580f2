"""The public names: few, lazily loaded, and the same in every place that lists them."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import moiety

ROOT = Path(__file__).parents[1]


def test_every_public_name_is_there() -> None:
    for name in moiety.__all__:
        assert getattr(moiety, name) is not None
    assert set(moiety.__all__) <= set(dir(moiety))


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "src" / "moiety" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == moiety._HOME
    assert {*seen, "__version__"} == set(moiety.__all__)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"moiety has no 'upcicle'; known: .* did you mean 'upcycle'\?"):
        moiety.upcicle  # noqa: B018


def test_importing_moiety_is_light() -> None:
    program = (
        "import sys, moiety; print(len({'torch', 'transformers', 'numpy', 'pydantic', 'typer'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "0\n"


def test_the_version_is_that_of_the_package() -> None:
    assert moiety.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_python_m_moiety_is_the_command() -> None:
    found = subprocess.run([sys.executable, "-m", "moiety", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: moiety" in found.stdout
