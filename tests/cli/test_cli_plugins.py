"""``--plugin`` at every verb, and a folder of a scheme that is not installed here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from moiety.cli.door import options_of_every_verb
from moiety.moe import plugins
from moiety.moe.routers import ROUTERS

CODE = "from moiety.moe.routers import ROUTERS, MoIIE\nROUTERS['pluggable'] = type('Pluggable', (MoIIE,), {})\n"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module that registers scheme ``pluggable``; it is forgotten afterwards."""
    (tmp_path / "pluggable_module.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(plugins.VARIABLE, "")
    yield "pluggable_module"
    ROUTERS.pop("pluggable", None)
    sys.modules.pop("pluggable_module", None)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process that was given no plug-in."""
    ROUTERS.pop("pluggable")
    sys.modules.pop("pluggable_module")
    monkeypatch.setenv(plugins.VARIABLE, "")


def test_a_folder_of_a_plug_in_is_made_counted_and_refused_without_it(
    moiety: Callable[..., Result], dense: Path, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    assert moiety("upcycle", dense, made, "--scheme", "pluggable", "--plugin", module).exit_code == 0
    forget(monkeypatch)
    refused = moiety("params", made)
    assert refused.exit_code == 2
    assert "unknown scheme 'pluggable'; known: always_on, " in refused.stderr
    assert "install it (entry points of group 'moiety.routers' found: none) or name its module with --plugin" in (
        refused.stderr
    )
    assert len(refused.stderr.strip().splitlines()) == 1
    assert moiety("params", f"--plugin={module}", made).exit_code == 0
    assert moiety("--plugin", module, "recipes", "validate", "moiie", "--set", "moe.scheme=pluggable").exit_code in (
        0,
        1,
    )


def test_a_plug_in_that_cannot_be_imported_is_told(moiety: Callable[..., Result]) -> None:
    told = moiety("recipes", "ls", "--plugin", "no_such_module")
    assert told.exit_code == 2
    assert "error: the plug-in module 'no_such_module' cannot be imported (ModuleNotFoundError" in told.stderr


def test_words_behind_two_dashes_are_left_alone() -> None:
    assert options_of_every_verb(["chat", "--", "--plugin", "x"]) == ([], ["chat", "--", "--plugin", "x"])
    assert options_of_every_verb(["chat", "--plugin"]) == (["--plugin"], ["chat"])
