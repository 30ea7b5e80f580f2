"""Contrastive decoding end to end on small models: what it must leave alone, what it must change, whom it must ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from moiety.evaluate.contrast import contrast_layers, early_layers
from moiety.evaluate.decoding import (
    DeepMinusEarly,
    collator_of_prompts,
    decoding_prompts,
    decoding_with,
    encoder_of_prompts,
    keywords_of_generate,
    with_noise,
    without_evidence,
)
from moiety.evaluate.run import evaluate_model
from moiety.moe.asymoe.experts.evidence import clamped_alpha
from moiety.recipe.evaluate import DecodingSettings
from moiety.recipe.recipe import MoESettings, ScratchSettings
from moiety.vlm.data import prompt_batch
from moiety.vlm.decoders import text_decoder
from moiety.vlm.model import load
from moiety.vlm.rows import Row, Turn, parse_row
from moiety.vlm.scratch import scratch_model, scratch_processor
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle
from tests import model_folders

QUESTIONS = (
    "Which digit?",
    "What colour has the digit at the top?",
    "Odd?",
    "How many?",
    "Is there a seven or an eight?",
)
SIZES = ScratchSettings(
    **{"vocab": 320, "hidden": 16, "ffn": 16, "layers": 4, "heads": 1, "image_size": 16, "patch_size": 8},
    **{"vision_hidden": 16, "vision_ffn": 16, "vision_layers": 1, "vision_heads": 1},
)
METHODS = ("context_aware", "visual_contrastive", "dola")
TOKENS = 4


class Pictures(dict[str, Image.Image]):
    """Noise of a few colours by name."""

    def __missing__(self, name: str) -> Image.Image:
        values = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(int(name)))
        return Image.fromarray(values.byte().numpy())


def rows_of(count: int) -> list[Row]:
    return [
        Row(
            id=f"r{number}",
            turns=(Turn("user", f"<image>\n{QUESTIONS[number % 5]}"), Turn("assistant", "7")),
            images=(str(number),),
            answers=("7",),
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def processor() -> Any:
    return scratch_processor(SIZES, QUESTIONS, "plain")


@pytest.fixture(scope="module", params=["dense", "moiie"])
def model(request: pytest.FixtureRequest, processor: Any) -> Any:
    dense = scratch_model(SIZES, processor, seed=0)
    with torch.no_grad():  # weights large enough that pictures and layers move the answer
        for parameter in dense.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
    return dense if request.param == "dense" else upcycle(dense, MoESettings(router_init_std=1.0))


def answers(model: Any, processor: Any, rows: list[Row], **options: Any) -> dict[str, str]:
    found = evaluate_model(model, processor, rows, Pictures(), max_new_tokens=TOKENS, **options)
    return dict(found.predictions)


@pytest.mark.parametrize("method", METHODS)
def test_answers_do_not_depend_on_batches_padding_or_order(model: Any, processor: Any, method: str) -> None:
    rows, decoding = rows_of(7), DecodingSettings(method=method)
    alone = answers(model, processor, rows, batch_size=1, decoding=decoding)
    assert len(set(alone.values())) > 1
    assert answers(model, processor, rows, batch_size=3, decoding=decoding) == alone
    assert answers(model, processor, rows[::-1], batch_size=32, decoding=decoding) == alone
    assert alone != answers(model, processor, rows), "the method does something"


@pytest.mark.parametrize("method", ["context_aware", "visual_contrastive"])
def test_weight_0_is_greedy(model: Any, processor: Any, method: str) -> None:
    rows, nothing = rows_of(6), DecodingSettings(method=method, weight=0.0)
    assert answers(model, processor, rows, decoding=nothing) == answers(model, processor, rows)


def test_unnoised_pictures_contrast_with_nothing(model: Any, processor: Any) -> None:
    rows = rows_of(5)
    for row in rows:  # a question without a picture has itself as its rival
        alone = without_evidence(row)
        for method in ("context_aware", "visual_contrastive"):
            plain = answers(model, processor, [alone])
            assert answers(model, processor, [alone], decoding=DecodingSettings(method=method, weight=3.0)) == plain


def slow_answer(model: Any, processor: Any, row: Row, settings: DecodingSettings) -> str:
    """Token by token without cache and without batches, straight from the formulas."""
    prompt = prompt_batch([row], processor, Pictures())
    rival = None
    if settings.method == "context_aware":
        rival = prompt_batch([without_evidence(row)], processor, Pictures())
    if settings.method == "visual_contrastive":
        rival = {**prompt, **with_noise({"pixel_values": prompt["pixel_values"]}, settings.noise_step)}
    said: list[int] = []
    for _ in range(TOKENS):
        scores = last_scores(model, prompt, said)
        if rival is not None:
            other = last_scores(model, rival, said)
            moved = (1 + settings.contrast_weight) * scores - settings.contrast_weight * other
            if settings.method == "visual_contrastive":
                moved[scores.softmax(-1) < settings.cut * scores.softmax(-1).max()] = -torch.inf
            scores = moved
        said.append(int(scores.argmax()))
        if said[-1] == model.generation_config.eos_token_id:
            break
    return processor.tokenizer.decode(said, skip_special_tokens=True).strip()


@torch.no_grad()
def last_scores(model: Any, batch: dict[str, Tensor], said: list[int]) -> Tensor:
    ids = torch.cat([batch["input_ids"], torch.tensor([said], dtype=torch.long)], dim=1)
    scores = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=batch.get("pixel_values")).logits
    scores = scores[0, -1].float()
    scores[list(model.generation_config.suppress_tokens or ())] = -1e9
    return scores


@pytest.mark.parametrize("method", ["context_aware", "visual_contrastive"])
def test_answers_equal_a_slow_loop(model: Any, processor: Any, method: str) -> None:
    rows, decoding = rows_of(4), DecodingSettings(method=method, weight=2.0)
    found = answers(model, processor, rows, decoding=decoding)
    assert found == {row.id: slow_answer(model, processor, row, decoding) for row in rows}


def test_dola_reads_the_inputs_of_early_layers(model: Any, processor: Any) -> None:
    batch = prompt_batch(rows_of(3), processor, Pictures())
    batch.pop("modality_ids")
    settings = DecodingSettings(method="dola", layers="low")
    decoder = text_decoder(model.base_model)
    before = sum(len(layer._forward_pre_hooks) for layer in decoder.layers)
    with decoding_with(model, settings) as (processor_of,), torch.no_grad():
        outputs = model(**batch, output_hidden_states=True)
        found = processor_of(None, outputs.logits[:, -1])
    assert early_layers(4, "low") == [0]
    assert isinstance(processor_of, DeepMinusEarly)
    head = model.get_output_embeddings()
    early = torch.stack([head(outputs.hidden_states[layer][:, -1]) for layer in (0,)])
    torch.testing.assert_close(found, contrast_layers(outputs.logits[:, -1], early, 0.1))
    assert sum(len(layer._forward_pre_hooks) for layer in decoder.layers) == before, "hooks are taken away"


def test_rivals_stand_behind_the_rows(processor: Any) -> None:
    rows = rows_of(2)
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    for method, pictures in (("context_aware", 2), ("visual_contrastive", 4), ("dola", 2), ("greedy", 2)):
        encoder = encoder_of_prompts(processor, Pictures())
        prompts = decoding_prompts(rows, encoder, DecodingSettings(method=method))
        batch = collator_of_prompts(encoder)(prompts)
        ids = batch["input_ids"]
        assert len(ids) == (2 if method in ("dola", "greedy") else 4)
        assert len(batch["pixel_values"]) == pictures
        assert ((ids[2:] == image).any(1) == (method == "visual_contrastive")).all()
        if method == "visual_contrastive":
            assert torch.equal(ids[:2], ids[2:])
            clear, noised = batch["pixel_values"].chunk(2)
            assert ((clear - noised).flatten(1).std(1) > 0.3).all()
            assert not torch.equal(noised[0] - clear[0], noised[1] - clear[1]), "noise of its own for each picture"


def test_a_named_passage_is_evidence_too() -> None:
    spoken = {"from": "human", "value": "<image>\nHere, bananas are blue.\nWhat colour is the banana?"}
    entry = {"id": "a", "image": "1", "conversations": [spoken], "context": "Here, bananas are blue."}
    bare = without_evidence(parse_row(entry))
    assert bare.turns[0].text == "What colour is the banana?"
    assert bare.images == ()
    with pytest.raises(
        ValueError, match=r"row 'a': no turn of the user holds its 'context' 'Bananas.*quote it literal"
    ):
        without_evidence(parse_row({**entry, "context": "Bananas are blue."}))


def test_a_file_of_answers_belongs_to_one_method(model: Any, processor: Any, tmp_path: Path) -> None:
    path, rows = tmp_path / "answers.jsonl", rows_of(2)
    answers(model, processor, rows, predictions=path, decoding=DecodingSettings(method="dola"))
    assert json.loads(path.read_text().splitlines()[0])["settings"]["decoding"].startswith("dola, plausibility 0.1")
    with pytest.raises(ValueError, match=r"made with other settings .decoding: 'dola, plausibility 0.1, high layers"):
        answers(model, processor, rows, predictions=path)


def test_settings_that_a_method_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="decoding method 'dola' has no weight; methods with one: context_aware"):
        DecodingSettings(method="dola", weight=1.0)
    with pytest.raises(ValueError, match="decoding method 'greedy' has no plausibility; methods with one: visual"):
        DecodingSettings(plausibility=0.5)


def test_a_clamp_changes_answers_and_belongs_to_the_file(tmp_path: Path) -> None:
    folder = model_folders.asymoe_folder()
    model, reader = load(folder), load_processor(folder, marks=False)
    rows, path = rows_of(8), tmp_path / "answers.jsonl"
    scores = []
    for clamp in (None, 0.0, 1.0):
        batch = keywords_of_generate(model, prompt_batch(rows, reader, Pictures()))
        with clamped_alpha(clamp), torch.no_grad():
            scores.append(model(**batch).logits[:, -1])
    assert not torch.allclose(scores[0], scores[1])
    assert not torch.allclose(scores[1], scores[2])
    answers(model, reader, rows, clamp_alpha=0.02, predictions=path)
    assert json.loads(path.read_text().splitlines()[0])["settings"]["clamp_alpha"] == "0.02"
    with pytest.raises(ValueError, match=r"clamp_alpha: '0.02' there, '0.98' now"):
        answers(model, reader, rows, clamp_alpha=0.98, predictions=path)
    assert answers(model, reader, rows, clamp_alpha=0.02, decoding=DecodingSettings(method="context_aware"))


def test_a_clamp_without_a_gate_is_refused(model: Any, processor: Any) -> None:
    with pytest.raises(ValueError, match="clamp_alpha forces the gate of evidence experts, and this model of scheme"):
        answers(model, processor, rows_of(1), clamp_alpha=0.5)


@pytest.mark.parametrize("method", METHODS)
def test_methods_work_with_evidence_experts(method: str) -> None:
    folder = model_folders.asymoe_folder()
    model, reader = load(folder), load_processor(folder, marks=False)
    rows, decoding = rows_of(5), DecodingSettings(method=method)
    alone = answers(model, reader, rows, batch_size=1, decoding=decoding)
    assert answers(model, reader, rows, batch_size=4, decoding=decoding) == alone
    if method != "dola":
        nothing = DecodingSettings(method=method, weight=0.0)
        assert answers(model, reader, rows, decoding=nothing) == answers(model, reader, rows)
