"""Benchmarks asked of a tiny model: the same answers in any batch and with any padding, resumed, recorded, scored."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from moiety.evaluate.benchmarks.registry import BENCHMARKS
from moiety.evaluate.benchmarks.run import Asking, evaluate_benchmarks, read_all, score_answers
from moiety.evaluate.decoding import keywords_of_generate
from moiety.recipe.recipe import MoESettings, ScratchSettings
from moiety.vlm.data import Collator, Encoder
from moiety.vlm.scratch import scratch_model, scratch_processor
from moiety.vlm.upcycle import upcycle
from tests.evaluate.benchmarks.made_layouts import docvqa_test_hub, pope_hub_full
from tests.evaluate.benchmarks.made_options import MADE_OPTIONS

NAMES = ["pope", "scienceqa"]
WORDS = ["Is there a dog in the image?", "Which? A. red B. blue", "Answer the question using a single word or phrase."]
SHORT = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in (*NAMES, "mmbench_test"):
        MADE_OPTIONS[name](folder / name)
    return folder


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    sizes = ScratchSettings(
        **{"vocab": 320, "hidden": 16, "ffn": 16, "layers": 2, "heads": 1, "image_size": 16, "patch_size": 8},
        **{"vision_hidden": 16, "vision_ffn": 16, "vision_layers": 1, "vision_heads": 1},
    )
    processor = scratch_processor(sizes, WORDS, "plain")
    return upcycle(scratch_model(sizes, processor, seed=0), MoESettings(router_init_std=1.0)), processor


def answers_of(output: Path) -> dict[str, dict[str, str]]:
    found = {}
    for name in NAMES:
        lines = [
            json.loads(line) for line in (output / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") if line
        ]
        found[name] = {line["id"]: line["prediction"] for line in lines[1:]}
    return found


def ask(both: tuple[Any, Any], data: Path, output: Path, **options: Any) -> Any:
    return evaluate_benchmarks(*both, NAMES, data, output, Asking(max_new_tokens=SHORT, **options))


@pytest.fixture(scope="module")
def alone(both: tuple[Any, Any], data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    output = tmp_path_factory.mktemp("alone")
    ask(both, data, output, batch_size=1)
    return answers_of(output)


# -- batches and padding -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("batch_size", "side"), [(3, "left"), (3, "right"), (8, "left"), (8, "right")])
def test_answers_are_the_same_in_any_batch_whatever_the_tokenizer_pads(
    both: tuple[Any, Any], data: Path, alone: dict[str, dict[str, str]], tmp_path: Path, batch_size: int, side: str
) -> None:
    tokenizer = both[1].tokenizer
    before, tokenizer.padding_side = tokenizer.padding_side, side
    try:
        ask(both, data, tmp_path, batch_size=batch_size)
    finally:
        tokenizer.padding_side = before
    assert answers_of(tmp_path) == alone
    assert len({text for texts in alone.values() for text in texts.values()}) > 2


@torch.inference_mode()
def test_the_first_word_is_the_same_padded_on_either_side(both: tuple[Any, Any], data: Path) -> None:
    model, processor = both
    benchmark = BENCHMARKS["pope"]
    rows = benchmark.read(data / "pope")[:4]
    encoder = Encoder(processor, benchmark.pictures(data / "pope"), max_length=0)
    prompts = [encoder.encode_prompt(row) for row in rows]
    assert len({len(prompt["input_ids"]) for prompt in prompts}) > 1
    last: dict[str, torch.Tensor] = {}
    for side in ("left", "right"):
        batch = Collator(encoder.pad_token_id, padding_side=side)(prompts)
        kept = keywords_of_generate(model, batch)
        logits = model.eval()(**kept).logits
        places = batch["attention_mask"].cumsum(dim=1).argmax(dim=1)  # (rows,): the last token of each prompt
        last[side] = logits[torch.arange(len(rows)), places]
    torch.testing.assert_close(last["left"], last["right"], atol=1e-5, rtol=1e-5)  # measured 2e-7


# -- files -------------------------------------------------------------------------------------------------------------
def test_a_limited_run_goes_on_to_the_whole_and_is_scored(
    both: tuple[Any, Any], data: Path, alone: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    first = ask(both, data, tmp_path, limit=1)
    assert [(run.num_questions, run.num_all) for run in first] == [(6, 12), (1, 2)]  # questions of one picture stay
    assert first[0].line[2] == "6 of 12"
    again = evaluate_benchmarks(
        *both, NAMES, data, tmp_path, Asking(max_new_tokens=SHORT), lambda *words: told.append(words)
    )
    assert answers_of(tmp_path) == alone
    assert told == [("pope", 12, 12), ("scienceqa", 2, 2)]
    results = json.loads((tmp_path / "benchmarks.json").read_text())
    assert list(results) == ["pope/official", "scienceqa/sound"]
    assert results["pope/official"]["num_questions"] == 12
    for run in again:
        assert run.score is not None
        alone_scored, num_all = score_answers(run.benchmark, data / run.benchmark, run.predictions)
        assert (alone_scored.numbers, num_all) == (run.score.numbers, run.num_all)
        assert results[f"{run.benchmark}/{run.score.rule}"]["numbers"] == dict(run.score.numbers)


def test_a_part_from_the_hub_is_asked_and_said_in_the_table(both: tuple[Any, Any], tmp_path: Path) -> None:
    pope_hub_full(tmp_path / "data" / "POPE")
    run = evaluate_benchmarks(*both, ["pope"], tmp_path / "data", tmp_path / "out", Asking(max_new_tokens=1))[0]
    assert run.line[0] == "pope (part: popular)"
    assert json.loads((tmp_path / "out" / "benchmarks.json").read_text())["pope/official"]["part"] == "popular"
    docvqa_test_hub(tmp_path / "data" / "docvqa")
    run = evaluate_benchmarks(*both, ["docvqa_test"], tmp_path / "data", tmp_path / "out", Asking(max_new_tokens=1))[0]
    assert run.line[0] == "docvqa_test"
    assert run.answers_file is not None
    assert json.loads(run.answers_file.read_text())[0]["questionId"] == 1


def test_answers_to_other_questions_are_refused(both: tuple[Any, Any], data: Path, tmp_path: Path) -> None:
    ask(both, data, tmp_path / "out", limit=1)
    other = tmp_path / "data"
    for name in NAMES:
        MADE_OPTIONS[name](other / name)
    path = other / "pope" / "coco" / "coco_pope_random.json"
    path.write_text(path.read_text().replace("dog", "cat"))
    with pytest.raises(ValueError, match=r"pope.jsonl holds answers made with other settings \(questions: '"):
        ask(both, other, tmp_path / "out", limit=1)


def test_what_is_graded_elsewhere_gets_its_file_once_all_is_asked(
    both: tuple[Any, Any], data: Path, tmp_path: Path
) -> None:
    asking = Asking(rule="official", max_new_tokens=1)
    part = evaluate_benchmarks(*both, ["mmbench_test"], data, tmp_path, Asking(limit=1, max_new_tokens=1))[0]
    assert (part.answers_file, part.score) == (None, None)
    assert part.line[3] == "graded elsewhere; ask all questions for its file"
    whole = evaluate_benchmarks(*both, ["mmbench_test"], data, tmp_path, asking)[0]
    assert whole.answers_file == tmp_path / "mmbench_test.answers.xlsx"
    assert whole.answers_file.read_bytes().startswith(b"PK")


def test_all_files_and_rules_are_checked_before_the_first_question(data: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"mme: no folder .*mme; expected there, any one of:\n  its own release: TASK/"
    ):
        read_all(["pope", "mme"], data)
    with pytest.raises(ValueError, match=r"scienceqa has no rule 'vcd'; known: "):
        read_all(NAMES, data, "vcd")
