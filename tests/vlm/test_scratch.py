import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from moiety.recipe.recipe import ScratchSettings
from moiety.vlm.data import Collator, Encoder, prompt_batch
from moiety.vlm.scratch import build_scratch, scratch_model, scratch_processor, train_tokenizer
from moiety.vlm.templates import load_processor
from tests.conversations import NUM_PATCHES, SIZES, TEXTS, pictures, row, shared_processor

IMAGES = pictures("p", "q")
WORDS = ["Which colour?", "purple", "Granny Smith apple"]
ROWS = [
    row("<image>\nWhich digit?", "7", image="p"),
    row("What colour?", "red"),
    row("<image><image>", "a", image=["p", "q"]),
]


def sized(decoder: Any) -> ScratchSettings:
    return SIZES.model_copy(update={"decoder": decoder})


@pytest.mark.parametrize("decoder", ["llama", "qwen2", "qwen3", "mistral"])
def test_the_folder_is_an_ordinary_one(tmp_path: Path, decoder: str) -> None:
    folder = build_scratch(sized(decoder), TEXTS, tmp_path / "deep" / decoder, template="chatml")
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model) is LlavaForConditionalGeneration
    assert model.config.text_config.model_type == decoder
    assert processor.chat_template == shared_processor("chatml").chat_template
    coder = Encoder(load_processor(folder), IMAGES, 64)
    batch = Collator(coder.pad_token_id)([coder.encode(given) for given in ROWS])
    assert int(batch["modality_ids"].sum()) == 3 * NUM_PATCHES
    del batch["modality_ids"], batch["evidence_mask"]
    fresh = scratch_model(sized(decoder), shared_processor("chatml"), 0)
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, fresh.eval()(**batch).logits)


def test_seeds() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (scratch_model(SIZES, shared_processor(), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_first_loss_is_that_of_a_guess() -> None:
    """Nothing saturates at the start: every answer token costs about log(vocab)."""
    processor = shared_processor()
    model = scratch_model(SIZES, processor, 0)
    coder = Encoder(processor, IMAGES, 64)
    batch = Collator(0)([coder.encode(given) for given in ROWS])
    del batch["modality_ids"], batch["evidence_mask"]
    with torch.no_grad():
        loss = model(**batch).loss
    assert abs(loss.item() - math.log(len(processor.tokenizer))) < 0.7


def test_a_tiny_model_learns_to_read_its_pictures() -> None:
    processor = shared_processor()
    model = scratch_model(SIZES, processor, 0)
    images = {"p": Image.new("RGB", (16, 16), "red"), "q": Image.new("RGB", (16, 16), "blue")}
    coder = Encoder(processor, images, 64)
    rows = [row("<image>\nWhich?", answer, image=name) for name, answer in (("p", "red"), ("q", "blue"))]
    batch = Collator(0)([coder.encode(given) for given in rows])
    del batch["modality_ids"], batch["evidence_mask"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1
    prompts = prompt_batch(rows, processor, images)
    del prompts["modality_ids"], prompts["evidence_mask"]
    said = model.eval().generate(**prompts, max_new_tokens=8)[:, prompts["input_ids"].shape[1] :]
    assert processor.tokenizer.batch_decode(said, skip_special_tokens=True) == [" red", " blue"]


def test_louder_words_and_pictures_are_the_same_ones() -> None:
    processor = shared_processor()
    quiet, loud = (
        scratch_model(SIZES.model_copy(update={"embedding_gain": gain}), processor, 0) for gain in (1.0, 4.0)
    )
    changed = {name for name, weight in loud.state_dict().items() if not torch.equal(weight, quiet.state_dict()[name])}
    assert {name.split(".")[-2] for name in changed} == {"embed_tokens", "linear_2"}
    for name in changed:
        torch.testing.assert_close(loud.state_dict()[name], 4 * quiet.state_dict()[name])


def test_words_of_the_data_are_one_token_and_any_text_survives() -> None:
    tokenizer = scratch_processor(ScratchSettings(), WORDS * 3, "plain").tokenizer
    assert tokenizer.tokenize("Which colour?\n purple</s>") == ["Which", "Ġcolour", "?", "Ċ", "Ġpurple", "</s>"]
    odd = " naïve\n数 🍎  tab\t"
    assert tokenizer.decode(tokenizer(odd)["input_ids"]) == odd
    assert tokenizer.convert_ids_to_tokens(tokenizer("a<image>b")["input_ids"]) == ["a", "<image>", "b"]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<pad>", "</s>", None)


def test_a_vocabulary_without_room() -> None:
    with pytest.raises(ValueError, match="vocab=258 is too small: 256 bytes and 3 special tokens need 259"):
        train_tokenizer(TEXTS, 258, ["<image>"])
    assert len(train_tokenizer(TEXTS, 259, ["<image>"])) == 259


def test_unknown_template(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no chat template 'plan'"):
        build_scratch(SIZES, TEXTS, tmp_path, template="plan")
