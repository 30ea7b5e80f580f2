"""Both parts keep what they can do; the assembly is a folder like any other, and its projector has yet to learn."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from moiety.recipe.recipe import MoESettings, StageSettings
from moiety.train.start import history_of, require_trained_projector
from moiety.vlm.assemble.join import assemble
from moiety.vlm.model import load
from moiety.vlm.receipt import ParityError
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle_folder
from tests.vlm.assemble.parts import PATCH, SIDE, language_folder, tower_folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    language_folder(root / "language")
    for kind in ("clip", "whole clip", "siglip", "dinov2"):
        tower_folder(root / kind, kind)
    return root


@pytest.mark.parametrize("kind", ["clip", "whole clip", "siglip", "dinov2"])
def test_text_alone_is_answered_as_before(parts: Path, tmp_path: Path, kind: str) -> None:
    receipt = assemble(parts / "language", parts / kind, tmp_path / "llava")
    assert receipt.promised
    assert receipt.relative_difference <= 1e-6
    model, processor = load(tmp_path / "llava"), load_processor(tmp_path / "llava")
    plain = AutoModelForCausalLM.from_pretrained(parts / "language").eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(parts / "language")("an apple is red")["input_ids"]])
    with torch.no_grad():
        before, after = plain(ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(after[..., : before.shape[-1]], before, atol=1e-6, rtol=0)
    assert "<|im_start|>" in processor.chat_template


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_a_picture_goes_in_and_sparse_layers_come_next(parts: Path, tmp_path: Path, kind: str) -> None:
    assemble(parts / "language", parts / kind, tmp_path / "llava")
    upcycle_folder(tmp_path / "llava", tmp_path / "sparse", MoESettings(scheme="moiie"))
    model, processor = load(tmp_path / "sparse"), load_processor(tmp_path / "sparse")
    content = [{"type": "image", "image": Image.new("RGB", (40, 30), "red")}, {"type": "text", "text": "what is it?"}]
    batch = processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    assert batch["pixel_values"].shape == (1, 3, SIDE, SIDE)
    assert int((batch["input_ids"] == processor.image_token_id).sum()) == (SIDE // PATCH) ** 2
    said = model.generate(**batch, max_new_tokens=3)
    assert said.shape[1] > batch["input_ids"].shape[1]


def test_the_tower_keeps_its_weights(parts: Path, tmp_path: Path) -> None:
    assemble(parts / "language", parts / "whole clip", tmp_path / "llava")
    before = load_file(parts / "whole clip" / "model.safetensors")
    after = load_file(tmp_path / "llava" / "model.safetensors")
    name = "embeddings.position_embedding.weight"
    (mine,) = [value for key, value in after.items() if key.endswith(name) and "vision" in key]
    (theirs,) = [value for key, value in before.items() if key.endswith(name) and "vision" in key]
    assert torch.equal(mine, theirs)


def test_the_same_seed_gives_the_same_folder(parts: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assemble(parts / "language", parts / "dinov2", tmp_path / name, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert {key for key in a if not torch.equal(a[key], c[key])} == {
        key for key in a if "projector" in key and key.endswith("weight")
    } | {key for key in a if "linear_1.bias" in key}


def test_another_size_of_picture(parts: Path, tmp_path: Path) -> None:
    assemble(parts / "language", parts / "dinov2", tmp_path / "llava", image_size=42)
    assert load_processor(tmp_path / "llava").image_processor.size["height"] == 42
    assert load(tmp_path / "llava").config.image_seq_length == 9


def test_untied_tables_and_no_padding_token(parts: Path, tmp_path: Path) -> None:
    language = language_folder(tmp_path / "language", tied=False)
    written = json.loads((language / "tokenizer_config.json").read_text())
    written.pop("pad_token")
    (language / "tokenizer_config.json").write_text(json.dumps(written))
    receipt = assemble(language, parts / "siglip", tmp_path / "llava")
    assert receipt.relative_difference <= 1e-6
    processor, model = load_processor(tmp_path / "llava"), load(tmp_path / "llava")
    assert processor.tokenizer.pad_token_id not in (None, processor.tokenizer.eos_token_id)
    assert model.get_input_embeddings().weight.shape == model.get_output_embeddings().weight.shape
    assert model.lm_head.weight is not model.get_input_embeddings().weight


def test_what_is_new_is_an_ordinary_word(parts: Path, tmp_path: Path) -> None:
    assemble(parts / "language", parts / "clip", tmp_path / "llava")
    model, processor = load(tmp_path / "llava"), load_processor(tmp_path / "llava")
    table = model.get_input_embeddings().weight
    old = AutoModelForCausalLM.from_pretrained(parts / "language").get_input_embeddings().weight
    torch.testing.assert_close(table[processor.image_token_id], old.mean(0))


def test_history_card_and_licences(tmp_path: Path, parts: Path) -> None:
    language, tower = language_folder(tmp_path / "words"), tower_folder(tmp_path / "eyes", "clip")
    (language / "LICENSE").write_text("may be used")
    (language / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Words\n")
    assemble(language, tower, tmp_path / "llava")
    assert (tmp_path / "llava" / "LICENSE.language").read_text() == "may be used"
    card = (tmp_path / "llava" / "README.md").read_text()
    assert "| language | words | apache-2.0 |" in card
    assert "| tower | eyes | not stated |" in card
    assert "No stage has trained the projector yet" in card
    assert ModelCard.load(tmp_path / "llava" / "README.md").data.license is None  # one part does not state its own
    assert str(tmp_path) not in card + (tmp_path / "llava" / "config.json").read_text()


def test_a_sparse_stage_waits_for_the_projector(parts: Path, tmp_path: Path) -> None:
    assemble(parts / "language", parts / "clip", tmp_path / "llava")
    history = history_of(load(tmp_path / "llava"), tmp_path / "llava")
    stage = StageSettings(name="sparse", sparse=True, data=["x.jsonl"], trains=["experts", "router"])
    with pytest.raises(RuntimeError, match=r"the projector of .* was never trained"):
        require_trained_projector(stage, history, tmp_path / "llava", lambda: False)
    require_trained_projector(stage, history, tmp_path / "llava", lambda: False, marked=True)
    history["stages"] = [{"trains": ["projector"]}]
    require_trained_projector(stage, history, tmp_path / "llava", lambda: True)


def test_a_language_model_that_would_answer_otherwise(parts: Path, tmp_path: Path) -> None:
    kind = (Gemma2Config, Gemma2ForCausalLM)
    language = language_folder(tmp_path / "language", cls=kind, head_dim=16, final_logit_softcapping=0.05)
    with pytest.raises(ParityError, match=r"would answer otherwise; .*Gemma2ForCausalLM changes its logits"):
        assemble(language, parts / "clip", tmp_path / "llava")
    assert not (tmp_path / "llava").exists()


def test_an_existing_folder_is_kept(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already; choose another destination"):
        assemble(parts / "language", parts / "clip", tmp_path)
