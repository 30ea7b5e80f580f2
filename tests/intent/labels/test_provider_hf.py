"""The local provider with real, tiny language models: one that knows nothing, and one that learned its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from moiety.intent.labels.prompt import label_prompt
from moiety.intent.labels.provider_hf import LocalWriter
from moiety.intent.labels.providers import DescriptionError, describe_labels

LABELS = ["Thank", "Greet"]
SENTENCES = {"Thank": '["Says thanks."]', "Greet": '["Waves and says hello."]'}
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    """Byte pairs of the prompts, so that a prompt is short and every text can be written."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [label_prompt(label, LABELS, domain="", num=1) + SENTENCES[label] for label in LABELS]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<end>", "<user>", "<assistant>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator(texts * 2, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<end>")
    made.chat_template = TEMPLATE if chat else None
    return made


def written(folder: Path, model: torch.nn.Module, words: PreTrainedTokenizerFast) -> str:
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def ignorant(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = tokenizer(chat=False)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=1024, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    return written(tmp_path_factory.mktemp("ignorant"), LlamaForCausalLM(config), words)


def lesson(words: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Both conversations as ids, and what is learned of them: the answers."""
    rows = []
    for label in LABELS:
        asked = [{"role": "user", "content": label_prompt(label, LABELS, domain="", num=1)}]
        prompt = words.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        answer = words(SENTENCES[label] + "<end>")["input_ids"]
        rows.append((prompt + answer, [-100] * len(prompt) + answer))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    return ids, torch.tensor([targets + [-100] * (longest - len(targets)) for _, targets in rows])


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Trained until its greedy answer to each of two prompts is that label's sentence."""
    words = tokenizer(chat=True)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=words.eos_token_id, initializer_range=0.1,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    ids, targets = lesson(words)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):  # 24 steps on our machine
        loss = model(input_ids=ids, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    model.generation_config.do_sample, model.generation_config.temperature = True, 5.0
    return written(tmp_path_factory.mktemp("learned"), model, words)


def test_a_model_that_learned_its_answers_writes_the_table(learned: str, tmp_path: Path) -> None:
    """Also: the folder asks for sampling at temperature 5, the provider stays greedy."""
    table = describe_labels(
        LABELS, provider="hf", model=learned, num=1, decoding={"max_new_tokens": 40}, cache=tmp_path
    )
    assert [entry["description"] for entry in table["labels"]] == [["Says thanks."], ["Waves and says hello."]]
    assert table["decoding"]["do_sample"] is False


def test_what_is_cached_needs_no_model(learned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"model": learned, "num": 1, "decoding": {"max_new_tokens": 40}, "cache": tmp_path}
    fresh = describe_labels(LABELS, provider="hf", **settings)
    monkeypatch.setattr(LocalWriter, "reply", lambda *_: pytest.fail("the model was asked again"))
    assert describe_labels(LABELS, provider="hf", **settings) == fresh


def test_other_weights_in_the_same_folder_are_another_model(ignorant: str) -> None:
    before = LocalWriter(ignorant).settings()
    path = Path(ignorant) / "generation_config.json"
    kept = path.read_text()
    try:
        path.write_text(kept.replace("}", ', "renamed": 1}'))
        assert LocalWriter(ignorant).settings() != before
    finally:
        path.write_text(kept)
    assert LocalWriter(ignorant).settings() == before


def test_a_model_that_knows_nothing_is_asked_twice_and_its_words_are_shown(ignorant: str) -> None:
    writer = LocalWriter(ignorant, {"max_new_tokens": 8})
    with pytest.raises(DescriptionError, match=r"described 0 of 1 labels.*\n'Thank': it is .*the reply: ") as caught:
        describe_labels(["Thank"], provider=writer, num=1)
    prompt = {"role": "user", "content": label_prompt("Thank", ["Thank"], domain="", num=1)}
    first = writer.reply([prompt])
    assert first == writer.reply([prompt])
    assert first  # random weights do write something
    assert "reply: ''" not in str(caught.value)


def test_a_prompt_that_does_not_fit_is_refused(ignorant: str) -> None:
    with pytest.raises(
        ValueError, match=r"the prompt has \d+ tokens and the answer may take 1000, .* holds 1024; lower"
    ):
        LocalWriter(ignorant, {"max_new_tokens": 1000}).reply([{"role": "user", "content": "Thank " * 20}])


def test_models_and_settings_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no causal language model in the folder"):
        LocalWriter(str(tmp_path)).reply([{"role": "user", "content": "?"}])
    with pytest.raises(ValueError, match="no causal language model in the Hugging Face id 'nobody/nothing'"):
        LocalWriter("nobody/nothing").settings()
    with pytest.raises(ValueError, match="provider hf has no decoding setting temperature; known: max_new_tokens"):
        LocalWriter("x", {"temperature": 1})
