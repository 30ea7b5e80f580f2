"""``moiety upcycle`` and ``moiety params``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from moiety.cli.models import moe_settings
from moiety.vlm.assemble.join import assemble
from moiety.vlm.model import load
from moiety.vlm.scratch import build_scratch
from tests import model_folders
from tests.vlm.assemble.parts import language_folder, tower_folder

Run = Callable[..., Result]


def test_upcycle_writes_a_model_with_its_receipt(moiety: Run, dense: Path, tmp_path: Path) -> None:
    target = tmp_path / "sparse"
    result = moiety("upcycle", dense, target, "--experts", "vision=2,inter=1,text=1", "--layers", "1", "--seed", 3)
    assert result.exit_code == 0, result.stderr
    assert "parity receipt: logits differ from the dense model's by" in result.stdout
    config = json.loads((target / "config.json").read_text())
    assert config["moe"]["experts"] == {"vision": 2, "inter": 1, "text": 1}
    assert config["moe"]["layers"] == [1]
    assert config["provenance"]["upcycled"]["receipt"]["relative_difference"] <= 1e-5
    again = moiety("upcycle", dense, target)
    assert again.exit_code == 2
    assert again.stderr == f"error: {target} exists; choose another folder or give --overwrite\n"


def test_upcycle_writes_the_type_that_is_asked_for(moiety: Run, dense: Path, tmp_path: Path) -> None:
    result = moiety("upcycle", dense, tmp_path / "half", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.stderr
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    half = load(tmp_path / "half")
    assert half.dtype == torch.bfloat16
    receipt = half.config.provenance["upcycled"]["receipt"]
    assert receipt["dtype"] == "float32", "rounding is no part of what upcycling changes"
    assert receipt["relative_difference"] <= 1e-5
    result = moiety("upcycle", dense, tmp_path / "x", "--dtype", "int4")
    assert result.exit_code == 2
    assert "dtype='int4' is unknown; give one of float32, bfloat16" in result.stderr


def test_dry_run_counts_and_writes_nothing(moiety: Run, dense: Path, tmp_path: Path) -> None:
    result = moiety("upcycle", dense, tmp_path / "x", "--scheme", "vanilla", "--dry-run")
    assert result.exit_code == 0
    for word in ("activated by one token", "vision token", "text token", "experts", "GiB", "1: projector", "2: all"):
        assert word in result.stdout
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--scheme", "moie"], "unknown scheme 'moie'; known: always_on, asymoe, dense"),
        (["--experts", "vision"], "--experts: 'vision' is not of the form group=count"),
        (["--experts", "vision=1,common=2,text=1"], "this scheme has no expert group 'common'"),
        (["--top-k", "5"], "top_k=5, but tokens of modality group 'vision' see 3 experts"),
        (["--layers", "9"], "moe.layers names layer 9, the decoder has layers 0..3"),
        (["--set", "router_dtyp=float32"], "router_dtyp: unknown key; did you mean 'router_dtype'?"),
        (["--set", "router_jitter=2"], "router_jitter: Input should be less than 1 (given 2)"),
    ],
)
def test_upcycle_refuses(moiety: Run, dense: Path, tmp_path: Path, words: list[str], text: str) -> None:
    result = moiety("upcycle", dense, tmp_path / "x", *words)
    assert result.exit_code == 2
    assert text in result.stderr
    assert not (tmp_path / "x").exists()


def test_a_source_that_is_no_model(moiety: Run, tmp_path: Path) -> None:
    result = moiety("upcycle", tmp_path / "nowhere", tmp_path / "x")
    assert result.exit_code == 2
    assert f"no model folder at {tmp_path / 'nowhere'}" in result.stderr


def test_false_is_false_on_the_command_line() -> None:
    """D20: no spelling of false may be read as true."""
    for word in ("false", "False", "FALSE", "no", "off", "0"):
        assert moe_settings("moiie", None, None, "odd", [f"norm_topk={word}"]).norm_topk is False
    with pytest.raises(ValueError, match="norm_topk: Input should be a valid boolean"):
        moe_settings("moiie", None, None, "odd", ["norm_topk=nope"])


def test_params_of_a_sparse_folder(moiety: Run, sparse: Path) -> None:
    found = json.loads(moiety("params", sparse, "--json").stdout)
    published, strict = found["published"], found["strict"]
    assert published["scheme"] == "moiie"
    assert published["total"] == sum(published["by_part"].values())
    assert strict["activated"] < published["activated"] < published["total"]
    assert set(published["activated_by_group"]) == {"vision", "text"}
    table = {row["scheme"]: row for row in found["schemes"]}
    assert table["moiie"]["difference_percent"] == 0
    assert table["moiie"]["activated"] == published["activated"]
    assert table["dense_wide"]["expert_ffn"] == 2 * table["dense"]["expert_ffn"]
    others = [row for name, row in table.items() if name != "dense"]
    assert max(abs(row["difference_percent"]) for row in others) < 2
    assert "design" not in found
    assert "equal activated parameters" in moiety("params", sparse).stdout


def test_params_of_a_dense_folder_names_schemes_of_its_own_width(moiety: Run, dense: Path) -> None:
    found = json.loads(moiety("params", dense, "--json").stdout)
    assert found["published"]["scheme"] == "dense"
    table = {row["scheme"]: row for row in found["schemes"]}
    assert table["moiie"]["expert_ffn"] * 2 == table["dense"]["expert_ffn"]


# -- scheme asymoe -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model whose FFNs are large enough that a quarter of all parameters can be saved in them."""
    sizes = model_folders.SIZES.model_copy(update={"hidden": 64, "ffn": 192})
    return build_scratch(sizes, model_folders.TEXTS * 20, tmp_path_factory.mktemp("wide") / "dense", template="plain")


def test_params_show_a_design(moiety: Run, wide: Path) -> None:
    found = json.loads(moiety("params", wide, "--scheme", "asymoe", "--json").stdout)
    design = found["design"]
    assert design["plan"] == "dense_budget"
    assert set(design["widths"]) == {"hyp_dim", "inter_ffn", "vision_ffn", "evidence_dim", "context_dim"}
    dearest = max(line["decoder"] for line in design["sets"])
    rest = sum(found["published"]["by_part"][part] for part in ("vision_tower", "projector"))
    assert dearest + rest == found["published"]["activated"] == max(line["whole"] for line in design["sets"])
    for line in design["sets"]:
        assert line["saving"]["decoder"]["dense"] == pytest.approx(1 - line["decoder"] / design["dense"])
        assert line["saving"]["decoder"]["dense"] >= 0.2545
        assert line["saving"]["whole"]["dense"] < line["saving"]["decoder"]["dense"], "the tower stands on both sides"
        assert line["saving"]["decoder"]["moiie"] == pytest.approx(1 - line["decoder"] / design["moiie"])
    others = [row for row in found["schemes"] if row["scheme"] not in ("dense", "asymoe")]
    assert max(abs(row["difference_percent"]) for row in others) < 2
    shown = moiety("params", wide, "--scheme", "asymoe").stdout
    for word in ("evidence_dim", "one inter expert", "% below MoIIE", "inter+text", f"{dearest:,}"):
        assert word in shown


def test_params_of_a_scheme_with_settings(moiety: Run, dense: Path, sparse: Path) -> None:
    words = ("--set", "asymoe.size_plan=full", "--set", "asymoe.inter_kind=ffn")
    for folder in (dense, sparse):  # of a sparse folder, what its dense base would be
        design = json.loads(moiety("params", folder, "--scheme", "asymoe", *words, "--json").stdout)["design"]
        assert design["widths"] == {"inter_ffn": 48, "vision_ffn": 48, "evidence_dim": 48, "context_dim": 4}
    result = moiety("params", dense, "--scheme", "asymoe", "--layers", "1")
    assert result.exit_code == 2
    assert "no widths of scheme asymoe fit: 1 sparse layers of hidden 32 may activate" in result.stderr


def test_upcycling_to_asymoe_says_what_it_promises(moiety: Run, wide: Path, tmp_path: Path) -> None:
    tried = moiety("upcycle", wide, tmp_path / "x", "--scheme", "asymoe", "--dry-run")
    assert tried.exit_code == 0, tried.stderr
    assert "design dense_budget" in tried.stdout
    assert not (tmp_path / "x").exists()
    sized = moiety("upcycle", wide, tmp_path / "sized", "--scheme", "asymoe")
    assert "not enforced" in sized.stdout
    full = moiety("upcycle", wide, tmp_path / "full", "--scheme", "asymoe", "--set", "asymoe.size_plan=full")
    assert "(accepted: 1e-05, float32" in full.stdout
    moe = json.loads((tmp_path / "sized" / "config.json").read_text())["moe"]
    assert moe["layers"] == [0, 1, 2, 3], "asymoe makes every layer sparse unless told otherwise"
    counted = json.loads(moiety("params", tmp_path / "sized", "--json").stdout)
    assert f"{counted['published']['activated']:,}" in tried.stdout
    assert counted["design"]["widths"]["evidence_dim"] == moe["asymoe"]["evidence_dim"]


def test_damage_has_to_be_allowed(moiety: Run, tmp_path: Path) -> None:
    parts = language_folder(tmp_path / "words"), tower_folder(tmp_path / "eyes", "clip")
    trained = tmp_path / "llava"
    assemble(*parts, trained)
    words = ("upcycle", trained, tmp_path / "sparse", "--scheme", "asymoe", "--set", "asymoe.size_plan=dense_budget")
    refused = moiety(*words)
    assert refused.exit_code == 2
    assert "allow it (--allow-damage" in refused.stderr
    assert moiety(*words, "--allow-damage").exit_code == 0
