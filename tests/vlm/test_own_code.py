"""No door runs code of a model folder, or asks whether it may."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import moiety
from moiety.vlm.loading import read_config
from moiety.vlm.model import load
from moiety.vlm.templates import load_processor
from tests import model_folders

SOURCE = Path(moiety.__file__).parent
REFUSED = r"can only be read with Python code that comes with it \(auto_map\), and moiety never runs code of a model"


def _calls(tree: ast.AST) -> list[ast.Call]:
    """Calls of ``X.from_pretrained`` and ``X.from_config``; an override that hands on to its base is none."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config")
        and getattr(node.func.value, "id", "") != "PeftModel"  # reads numbers into a model that is there already
        and not (isinstance(node.func.value, ast.Call) and getattr(node.func.value.func, "id", "") == "super")
    ]


def test_every_door_of_the_source_says_so() -> None:
    found = {path: _calls(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCE.rglob("*.py")}
    silent = [
        f"{path.relative_to(SOURCE)}:{call.lineno}"
        for path, calls in found.items()
        for call in calls
        if not any(
            word.arg == "trust_remote_code" and isinstance(word.value, ast.Constant) and word.value.value is False
            for word in call.keywords
        )
    ]
    assert sum(map(len, found.values())) >= 10
    assert silent == [], "without trust_remote_code=False transformers asks on standard input"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder; whoever asks on standard input fails the test."""

    def asked(*about: Any) -> str:
        raise AssertionError(f"asked on standard input: {about}")

    monkeypatch.setattr("builtins.input", asked)
    return Path(shutil.copytree(model_folders.dense_folder(), tmp_path / "model"))


def says(file: Path, **more: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


def test_an_unknown_type_with_code_is_refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("configuration_new", "modeling_new"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('the code of {name} ran')\n")
    says(
        folder / "config.json",
        model_type="brand_new",
        auto_map={"AutoConfig": "configuration_new.New", "AutoModelForImageTextToText": "modeling_new.New"},
    )
    for door in (load, read_config):
        with pytest.raises(ValueError, match=f"^{folder} {REFUSED}") as caught:
            door(folder)
        assert "\n" not in str(caught.value)
    assert "run the custom code" not in "".join(capfd.readouterr())


def test_a_processor_with_code_is_refused(folder: Path) -> None:
    (folder / "processing_new.py").write_text("raise SystemExit('the code of processing_new ran')\n")
    says(
        folder / "processor_config.json", processor_class="New", auto_map={"AutoProcessor": "processing_new.New"}
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"^{folder} {REFUSED}"):
        load_processor(folder, marks=False)


def test_code_that_is_not_needed_is_passed_over(folder: Path) -> None:
    (folder / "configuration_new.py").write_text("raise SystemExit('the code ran')\n")
    says(folder / "config.json", auto_map={"AutoConfig": "configuration_new.New"})
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("raise SystemExit('the code ran')\n")
    assert load(folder).config.model_type == read_config(folder).model_type or load(folder)
    assert load_processor(folder, marks=False).tokenizer


def test_a_damaged_tokenizer_is_one_sentence(folder: Path) -> None:
    for content in ("", "{", '{"model": {}}', "[" * 100_000):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            load_processor(folder, marks=False)
        assert str(caught.value).startswith(
            (f"the processor of {folder} cannot be read (", f"no processor in {folder}")
        )


def test_a_config_without_end_is_one_sentence(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llava", "a": ' + "[" * 100_000)
    with pytest.raises(ValueError, match="cannot be read"):
        load(folder)
