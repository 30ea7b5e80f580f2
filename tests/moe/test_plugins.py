"""Routers and kinds of experts of other packages: entry points, named modules, and what is said where they lack."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moiety.moe import plugins
from moiety.moe.experts.kinds import EXPERTS
from moiety.moe.routers import ROUTERS, resolve, scheme_names
from moiety.recipe.recipe import MoESettings

CODE = """
from moiety.moe.experts.kinds import FFNExperts
from moiety.moe.routers import MoIIE

class Mirror(MoIIE):
    "MoIIE under another name."

class Twin(FFNExperts):
    "Plain experts under another name."
"""
ENTRY_POINTS = """[moiety.routers]
mirror = mirror_package:Mirror
broken = mirror_package:Missing
thing = mirror_package:MoIIE.layout

[moiety.experts]
twin = mirror_package:Twin
"""
REGISTERS = "from moiety.moe.routers import ROUTERS, MoIIE\nROUTERS['named'] = type('Named', (MoIIE,), {})\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an installed package and a loose module; tables and variables are put back."""
    site = tmp_path / "site"
    info = site / "mirror_package-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "mirror_package.py").write_text(CODE)
    (site / "loose_module.py").write_text(REGISTERS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mirror-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv(plugins.VARIABLE, "")
    for table in (ROUTERS, EXPERTS):
        for name in list(table):
            monkeypatch.setitem(table, name, table[name])
    before = {id(table): list(table) for table in (ROUTERS, EXPERTS)}
    yield site
    for table in (ROUTERS, EXPERTS):
        for name in set(table) - set(before[id(table)]):
            del table[name]
    for name in ("mirror_package", "loose_module"):
        sys.modules.pop(name, None)


def test_entry_points_are_found_by_name(site: Path) -> None:
    assert "mirror" in scheme_names()
    assert "mirror_package" not in sys.modules, "only a name that is asked for is imported"
    router, groups, _ = resolve(MoESettings(scheme="mirror", kinds={"inter": "twin"}))
    assert router.__name__ == "Mirror"
    assert groups.kinds == ("ffn", "twin")
    assert EXPERTS["twin"].__name__ == "Twin"


def test_a_module_that_was_named_is_imported_here_and_in_processes(site: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown scheme 'named'; known: .*--plugin \(named: none\)"):
        resolve(MoESettings(scheme="named"))
    plugins.use_plugin("loose_module")
    assert resolve(MoESettings(scheme="named"))[0].__name__ == "Named"
    assert os.environ[plugins.VARIABLE] == "loose_module"
    code = "from moiety.moe.routers import scheme_names; print('named' in scheme_names())"
    paths = os.pathsep.join([str(site), *filter(None, sys.path)])
    shown = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "True"


def test_packages_in_the_working_folder_are_never_imported(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the folder of a model that somebody else made."""
    monkeypatch.chdir(site)
    assert "mirror" not in scheme_names()
    with pytest.raises(ValueError, match=r"unknown scheme 'mirror'; .* found: none"):
        resolve(MoESettings(scheme="mirror"))


def test_messages(site: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown scheme 'miror'; .*did you mean 'mirror'\?"):
        resolve(MoESettings(scheme="miror"))
    message = r"brings 'absent': install it \(entry points of group 'moiety.routers' found: mirror, broken, thing\)"
    with pytest.raises(ValueError, match=message):
        resolve(MoESettings(scheme="absent"))
    with pytest.raises(ValueError, match=r"entry point 'broken' .* cannot be imported \(AttributeError: "):
        resolve(MoESettings(scheme="broken"))
    with pytest.raises(
        TypeError, match=r"entry point 'thing' .* must be a class that inherits from moiety.moe.gates.Rou"
    ):
        resolve(MoESettings(scheme="thing"))
    with pytest.raises(ValueError, match=r"module 'nowhere' cannot be imported \(ModuleNotFoundError: .*PYTHONPATH"):
        plugins.use_plugin("nowhere")
    assert os.environ[plugins.VARIABLE] == "", "a module that cannot be imported is not handed on"
