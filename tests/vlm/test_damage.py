"""What a model learned is not lost without a word; what never learned anything may start as it likes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moiety.recipe.recipe import MoESettings
from moiety.vlm.assemble.join import assemble
from moiety.vlm.damage import DamageError
from moiety.vlm.upcycle import upcycle_folder
from tests import model_folders
from tests.vlm.assemble.parts import language_folder, tower_folder

NARROW = {
    "asymoe": MoESettings(scheme="asymoe", asymoe={"size_plan": "dense_budget"}),
    "half": MoESettings(scheme="moiie", expert_ffn=16),
    "weights": MoESettings(scheme="moiie", norm_topk=False),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model from outside, or so its history says."""
    root = tmp_path_factory.mktemp("trained")
    assemble(language_folder(root / "words"), tower_folder(root / "eyes", "clip"), root / "llava")
    return root / "llava"


@pytest.mark.parametrize("name", NARROW)
def test_a_trained_model_is_kept_from_damage(trained: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DamageError, match=r"does not start as .*what the dense model learned would be lost. Give"):
        upcycle_folder(trained, tmp_path / "sparse", NARROW[name])
    assert not (tmp_path / "sparse").exists()
    receipt = upcycle_folder(trained, tmp_path / "sparse", NARROW[name], allow_damage=True)
    assert not receipt.promised
    assert receipt.relative_difference > receipt.tolerance


def test_what_it_names_helps(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(DamageError, match=r"moe\.asymoe\.size_plan=full"):
        upcycle_folder(trained, tmp_path / "sparse", NARROW["asymoe"])
    full = MoESettings(scheme="asymoe", asymoe={"size_plan": "full"})
    assert upcycle_folder(trained, tmp_path / "sparse", full).promised


def test_asymoe_starts_as_a_trained_model_unless_told_otherwise(trained: Path, tmp_path: Path) -> None:
    receipt = upcycle_folder(trained, tmp_path / "sparse", MoESettings(scheme="asymoe"))
    assert receipt.promised
    assert receipt.relative_difference <= receipt.tolerance
    moe = json.loads((tmp_path / "sparse" / "config.json").read_text())["moe"]
    assert moe["asymoe"]["size_plan"] == "full"


def test_a_given_width_is_designed_around(trained: Path, tmp_path: Path) -> None:
    """Full widths are no default where one width is given: the rest of the plan would not fit it."""
    own = MoESettings(scheme="asymoe", asymoe={"evidence_dim": 12})
    with pytest.raises(DamageError, match="does not start as"):
        upcycle_folder(trained, tmp_path / "sparse", own)


def test_a_model_from_nothing_has_nothing_to_lose(tmp_path: Path) -> None:
    receipt = upcycle_folder(model_folders.dense_folder(), tmp_path / "sparse", NARROW["half"])
    assert not receipt.promised
