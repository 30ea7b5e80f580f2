"""The README's Python runs as printed, its commands and files exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moiety.cli import app
from moiety.intent.world.files import write_intent_world
from moiety.intent.world.signs import INTENTS
from moiety.moe.routers import SCHEMES
from tests import model_folders

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_of_the_first_screen_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folders.dense_folder(), tmp_path / "my-llava")
    model_folders.picture().save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(PYTHON[0], {})
    printed = capsys.readouterr().out
    assert "max_difference" in printed
    assert (tmp_path / "my-moiie" / "model.safetensors").is_file()
    assert list((tmp_path / "lens").glob("*.html"))


def test_the_lines_from_clip_to_intent_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = write_intent_world(tmp_path / "world", num_train=24, num_dev=12, num_test=12)
    shutil.copy(next(world.folder.glob("clips/*.mp4")), world.folder / "new.mp4")
    monkeypatch.chdir(world.folder)
    exec(PYTHON[1], {})
    said = capsys.readouterr().out
    assert any(f"['{intent.label}']" in said for intent in INTENTS)
    assert (world.folder / "model" / "model.safetensors").is_file()


def test_every_command_and_scheme_it_names_exists() -> None:
    runner = CliRunner()
    for verb in set(re.findall(r"`moiety ([a-z]+)", README)):
        assert runner.invoke(app, [verb, "--help"]).exit_code == 0, verb
    named = set(re.findall(r"^\| `([a-z_]+)` \|", README, flags=re.MULTILINE))
    assert named == set(SCHEMES) - {"dense"}


def test_every_target_it_names_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE)) <= targets


def test_every_file_it_links_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
