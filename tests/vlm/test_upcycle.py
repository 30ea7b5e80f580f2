"""Upcycling: step-0 identity, the receipt, and folders that are written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from moiety.moe.asymoe.experts.evidence import clamped_alpha
from moiety.moe.routers import ROUTERS
from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import MoESettings
from moiety.vlm.activity import unit_activity
from moiety.vlm.model import load, moe_layers, settings_of
from moiety.vlm.receipt import (
    TOLERANCE,
    ParityError,
    ParityReceipt,
    compare_logits,
    own_rounding,
    probe_batch,
)
from moiety.vlm.receipt import logits_of as logits_of_probe
from moiety.vlm.upcycle import hash_weights, upcycle, upcycle_folder
from tests.tiny import FAMILIES

LLAVA = FAMILIES["llava-qwen2"]
WIDE = {"dense_wide": 96, "modality": 96}
FULL = {"asymoe": AsyMoESettings(size_plan="full")}


def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits[batch["attention_mask"].bool()]


@pytest.mark.parametrize("scheme", ["dense", *ROUTERS])
@pytest.mark.parametrize("decoder", ["qwen2", "phi3"])
def test_every_scheme_is_the_dense_model_at_step_zero(scheme: str, decoder: str) -> None:
    # I01; dense_wide and modality also twice as wide
    family = FAMILIES[f"llava-{decoder}"]
    dense = family.build()
    for ffn in {None, WIDE.get(scheme)}:
        model = upcycle(dense, MoESettings(scheme=scheme, layers="all", expert_ffn=ffn, asymoe=FULL.get(scheme)))
        receipt = model.config.provenance["upcycled"]["receipt"]
        assert receipt["promised"]
        assert receipt["relative_difference"] <= 1e-5
        for rows in (("tIt", "t"), ("tt",), ("I",), ("tIIt", "I")):
            batch = family.batch(*rows)
            torch.testing.assert_close(logits_of(model, batch), logits_of(dense, batch), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_held_to_its_own_tolerance() -> None:
    model = upcycle(LLAVA.build().bfloat16(), MoESettings(layers="all"))
    receipt = model.config.provenance["upcycled"]["receipt"]
    assert receipt["dtype"] == "bfloat16"
    assert 1e-2 <= receipt["tolerance"] < 0.05  # measured: 0.026, twice what rounding does to the dense model
    assert receipt["relative_difference"] <= 1e-2
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_half_precision_is_held_to_what_rounding_does_to_the_dense_model() -> None:
    dense = LLAVA.build().to(torch.bfloat16).eval()
    probe = probe_batch(dense)
    said = logits_of_probe(dense, probe)
    rounding = own_rounding(dense, probe, said)
    assert 1e-3 < rounding < 0.1
    accepted = compare_logits(said, said, torch.bfloat16, 0.068).tolerance
    assert accepted == pytest.approx(0.136), "what SmolLM2-135M needs; its asymoe differs by 0.077"
    assert compare_logits(said, said, torch.bfloat16, 0.001).tolerance == 1e-2
    wrong = compare_logits(said, said * 1.2, torch.bfloat16, 0.068)
    assert wrong.relative_difference > wrong.tolerance, "more than rounding is still refused"
    single = dense.float()
    probe = probe_batch(single)
    assert own_rounding(single, probe, logits_of_probe(single, probe)) == 0, "float32 is held to 1e-5"


def test_copies_part_with_the_first_gradient() -> None:
    # widened experts too: two halves with equal down columns would stay equal for ever
    for settings in (MoESettings(layers="all"), MoESettings(scheme="dense_wide", layers="all", expert_ffn=96)):
        model = upcycle(LLAVA.build(), settings).train()
        model(**LLAVA.batch("tIt", "tt", labels=True)).loss.backward()
        grad = moe_layers(model)[0].experts.gate_up_proj.grad
        copies = grad if settings.scheme == "moiie" else grad[0].chunk(2)[0].chunk(2)  # gate rows of both halves
        assert not torch.allclose(copies[0], copies[1])


@pytest.mark.parametrize("layers", ["odd", "even", "all", [0]])
def test_exactly_the_listed_layers_become_sparse(layers: Any) -> None:
    # D06: model, config and provenance agree, and no FFN tensor is left at random
    dense = LLAVA.build()
    model = upcycle(dense, MoESettings(layers=layers))
    expected = {"odd": [1], "even": [0], "all": [0, 1]}.get(str(layers), [0])
    assert [layer.layer_index for layer in moe_layers(model)] == expected
    assert settings_of(model).layers == expected
    assert model.config.provenance["upcycled"]["layers"] == expected
    for layer in moe_layers(model):
        mlp = dense.model.language_model.layers[layer.layer_index].mlp
        for expert in range(4):
            gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
            assert torch.equal(layer.experts.gate_up_proj[expert], gate_up)
            assert torch.equal(layer.experts.down_proj[expert], mlp.down_proj.weight)


def test_the_seed_draws_the_routers() -> None:
    dense = LLAVA.build()
    state = torch.get_rng_state()
    first, again, other = (upcycle(dense, MoESettings(), seed=seed) for seed in (0, 0, 1))
    gates = [next(moe_layers(model)[0].router.parameters()) for model in (first, again, other)]
    assert torch.equal(gates[0], gates[1])
    assert not torch.equal(gates[0], gates[2])
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are left alone"


def test_in_place_and_beside() -> None:
    dense = LLAVA.build()
    beside = upcycle(dense, MoESettings())
    assert beside is not dense
    assert not moe_layers(dense)
    assert beside.get_input_embeddings().weight.data_ptr() != dense.get_input_embeddings().weight.data_ptr()
    assert upcycle(dense, MoESettings(), in_place=True) is dense
    assert moe_layers(dense)
    with pytest.raises(ValueError, match=r"sparse already \(scheme 'moiie'\), expected a dense model"):
        upcycle(dense, MoESettings())


def designed(**own: Any) -> MoESettings:
    """Scheme asymoe with experts that are narrower than the FFN."""
    return MoESettings(scheme="asymoe", asymoe=AsyMoESettings(size_plan="dense_budget"), **own)


def test_bad_settings_leave_the_model_alone() -> None:
    dense = LLAVA.build()
    for settings, text in (
        (MoESettings(scheme="moie"), "unknown scheme 'moie'.*did you mean 'moiie'"),
        (MoESettings(layers=[7]), "names layer 7, the decoder has layers 0..1"),
        (designed(layers=[0]), "no widths of scheme asymoe fit: 1 sparse layers of hidden 32 may"),
    ):
        with pytest.raises(ValueError, match=text):
            upcycle(dense, settings)
    assert not moe_layers(dense)


def test_a_receipt_that_does_not_hold_stops_the_upcycling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCE, torch.float32, -1.0)
    with pytest.raises(ParityError, match="upcycling changed the model; parity receipt: logits differ"):
        upcycle(LLAVA.build(), MoESettings())


SIZED = [
    (designed(), True),
    (MoESettings(scheme="asymoe", asymoe=AsyMoESettings(size_plan="full", inter_text_input="cascade")), False),
    (MoESettings(scheme="asymoe", asymoe=AsyMoESettings(size_plan="full", evidence_form="gelu")), False),
    (MoESettings(expert_ffn=24), True),
]


@pytest.mark.parametrize(("settings", "narrow"), SIZED, ids=["designed", "cascade", "gelu", "narrow moiie"])
def test_where_nothing_is_promised_the_receipt_says_so(settings: MoESettings, narrow: bool) -> None:
    dense = LLAVA.build()
    model = upcycle(dense, settings)
    upcycled = model.config.provenance["upcycled"]
    receipt = ParityReceipt(**upcycled["receipt"])
    assert not receipt.promised
    assert receipt.relative_difference > receipt.tolerance, "measured all the same"
    assert "(not enforced, float32" in str(receipt)
    assert str(receipt).endswith("such experts do not start as the dense model")
    assert upcycled["copy_rule"].startswith("narrower experts")
    # what stands in the experts: the units of the dense FFN that say most, in their order
    mlp, layer = dense.model.language_model.layers[1].mlp, moe_layers(model)[-1]
    bank = layer.experts.bank("vision") if settings.asymoe else layer.experts
    if narrow:
        gate, up, down = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
        largest = (unit_activity(dense)[1] * down.norm(dim=0)).topk(bank.ffn).indices.sort().values
        assert torch.equal(bank.gate_up_proj[0], torch.cat([gate[largest], up[largest]]))
        assert torch.equal(bank.down_proj[0], down[:, largest])


@pytest.mark.parametrize("own", [{}, {"inter_kind": "ffn"}, {"text_kind": "context"}, {"inter_kind": "product"}])
def test_full_width_is_the_dense_model_in_every_form(own: dict[str, Any]) -> None:
    # T13 on whole models; every alpha and every evidence, so also where pictures are taken away
    dense = LLAVA.build()
    model = upcycle(dense, MoESettings(scheme="asymoe", asymoe=AsyMoESettings(size_plan="full", **own)))
    assert model.config.provenance["upcycled"]["copy_rule"].startswith("vision, text and the FFN inside inter")
    batch = LLAVA.batch("tIt", "tIIt")
    for alpha in (0.0, 0.3, 1.0):
        with clamped_alpha(alpha):
            torch.testing.assert_close(logits_of(model, batch), logits_of(dense, batch), rtol=1e-5, atol=1e-5)


def test_evidence_branches_copy_the_activation_of_the_decoder_too() -> None:
    # GeGLU; the receipt is enforced, so that a wrong activation would stop here
    model = upcycle(FAMILIES["gemma3"].build(), MoESettings(scheme="asymoe", layers="all", asymoe=FULL["asymoe"]))
    assert model.config.provenance["upcycled"]["receipt"]["promised"]


def test_a_receipt_measures() -> None:
    dense = torch.tensor([[1.0, -4.0]])
    receipt = compare_logits(dense, dense + torch.tensor([[0.0, 0.4]]), torch.float32)
    assert receipt.max_difference == pytest.approx(0.4)
    assert receipt.relative_difference == pytest.approx(0.1)
    assert "by 4.00e-01 at most, 1.00e-01 relative (accepted: 1e-05, float32" in str(receipt)
    assert compare_logits(dense, dense * torch.nan, torch.float32).relative_difference == float("inf")


def test_a_folder_is_upcycled_with_provenance_and_processor_files(tmp_path: Path) -> None:
    dense = LLAVA.build()
    dense.save_pretrained(tmp_path / "dense")
    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja"):
        (tmp_path / "dense" / name).write_text("{}")
    (tmp_path / "dense" / "optimizer.pt").write_text("not for the new folder")
    receipt = upcycle_folder(tmp_path / "dense", tmp_path / "sparse", MoESettings(), seed=3)
    assert receipt.relative_difference <= 1e-5
    found = {path.name for path in (tmp_path / "sparse").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= found
    assert "optimizer.pt" not in found
    written = json.loads((tmp_path / "sparse" / "config.json").read_text())
    history = written["provenance"]["upcycled"]
    assert history["source"] == str(tmp_path / "dense")
    assert history["weights_sha256"] == hash_weights(tmp_path / "dense")
    assert (history["scheme"], history["layers"], history["seed"]) == ("moiie", [1], 3)
    assert history["groups"] == "vision×1 + inter×2 + text×1"
    assert history["receipt"]["max_difference"] == receipt.max_difference
    assert written["moe"]["layers"] == [1]
    assert written["model_type"] == "moiety_llava"
    batch = LLAVA.batch("tIt", "t")
    torch.testing.assert_close(
        logits_of(load(tmp_path / "sparse"), batch), logits_of(dense, batch), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(FileExistsError, match="exists already; choose another destination or pass overwrite=True"):
        upcycle_folder(tmp_path / "dense", tmp_path / "sparse", MoESettings())
    upcycle_folder(tmp_path / "dense", tmp_path / "sparse", MoESettings(scheme="vanilla"), overwrite=True)
    assert load(tmp_path / "sparse").config.moe["scheme"] == "vanilla"
    with pytest.raises(ValueError, match=r"sparse already \(scheme 'vanilla'\)"):
        upcycle_folder(tmp_path / "sparse", tmp_path / "twice", MoESettings())
    assert not (tmp_path / "twice").exists()


def test_a_dense_folder_of_ours_can_be_upcycled(tmp_path: Path) -> None:
    upcycle(LLAVA.build(), MoESettings(scheme="dense")).save_pretrained(tmp_path / "dense")
    upcycle_folder(tmp_path / "dense", tmp_path / "sparse", MoESettings(layers="all"))
    assert len(moe_layers(load(tmp_path / "sparse"))) == 2


def test_a_source_that_is_no_model_leaves_no_destination(tmp_path: Path) -> None:
    LLAVA.build().save_pretrained(tmp_path / "dense")
    weights = tmp_path / "dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cannot be read .*the folder is damaged"):
        upcycle_folder(tmp_path / "dense", tmp_path / "sparse", MoESettings())
    with pytest.raises(FileNotFoundError, match=r"no model at .*nothing: it is no folder, and cannot be fetched"):
        upcycle_folder(tmp_path / "nothing", tmp_path / "sparse", MoESettings())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense"]


def test_a_folder_without_a_processor_gets_one_from_another_folder(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    from moiety.vlm.scratch import build_scratch
    from tests.conversations import SIZES, TEXTS

    whole = build_scratch(SIZES, TEXTS, tmp_path / "whole", template="plain")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(whole / name, bare / name)
    settings = MoESettings(scheme="asymoe", asymoe=FULL["asymoe"])
    upcycle_folder(bare, tmp_path / "without", settings)
    assert not (tmp_path / "without" / "tokenizer.json").exists()
    upcycle_folder(bare, tmp_path / "with", settings, processor=whole)
    texts = [AutoProcessor.from_pretrained(place).tokenizer("red and blue") for place in (whole, tmp_path / "with")]
    assert texts[0] == texts[1]
    assert load(tmp_path / "with").config.moe["asymoe"]["special_ids"], "its control tokens are known"
    with pytest.raises(FileNotFoundError, match=r"no processor in .*bare: .*--processor FOLDER"):
        upcycle_folder(bare, tmp_path / "other", settings, processor=bare)


def test_the_processor_of_an_upcycled_folder_is_that_of_its_source(tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from moiety.vlm.scratch import build_scratch
    from tests.conversations import SIZES, TEXTS

    build_scratch(SIZES, TEXTS, tmp_path / "dense", template="plain")
    upcycle_folder(tmp_path / "dense", tmp_path / "sparse", MoESettings(scheme="asymoe", asymoe=FULL["asymoe"]))
    batches = []
    for name in ("dense", "sparse"):
        processor = AutoProcessor.from_pretrained(tmp_path / name)
        batches.append(processor(images=Image.new("RGB", (9, 9)), text="<image>\nred", return_tensors="pt"))
    assert batches[0].keys() == batches[1].keys()
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "sparse")
    special = model.config.moe["asymoe"]["special_ids"]
    assert set(processor.tokenizer.all_special_ids) <= set(special), "control tokens are never evidence"
    assert processor.tokenizer.convert_tokens_to_ids("r") not in special
    text = model.generate(**batches[1], max_new_tokens=3, min_new_tokens=3)
    assert text.shape[1] == batches[1]["input_ids"].shape[1] + 3
