"""Evidence and spans of encoded rows (asymoe): by the roles of the template, whatever is trained."""

import dataclasses
import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from moiety.vlm.asymoe.spans import image_key, span_order
from moiety.vlm.data import Collator, Encoder, prompt_batch
from moiety.vlm.rows import Row, Turn, parse_row
from moiety.vlm.scratch import scratch_processor
from moiety.vlm.templates import TEMPLATES, control_ids
from tests.conversations import NUM_PATCHES, SIZES, TEXTS, pictures, row, shared_processor

IMAGES = pictures("p", "q")
ONE = row("<image>\nWhich digit?", "7", "What colour?", "red", image="p")
NONE = row("What colour is the 7?", "red")
TOLD = dataclasses.replace(ONE, turns=(Turn("system", "Be brief."), *ONE.turns))


def encode(given: Row, template: str = "plain", **options: Any) -> dict[str, Tensor]:
    return Encoder(shared_processor(template), IMAGES, 256, spans=True, **options).encode(given)


def text_at(tensors: dict[str, Tensor], kept: Tensor, template: str) -> str:
    return shared_processor(template).tokenizer.decode(tensors["input_ids"][kept & (tensors["modality_ids"] == 0)])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("labels", ["assistant", "prefix"])
def test_questions_are_evidence_and_answers_are_memory(template: str, labels: Any) -> None:
    tensors = encode(ONE, template, labels=labels)
    evidence, picture = tensors["evidence_mask"], tensors["modality_ids"] == 1
    assert bool(evidence[picture].all())
    assert int(picture.sum()) == NUM_PATCHES
    seen, unseen = (text_at(tensors, kept, template) for kept in (evidence, ~evidence))
    assert "Which digit?" in seen
    assert "What colour?" in seen
    assert not any(word in seen for word in ("7", "red"))
    assert "7" in unseen
    assert "red" in unseen
    control = torch.isin(tensors["input_ids"], torch.tensor(sorted(control_ids(shared_processor(template)))))
    assert not (evidence & control & ~picture).any()
    # by prefix, chatml and phi3 also train the line break behind an answer; their marks do not call it answer
    trained_evidence = tensors["input_ids"][evidence & (tensors["labels"] != -100)]
    assert shared_processor(template).tokenizer.decode(trained_evidence).strip() == ""
    assert labels == "prefix" or len(trained_evidence) == 0


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_has_the_evidence_of_the_whole(template: str) -> None:
    """Training and inference agree: the prompt's mask is the beginning of the conversation's."""
    whole = encode(ONE, template)["evidence_mask"]
    batch = prompt_batch([ONE, NONE], shared_processor(template), IMAGES)
    assert batch["evidence_mask"].dtype == torch.bool
    prompt = batch["evidence_mask"][0]
    assert torch.equal(prompt, whole[: len(prompt)])
    assert not batch["evidence_mask"][1][batch["attention_mask"][1] == 0].any()


def unmarked(template: str = "plain") -> Any:
    processor = scratch_processor(SIZES, TEXTS, template)
    for mark in ("{%- generation -%}", "{%- endgeneration -%}"):
        processor.chat_template = processor.chat_template.replace(mark, "")
    return processor


def test_a_template_without_marks_is_read_by_prefix() -> None:
    expected = Encoder(shared_processor(), IMAGES, 99).encode(ONE)["evidence_mask"]
    found = Encoder(unmarked(), IMAGES, 99, labels="prefix")
    assert torch.equal(found.encode(ONE)["evidence_mask"], expected)
    prompt = found.encode_prompt(ONE)["evidence_mask"]
    assert torch.equal(prompt, expected[: len(prompt)])


def test_a_prompt_whose_answers_cannot_be_found_says_so(caplog: pytest.LogCaptureFixture) -> None:
    processor = unmarked()
    processor.chat_template = "{{ messages | length }}" + processor.chat_template
    with caplog.at_level(logging.WARNING, "moiety"):
        found = Encoder(processor, IMAGES, 99).encode_prompt(ONE)
    assert "does not say which tokens of a prompt are earlier answers, so they count as evidence" in caplog.text
    answer = processor.tokenizer.convert_tokens_to_ids("Ġ7")
    assert bool(found["evidence_mask"][found["input_ids"] == answer].all())


def test_the_caller_may_name_the_control_tokens() -> None:
    token = shared_processor().tokenizer("?")["input_ids"][0]
    usual = encode(NONE)
    given = encode(NONE, control={token})
    changed = usual["evidence_mask"] != given["evidence_mask"]
    assert changed.any()
    assert bool((usual["input_ids"][changed] == token).all())


def test_added_tokens_of_the_template_are_control_and_blanks_are_not() -> None:
    processor = scratch_processor(SIZES, TEXTS, "plain")
    processor.tokenizer.add_tokens(["<turn>", "<other>", "\n"])
    before = control_ids(processor)
    processor.chat_template = "<turn>" + processor.chat_template
    assert [processor.tokenizer.decode([token]) for token in control_ids(processor) - before] == ["<turn>"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("given", [ONE, TOLD])
def test_spans_are_one_question_and_its_answer(template: str, given: Row) -> None:
    tensors = encode(given, template)
    spans, end = tensors["span_ids"], shared_processor(template).tokenizer.eos_token
    assert spans.unique().tolist() == [0, 1, 2]
    assert not spans[tensors["modality_ids"] == 1].any()
    for number, (question, answer) in enumerate((("Which digit?", "7"), ("What colour?", "red")), start=1):
        text = text_at(tensors, spans == number, template)
        assert question in text
        assert text.strip().endswith(answer)
        assert end not in text
        assert "brief" not in text
        assert "artificial intelligence" not in text
    assert torch.equal(tensors["span_order"], (spans > 0).long())


def test_false_spans_are_marked() -> None:
    entry = {
        "id": "a", "image": "p",
        "conversations": [
            {"from": "human", "value": "<image>\nWhich digit?"}, {"from": "gpt", "value": "7"},
            {"from": "human", "value": "What colour?", "order": 0}, {"from": "gpt", "value": "red"},
        ],
    }  # fmt: skip
    tensors = encode(parse_row(entry))
    assert torch.equal(tensors["span_order"] == 1, tensors["span_ids"] == 1)
    plain = encode(ONE)
    assert all(torch.equal(tensors[key], plain[key]) for key in plain if key != "span_order")


def test_spans_need_turns_that_alternate() -> None:
    twice = dataclasses.replace(NONE, turns=(*NONE.turns, Turn("assistant", "red")))
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: row 'a': turns must alternate user, assistant to have spans"):
        span_order(twice, torch.zeros(3, dtype=torch.long))


def test_spans_and_keys_are_absent_unless_asked_for() -> None:
    tensors = Encoder(shared_processor(), IMAGES, 99).encode(ONE)
    assert not {"span_ids", "span_order", "image_key"} & tensors.keys()


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_hold_what_each_position_is(side: Any) -> None:
    items = [encode(given) for given in (ONE, NONE, TOLD)]
    batch = Collator(0, side)(items)
    for number, item in enumerate(items):
        kept = batch["attention_mask"][number].bool()
        for key in ("evidence_mask", "span_ids", "span_order"):
            assert batch[key].dtype == item[key].dtype
            assert torch.equal(batch[key][number, kept], item[key])
            assert not batch[key][number, ~kept].any()
    assert batch["image_key"].shape == (3,)
    assert batch["image_key"][0] == batch["image_key"][2] == image_key(["p"])
    assert batch["image_key"][1] == 0 != batch["image_key"][0]
    assert image_key(["p", "q"]) != image_key(["q", "p"])


def test_a_template_may_look_at_the_first_part() -> None:
    processor = scratch_processor(SIZES, TEXTS, "plain")
    colon = "{% if messages[0]['content'][0]['type'] == 'text' %}{{ 'Q: ' }}{% endif %}"
    processor.chat_template = colon + processor.chat_template
    asked = Encoder(processor, IMAGES, 99, spans=True).encode(NONE)
    assert processor.tokenizer.decode(asked["input_ids"][asked["span_ids"] == 0]) == "Q:</s>"  # the blank begins a word
