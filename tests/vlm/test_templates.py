import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moiety.vlm.scratch import scratch_processor
from moiety.vlm.templates import (
    TEMPLATES,
    check_template,
    end_of_turn,
    load_processor,
    stop_at_end_of_turn,
    template_named,
    use_template,
)
from tests.conversations import SIZES, TEXTS, shared_processor

TURNS = [
    {"role": "user", "content": "<image>\nq"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "r"},
    {"role": "assistant", "content": "b"},
]
WRITTEN = {
    "plain": "<image>\nq\n a</s>r\n b</s>",
    "vicuna": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. "
        "USER: <image>\nq ASSISTANT: a</s>USER: r ASSISTANT: b</s>"
    ),
    "llama3": (
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nq<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nr<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>"
    ),
    "chatml": (
        "<|im_start|>user\n<image>\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    ),
    "phi3": "<|user|>\n<image>\nq<|end|>\n<|assistant|>\na<|end|>\n<|user|>\nr<|end|>\n<|assistant|>\nb<|end|>\n",
}


def written(processor: Any, turns: list[dict[str, Any]], **options: Any) -> str:
    return processor.apply_chat_template(turns, **options)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_is_written_as_specified(name: str) -> None:
    assert written(shared_processor(name), TURNS) == WRITTEN[name]


@pytest.mark.parametrize("name", TEMPLATES)
def test_parts_are_written_like_text_with_the_mark_where_it_stands(name: str) -> None:
    processor = shared_processor(name)
    parts = [{"type": "text", "text": "look\n"}, {"type": "image"}, {"type": "text", "text": "\nhere"}]
    assert written(processor, [{"role": "user", "content": parts}]) == written(
        processor, [{"role": "user", "content": "look\n<image>\nhere"}]
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_for_generation_begins_the_conversation(name: str) -> None:
    processor = shared_processor(name)
    for number in (1, 3):
        prompt = written(processor, TURNS[:number], add_generation_prompt=True)
        assert WRITTEN[name].startswith(prompt)
        assert WRITTEN[name][len(prompt) :].lstrip(" ").startswith("ab"[number // 2])


@pytest.mark.parametrize("name", TEMPLATES)
def test_exactly_the_answers_and_their_ends_are_marked(name: str) -> None:
    processor = shared_processor(name)
    turns = [{**turn, "content": turn["content"].replace("<image>", "")} for turn in TURNS]
    found = processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    said = zip(found["input_ids"][0], found["assistant_masks"][0], strict=True)
    answered = processor.tokenizer.decode([token for token, mark in said if mark])
    end = processor.tokenizer.eos_token  # generation stops there
    assert [text.strip() for text in answered.split(end)] == ["a", "b", ""]
    assert processor.tokenizer.convert_ids_to_tokens(end_of_turn(processor, name)) == end


def test_generation_stops_where_the_template_ends_an_answer() -> None:
    processor = shared_processor("chatml")
    end = end_of_turn(processor, "chatml")
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=end + 1))
    stop_at_end_of_turn(model, processor, None)
    assert model.generation_config.eos_token_id == end + 1
    for _ in range(2):  # a second stage under the same template adds nothing
        stop_at_end_of_turn(model, processor, "chatml")
        assert model.generation_config.eos_token_id == [end + 1, end]
    fresh = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=end))
    stop_at_end_of_turn(fresh, processor, "chatml")
    assert fresh.generation_config.eos_token_id == end


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_system_turn_is_written_once(name: str) -> None:
    text = written(shared_processor(name), [{"role": "system", "content": "Be brief."}, *TURNS])
    assert text.count("Be brief.") == 1
    assert text.index("Be brief.") < text.index("<image>")
    assert "curious user" not in text


def test_braces_and_quotes_are_text() -> None:
    odd = 'it\'s {{ 7 }} {% if %} \\n "x"'
    assert odd in written(shared_processor("chatml"), [{"role": "user", "content": odd}])


def test_loading_keeps_or_replaces_the_template_and_saving_keeps_it(tmp_path: Path, caplog: Any, capfd: Any) -> None:
    shared_processor("chatml").save_pretrained(tmp_path / "a")
    with caplog.at_level(logging.WARNING):
        kept = load_processor(tmp_path / "a")
        changed = load_processor(tmp_path / "a", "plain")
    assert "torchvision" not in caplog.text + capfd.readouterr().err
    assert written(kept, TURNS) == WRITTEN["chatml"]
    assert written(changed, TURNS) == WRITTEN["plain"].replace(
        "</s>", "<|im_end|>"
    )  # plain ends with the tokenizer's end
    changed.save_pretrained(tmp_path / "b")
    assert load_processor(tmp_path / "b").chat_template == changed.chat_template


def test_unknown_template() -> None:
    with pytest.raises(ValueError, match=r"no chat template 'vicunna'; known: .*did you mean 'vicuna'"):
        template_named("vicunna")


def test_a_template_that_does_not_fit_the_tokenizer_is_refused() -> None:
    processor = scratch_processor(SIZES, TEXTS, "plain")
    with pytest.raises(ValueError, match=r"'phi3' needs tokens that this tokenizer does not have: <\|assistant\|>, "):
        use_template(processor, "phi3")
    processor.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="does not have: an end-of-sequence token"):
        use_template(processor, "plain")


def test_templates_without_marks_are_refused_with_the_remedy(tmp_path: Path) -> None:
    processor = scratch_processor(SIZES, TEXTS, "plain")
    processor.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}x{% endif %}"
    )
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no \{% generation %\} marks.* set model\.template to one of chatml, llama3"):
        load_processor(tmp_path)
    assert load_processor(tmp_path, marks=False).chat_template == processor.chat_template
    assert load_processor(tmp_path, "plain").chat_template == shared_processor().chat_template
    processor.chat_template = None
    with pytest.raises(ValueError, match=r"the processor of here has no chat template; set model\.template"):
        check_template(processor, "here")


def test_folders_without_a_processor(tmp_path: Path) -> None:
    advice = r"--processor FOLDER, or model\.processor=FOLDER in a recipe.* get their processor from `moiety assemble`"
    with pytest.raises(FileNotFoundError, match=f"no processor in {tmp_path}: .*{advice}"):
        load_processor(tmp_path)
    shared_processor().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"expected the processor of a vision-language model.*{advice}"):
        load_processor(tmp_path)


def test_the_processor_of_another_folder(tmp_path: Path) -> None:
    """It is checked against the embedding table of the model, not against the one beside it."""
    shared_processor("vicuna").save_pretrained(tmp_path / "processor")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "vocab_size": 4}')
    with pytest.raises(ValueError, match=r"tokens of the tokenizer in .* have no row in the embedding table"):
        load_processor(tmp_path / "model", processor=tmp_path / "processor")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "vocab_size": 4000}')
    found = load_processor(tmp_path / "model", processor=tmp_path / "processor")
    assert found.chat_template == shared_processor("vicuna").chat_template


def test_a_damaged_file_of_a_processor_is_named(tmp_path: Path) -> None:
    shared_processor().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("")
    with pytest.raises(FileNotFoundError, match=f"no processor in {tmp_path}: tokenizer.json: Expecting value"):
        load_processor(tmp_path)


def test_qwen_pictures_keep_their_delimiters() -> None:
    class Qwen:
        tokenizer = shared_processor("chatml").tokenizer
        image_token = "<|image_pad|>"
        chat_template = ""

    processor = Qwen()
    use_template(processor, "chatml")
    assert "'<|vision_start|><|image_pad|><|vision_end|>'" in processor.chat_template
