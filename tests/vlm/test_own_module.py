"""A folder read by programs that do not know moiety: fields of experts, ``AutoModel``, and the module in the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import classes_of, load
from tests.tiny import FAMILIES, sparse

FIELDS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size")
DOORS = """
import sys, json, torch, transformers as hf
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "moiety" and sys.argv[2] == "absent":
            raise ModuleNotFoundError("No module named 'moiety'", name="moiety")
sys.meta_path.insert(0, Absent())
try:
    model = hf.AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
    base = hf.AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
except ImportError as error:
    sys.exit(str(error))
with torch.no_grad():
    ids = torch.tensor([[1, 5, 9, 7]])
    print(json.dumps([type(model).__name__, model(input_ids=ids).logits.sum().item(), type(base).__name__]))
"""


def in_a_fresh_process(folder: Path, moiety: str, modules: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_MODULES_CACHE": str(modules), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", DOORS, str(folder), moiety]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("scheme", "numbers"), [("moiie", [4, 2, 48]), ("modality", [2, 1, 48]), ("asymoe", [4, 2, None]), ("dense", None)]
)
def test_the_config_says_how_many_experts(scheme: str, numbers: list[int | None] | None, tmp_path: Path) -> None:
    model = sparse("llava-qwen2", MoESettings(scheme=scheme, layers="all")) if scheme != "dense" else None
    if model is None:
        FAMILIES["llava-qwen2"].build().save_pretrained(tmp_path / "source")
        model = load(tmp_path / "source")
    model.save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    found = [tree["text_config"].get(name) for name in FIELDS]
    if numbers is None:
        assert found == [None] * 3
        return
    expected = [model.config.moe["expert_ffn"] if number is None else number for number in numbers]
    assert found == expected
    for name in FIELDS:  # an old folder
        del tree["text_config"][name]
    del tree["auto_map"]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    text = load(tmp_path).config.text_config
    assert [getattr(text, name) for name in FIELDS] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_model_gives_the_states_of_the_same_layers(family: str, tmp_path: Path) -> None:
    model, batch = sparse(family), FAMILIES[family].batch("tIt", "tt")
    model.save_pretrained(tmp_path)
    base = hf.AutoModel.from_pretrained(tmp_path).eval()
    assert type(base).__name__.startswith("Moiety")
    assert type(base).config_class is type(model.config)
    with torch.no_grad():
        expected = model.base_model(**batch).last_hidden_state
        found = base(**batch).last_hidden_state
        assert torch.equal(found, expected)
        as_text = base(**batch, modality_ids=torch.zeros_like(batch["input_ids"])).last_hidden_state
    assert not torch.equal(as_text, expected), "the ids reach the routers"


def test_a_folder_loads_where_moiety_is_installed_and_not_imported(tmp_path: Path) -> None:
    model = sparse("llava-qwen2")
    model.save_pretrained(tmp_path / "model")
    done = in_a_fresh_process(tmp_path / "model", "installed", tmp_path / "modules")
    assert done.returncode == 0, done.stderr
    name, total, base = json.loads(done.stdout.splitlines()[-1])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[1, 5, 9, 7]])).logits.sum().item()
    assert (name, base) == ("MoietyLlavaForConditionalGeneration", "MoietyLlavaModel")
    assert total == pytest.approx(expected, rel=1e-6)


def test_where_moiety_is_absent_the_reader_hears_what_to_install(tmp_path: Path) -> None:
    sparse("llava-qwen2").save_pretrained(tmp_path / "model")
    done = in_a_fresh_process(tmp_path / "model", "absent", tmp_path / "modules")
    assert done.returncode == 1
    assert "pip install moiety" in done.stderr


def test_the_module_is_small_and_nothing_else_is_copied(tmp_path: Path) -> None:
    model = sparse("llava-qwen2")
    type(model).register_for_auto_class("AutoModelForImageTextToText")
    type(model.config).register_for_auto_class()
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.py")] == ["modeling_moiety.py"]
    assert len((tmp_path / "modeling_moiety.py").read_text().splitlines()) == 3


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no image-text-to-text class for model type 'moiety_new'; install a new"):
        classes_of("moiety_new")
