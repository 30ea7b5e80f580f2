from typing import Any

import pytest
import torch
from torch import Tensor

from moiety.vlm.data import IGNORED_LABEL, Collator, ConversationDataset, Encoder, prompt_batch
from moiety.vlm.rows import Row, parse_row
from moiety.vlm.scratch import scratch_processor, train_tokenizer
from moiety.vlm.templates import TEMPLATES
from tests.conversations import NUM_PATCHES, SIZES, TEXTS, pictures, row, shared_processor

IMAGES = pictures("p", "q")
ONE = row("<image>\nWhich digit?", "7", "What colour?", "red", image="p")
TWO = row("<image>\n<image>\nDescribe both pictures.", "a red 7", image=["p", "q"])
NONE = row("What colour is the 7?", "red")
ROWS = [ONE, TWO, NONE]


def encoder(template: str = "plain", max_length: int = 256, **options: Any) -> Encoder:
    return Encoder(shared_processor(template), IMAGES, max_length, **options)


def trained_text(coder: Encoder, tensors: dict[str, Tensor]) -> str:
    return coder.processor.tokenizer.decode(tensors["input_ids"][tensors["labels"] != IGNORED_LABEL])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(("given", "answers"), [(ONE, ["7", "red"]), (TWO, ["a red 7"]), (NONE, ["red"])])
def test_only_answers_and_their_ends_are_trained(template: str, given: Row, answers: list[str]) -> None:
    coder = encoder(template)
    tensors = coder.encode(given)
    end = coder.processor.tokenizer.eos_token
    assert [text.strip() for text in trained_text(coder, tensors).split(end)] == [*answers, ""]
    kept = tensors["labels"] != IGNORED_LABEL
    assert torch.equal(tensors["labels"][kept], tensors["input_ids"][kept])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("given", ROWS)
def test_labels_by_prefix_are_the_same(template: str, given: Row) -> None:
    marked, by_prefix = encoder(template).encode(given), encoder(template, labels="prefix").encode(given)
    # chatml and phi3 write a line break behind the end of a turn; only prefixes count it to the answer
    same = marked["labels"] == by_prefix["labels"]
    breaks = torch.tensor(
        [text == "\n" for text in map(shared_processor(template).tokenizer.decode, marked["input_ids"])]
    )
    assert bool((same | breaks).all())
    assert bool(same.all()) == (template not in ("chatml", "phi3"))


@pytest.mark.parametrize(("given", "count"), [(ONE, 1), (TWO, 2), (NONE, 0)])
def test_pictures_become_image_tokens(given: Row, count: int) -> None:
    tensors = encoder().encode(given)
    is_image = tensors["input_ids"] == shared_processor().image_token_id
    assert torch.equal(tensors["modality_ids"], is_image.long())
    assert int(is_image.sum()) == count * NUM_PATCHES
    assert bool((tensors["labels"][is_image] == IGNORED_LABEL).all())
    assert ("pixel_values" in tensors) == bool(count)
    assert count == 0 or tensors["pixel_values"].shape == (count, 3, SIZES.image_size, SIZES.image_size)


def test_a_bigger_table_of_modalities_is_used() -> None:
    break_id = shared_processor().tokenizer.convert_tokens_to_ids("Ċ")
    tensors = encoder(token_ids={shared_processor().image_token_id: 1, break_id: 1}).encode(ONE)
    assert bool((tensors["modality_ids"][tensors["input_ids"] == break_id] == 1).all())


def test_several_byte_tokens_of_one_letter_are_all_trained() -> None:
    coder = encoder()
    tensors = coder.encode(row("q", "ß 数 🍎"))
    assert trained_text(coder, tensors) == " ß 数 🍎</s>"


@pytest.mark.parametrize(
    ("given", "images", "message"),
    [
        (row("<image>q", "a"), IMAGES, "rows.jsonl:3: row 'a': 1 <image> marks in the turns of the user, 0 pictures"),
        (row("q", "a", image="p"), IMAGES, "0 <image> marks in the turns of the user, 1 pictures; each picture needs"),
        (row("<image><image>q", "a", image="p"), IMAGES, "2 <image> marks in the turns of the user, 1 pictures"),
        (row("a question", "an answer"), IMAGES, r"row 'a': \d+ tokens, data\.max_length is 8; raise it to \d+"),
        (row("q", "a", "r"), IMAGES, None),
        (parse_row({"messages": [{"role": "user", "content": "q"}]}), IMAGES, "row '-0': 0 trained tokens; "),
    ],
)
def test_rows_that_cannot_be_trained(given: Row, images: Any, message: str | None) -> None:
    coder = Encoder(shared_processor(), images, max_length=8 if message and "max_length" in message else 99)
    if message is None:
        coder.encode(given)
        return
    with pytest.raises(ValueError, match=message):
        coder.encode(given)


def test_picture_errors_name_the_row(tmp_path: Any) -> None:
    from moiety.vlm.images import Images

    (tmp_path / "p").write_bytes(b"no picture")
    coder = Encoder(shared_processor(), Images([tmp_path]), 99)
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: row 'a': picture 'p' of .* cannot be decoded"):
        coder.encode(ONE)
    with pytest.raises(FileNotFoundError, match=r"rows\.jsonl:3: row 'a': picture 'z' is in none of 1"):
        coder.encode(row("<image>", "a", image="z"))


def test_prefix_labels_refuse_a_template_that_rewrites_history() -> None:
    processor = scratch_processor(SIZES, TEXTS, "plain")
    processor.chat_template = "{{ messages | length }}" + processor.chat_template
    with pytest.raises(ValueError, match="the tokens up to turn 2 do not begin the tokens of the whole conversation"):
        Encoder(processor, IMAGES, 99, labels="prefix").encode(NONE)


def test_a_processor_without_placeholders_is_refused() -> None:
    with pytest.raises(ValueError, match="object names none of image_token_id, video_token_id, audio_token_id"):
        Encoder(object(), IMAGES, 99)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_stands_on_its_side_and_changes_nothing_else(side: Any) -> None:
    items = [encoder().encode(given) for given in ROWS]
    batch = Collator(0, side)(items)
    assert batch["input_ids"].shape == (3, max(len(item["input_ids"]) for item in items))
    for number, item in enumerate(items):
        length = len(item["input_ids"])
        kept = slice(-length, None) if side == "left" else slice(length)
        padding = slice(-length) if side == "left" else slice(length, None)
        for key in ("input_ids", "labels", "modality_ids"):
            assert torch.equal(batch[key][number, kept], item[key])
        assert bool(batch["attention_mask"][number, kept].all())
        assert not batch["attention_mask"][number, padding].any()
        assert not batch["modality_ids"][number, padding].any()
        assert bool((batch["labels"][number, padding] == IGNORED_LABEL).all())
        assert bool((batch["input_ids"][number, padding] == 0).all())


def test_pictures_stand_flat_in_row_order() -> None:
    items = [encoder().encode(given) for given in (NONE, TWO, ONE)]
    batch = Collator(0)(items)
    assert torch.equal(batch["pixel_values"], torch.cat([items[1]["pixel_values"], items[2]["pixel_values"]]))
    assert "pixel_values" not in Collator(0)(items[:1])


def test_companions_of_other_families_are_joined() -> None:
    def item(seq: int, tiles: int, side: int) -> dict[str, Tensor]:
        ids = torch.ones(seq, dtype=torch.long)
        return {"input_ids": ids, "token_type_ids": ids, "pixel_values": torch.ones(1, tiles, 3, side, side)}

    batch = Collator(7)([item(2, 1, 4), item(3, 5, 2)])
    assert batch["token_type_ids"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["pixel_values"].shape == (2, 5, 3, 4, 4)
    assert (batch["pixel_values"][0].sum(), batch["pixel_values"][1].sum()) == (48, 60)


def test_unknown_padding_side() -> None:
    with pytest.raises(ValueError, match="padding_side must be 'left' or 'right', got 'up'"):
        Collator(0, "up")  # type: ignore[arg-type]


@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_are_the_conversation_without_its_last_answer(template: str) -> None:
    batch = prompt_batch(ROWS, shared_processor(template), IMAGES)
    for number, given in enumerate(ROWS):
        whole = encoder(template).encode(given)
        prompt = batch["input_ids"][number][batch["attention_mask"][number].bool()]
        last_answer = int(
            (whole["labels"] == IGNORED_LABEL).nonzero()[-1 if template not in ("chatml", "phi3") else -2]
        )
        assert torch.equal(prompt, whole["input_ids"][: last_answer + 1])
        assert bool(batch["attention_mask"][number, -1])
    assert batch["pixel_values"].shape[0] == 3
    assert "labels" not in batch


def test_prompts_of_rows_without_an_answer() -> None:
    asked = parse_row({"id": "x", "messages": [{"role": "user", "content": "q"}]})
    assert prompt_batch([asked], shared_processor(), {})["input_ids"].shape[0] == 1
    with pytest.raises(ValueError, match="row 'x': no question before the last answer"):
        prompt_batch(
            [parse_row({"id": "x", "messages": [{"role": "assistant", "content": "a"}]})], shared_processor(), {}
        )


def test_blank_pictures_show_nothing_and_change_no_token() -> None:
    seen, blank = (prompt_batch([ONE], shared_processor(), IMAGES, blank_image=flag) for flag in (False, True))
    assert torch.equal(seen["input_ids"], blank["input_ids"])
    assert float(seen["pixel_values"].abs().max()) > 0.2
    assert float(blank["pixel_values"].abs().max()) < 0.01  # 128 / 255 is not exactly the mean 0.5


def test_the_dataset_encodes_what_is_asked_for() -> None:
    rows = ConversationDataset(ROWS, encoder())
    assert len(rows) == 3
    assert torch.equal(rows[1]["input_ids"], encoder().encode(TWO)["input_ids"])
    assert rows.lengths == [len(encoder().encode(given)["input_ids"]) for given in ROWS]


def test_padding_falls_back_to_the_end_token() -> None:
    processor = scratch_processor(SIZES, TEXTS, "plain")
    assert Encoder(processor, {}, 9).pad_token_id == processor.tokenizer.pad_token_id
    processor.tokenizer.pad_token = None
    assert Encoder(processor, {}, 9).pad_token_id == processor.tokenizer.eos_token_id


def idefics3() -> Any:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    size = {"longest_edge": 16}
    images = Idefics3ImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False)
    return Idefics3Processor(images, train_tokenizer(TEXTS, 400, special), image_seq_len=4)


def test_another_processor_with_its_own_expansion() -> None:
    from moiety.vlm.templates import use_template

    processor = idefics3()
    use_template(processor, "plain")
    coder = Encoder(processor, IMAGES, 256)
    items = [coder.encode(given) for given in ROWS]
    assert [int(item["modality_ids"].sum()) for item in items] == [4, 8, 0]
    assert [trained_text(coder, item) for item in items] == [" 7</s> red</s>", " a red 7</s>", " red</s>"]
    batch = Collator(0)(items)
    assert batch["pixel_values"].shape == (2, 2, 3, 16, 16)
    assert not batch["pixel_values"][0, 1].any()  # all-zero pictures are padding to this family


def test_a_count_of_pictures_is_not_taken_for_tokens() -> None:
    """LLaVA-OneVision says how many pictures each row has. Text rows say nothing."""
    pixels = torch.arange(2.0 * 3 * 8 * 8).reshape(1, 2, 3, 8, 8)
    seen = {"pixel_values": pixels, "image_sizes": torch.tensor([[8, 8]]), "batch_num_images": torch.tensor([1])}
    texts = [torch.arange(5), torch.arange(3), torch.arange(4)]
    rows = [{"input_ids": ids, "labels": ids, "modality_ids": torch.zeros_like(ids)} for ids in texts]
    batch = Collator(0)([rows[0] | seen, rows[1], rows[2] | seen])
    assert batch["batch_num_images"].tolist() == [1, 1]
    assert batch["image_sizes"].shape == (2, 2)
    assert batch["input_ids"].shape == batch["labels"].shape == (3, 5)
