"""Answers do not depend on batches, stops or order; equal questions are asked once; the model is left as it was."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from moiety.evaluate.run import evaluate_model, weights_digest
from moiety.recipe.recipe import MoESettings, ScratchSettings
from moiety.vlm.images import Images
from moiety.vlm.problems import BadRows
from moiety.vlm.rows import Row, Turn
from moiety.vlm.scratch import scratch_model, scratch_processor
from moiety.vlm.upcycle import upcycle

QUESTIONS = (
    "Which digit?",
    "What colour has the digit at the top?",
    "Odd?",
    "How many?",
    "Is there a seven or an eight?",
)


class Pictures(dict[str, Image.Image]):
    """Even pictures by name, counting how often each is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __missing__(self, name: str) -> Image.Image:
        self.asked.append(name)
        return Image.new("RGB", (16, 16), (37 * int(name) % 256, 90, 200))


def rows_of(count: int) -> list[Row]:
    return [
        Row(
            id=f"r{number}",
            turns=(Turn("user", f"<image>\n{QUESTIONS[number % 5]}"), Turn("assistant", "7")),
            images=(str(number // 3),),
            type="digit",
            answers=("7",),
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def processor() -> Any:
    sizes = ScratchSettings(vocab=320, hidden=16, ffn=16, layers=2, heads=1, image_size=16, patch_size=8)
    return scratch_processor(sizes, QUESTIONS, "plain")


@pytest.fixture(scope="module", params=["dense", "moiie"])
def model(request: pytest.FixtureRequest, processor: Any) -> Any:
    sizes = ScratchSettings(
        **{"vocab": 320, "hidden": 16, "ffn": 16, "layers": 2, "heads": 1, "image_size": 16, "patch_size": 8},
        **{"vision_hidden": 16, "vision_ffn": 16, "vision_layers": 1, "vision_heads": 1},
    )
    dense = scratch_model(sizes, processor, seed=0)
    return dense if request.param == "dense" else upcycle(dense, MoESettings(router_init_std=1.0))


def answers(model: Any, processor: Any, rows: list[Row], **options: Any) -> dict[str, str]:
    return dict(evaluate_model(model, processor, rows, Pictures(), max_new_tokens=4, **options).predictions)


def test_answers_do_not_depend_on_batches_or_order(model: Any, processor: Any) -> None:
    rows = rows_of(12)
    alone = answers(model, processor, rows, batch_size=1)
    assert len(set(alone.values())) > 1
    assert answers(model, processor, rows, batch_size=5) == alone
    assert answers(model, processor, rows[::-1], batch_size=32) == alone


def test_a_stopped_run_goes_on(model: Any, processor: Any, tmp_path: Path) -> None:
    rows, path = rows_of(10), tmp_path / "predictions.jsonl"
    whole = answers(model, processor, rows)

    def stop(done: int, total: int) -> None:
        assert total == 10
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_model(
            model, processor, rows, Pictures(), max_new_tokens=4, batch_size=2, predictions=path, progress=stop
        )
    assert len(path.read_text().splitlines()) == 1 + 4
    pictures = Pictures()
    result = evaluate_model(model, processor, rows, pictures, max_new_tokens=4, batch_size=2, predictions=path)
    assert result.predictions == whole
    assert len(pictures.asked) == 2 * len(set(pictures.asked))  # tried before the first question, opened once for all
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]].count("r0") == 1


def test_equal_questions_are_asked_once(model: Any, processor: Any) -> None:
    rows, pictures = rows_of(15), Pictures()
    blank = evaluate_model(model, processor, rows, pictures, max_new_tokens=4, blank_image=True)
    assert len(set(blank.predictions.values())) <= len(QUESTIONS)
    assert len(pictures.asked) == 5 + 5 + 2  # tried once, one size look-up for each, two that stand for equal ones
    asked_alone = answers(model, processor, rows[4:5], blank_image=True)
    assert blank.predictions["r4"] == asked_alone["r4"]


def test_blank_pictures_hide_the_picture(model: Any, processor: Any) -> None:
    first, second = rows_of(15)[0], rows_of(30)[15]
    assert first.images != second.images
    blank = answers(model, processor, [first, second], blank_image=True)
    assert blank["r0"] == blank["r15"]


def test_the_model_is_left_as_it_was(model: Any, processor: Any) -> None:
    model.train()
    before = weights_digest(model)
    answers(model, processor, rows_of(2))
    assert model.training
    assert weights_digest(model) == before


def test_the_digest_sees_a_step_of_training(model: Any) -> None:
    before = weights_digest(model)
    with torch.no_grad():
        next(iter(small_parameters(model))).add_(1e-3)
    assert weights_digest(model) != before


def test_the_digest_tells_types_apart() -> None:
    """Numbers that bfloat16 holds exactly are the same in float32, but the answers need not be."""
    half = torch.nn.Linear(4, 4).to(torch.bfloat16)
    whole = copy.deepcopy(half).to(torch.float32)
    assert torch.equal(half.weight.float(), whole.weight)
    assert weights_digest(half) != weights_digest(whole)


def small_parameters(model: Any) -> Iterator[torch.nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.numel() <= 64)


def test_messages(model: Any, processor: Any) -> None:
    with pytest.raises(ValueError, match="no rows to evaluate; give at least one question"):
        answers(model, processor, [])
    with pytest.raises(ValueError, match="row 'r0' has the id of row 'r0'; answers are kept by id: give each its own"):
        answers(model, processor, [rows_of(1)[0], rows_of(1)[0]])


def test_every_bad_picture_is_named_before_the_first_question(model: Any, processor: Any, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    names = ("good.png", "cut.png", "gone.png", "cut.png")
    turns = (Turn("user", "<image>\nWhich digit?"), Turn("assistant", "7"))
    rows = [Row(id=f"r{line}", turns=turns, images=(name,), file="rows.jsonl", line=line)
            for line, name in enumerate(names, 1)]  # fmt: skip
    with pytest.raises(BadRows, match=r"3 rows cannot be asked; mend the pictures or take the rows out:") as caught:
        evaluate_model(model, processor, rows, Images([tmp_path]), predictions=tmp_path / "said.jsonl")
    first, second, third = str(caught.value).splitlines()[1:]
    assert first.startswith("  rows.jsonl:2: row 'r2': picture ")
    assert "cannot be decoded" in first
    assert "rows.jsonl:3: row 'r3': picture 'gone.png' is in none of 1 image sources" in second
    assert third.startswith("  rows.jsonl:4: row 'r4': ")
    with pytest.raises(BadRows, match=r"picture '0' is missing"):
        evaluate_model(model, processor, rows_of(1), {})
