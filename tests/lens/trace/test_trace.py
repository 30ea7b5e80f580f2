"""The trace of a run holds what the model decided: exactly, in any batch, and however often the run was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moiety.evaluate.run import answer_rows
from moiety.lens import SavedTrace, numbers_of, read_trace, write_trace
from moiety.lens.trace.gather import answered_lengths, end_tokens, split_batch, trace_of
from moiety.lens.trace.observe import observe
from moiety.lens.trace.writer import TraceWriter
from moiety.moe.trace import Routing, RoutingTrace
from moiety.recipe.evaluate import DecodingSettings
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import load
from moiety.vlm.rows import IMAGE_MARK
from moiety.vlm.upcycle import upcycle
from tests import model_folders
from tests.lens.trace import traces

EXACT = ("slots", "together", "tokens")  # counts; the others are sums of floats


def same(one: SavedTrace, other: SavedTrace) -> None:
    assert one.asked == other.asked
    assert one.num_questions == other.num_questions
    for phase, by_layer in one.totals.items():
        for layer, count in by_layer.items():
            for part in EXACT:
                assert torch.equal(getattr(count, part), getattr(other.totals[phase][layer], part)), (phase, part)
            torch.testing.assert_close(count.weight, other.totals[phase][layer].weight, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(count.entropy, other.totals[phase][layer].entropy, rtol=1e-5, atol=1e-5)
    for left, right in zip(one.questions, other.questions, strict=True):
        for name in ("id", "question", "answer", "expected", "note", "words", "generated", "pictures"):
            assert getattr(left, name) == getattr(right, name), name
        assert np.array_equal(left.picture_of, right.picture_of)
        assert left.phases.keys() == right.phases.keys()
        for phase, part in left.phases.items():
            assert np.array_equal(part.index, right.phases[phase].index)
            assert np.array_equal(part.group, right.phases[phase].group)
            np.testing.assert_allclose(part.weights, right.phases[phase].weights, atol=1e-3)
            np.testing.assert_allclose(part.entropy, right.phases[phase].entropy, atol=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> SavedTrace:
    return traces.traced(traces.sparse(), tmp_path_factory.mktemp("alone") / "t.safetensors", batch_size=1)


@pytest.mark.parametrize("make", [traces.sparse, traces.deep])
def test_the_file_gives_the_numbers_of_the_observation_exactly(make: Any, tmp_path: Path) -> None:
    model, processor = make()
    seen = observe(model, processor, model_folders.picture(), traces.QUESTIONS[0], max_new_tokens=4)
    found = read_trace(write_trace(trace_of(model, seen, {"max_new_tokens": 4}), tmp_path / "t.safetensors"))
    live, read = numbers_of(seen), found.numbers()
    assert (read.layers, read.phases) == (live.layers, live.phases)
    assert read.arrays.keys() == live.arrays.keys()
    for key, array in live.arrays.items():
        assert np.array_equal(read.arrays[key], array), key
    (question,) = found.questions
    assert question.words == seen.words
    assert question.generated == seen.generated
    for phase, by_layer in seen.phases.items():
        for place, layer in enumerate(seen.layers if by_layer else []):
            assert np.array_equal(question.phases[phase].index[place], by_layer[layer].index.numpy())


def test_sums_of_a_run_are_those_of_its_questions_one_by_one(alone: SavedTrace) -> None:
    model, processor = traces.sparse()
    slots: dict[tuple[str, int], torch.Tensor] = {}
    for row, question in zip(traces.rows(), alone.questions, strict=True):
        asked = row.turns[0].text.replace(IMAGE_MARK, "").strip()
        seen = observe(model, processor, traces.pictures()[row.images[0]], asked, max_new_tokens=5)
        assert (question.id, question.question, question.answer) == (row.id, asked, seen.answer)
        assert question.generated == seen.generated
        assert question.words == seen.words
        for phase, by_layer in seen.phases.items():
            for layer, routing in by_layer.items():
                own = torch.zeros(2, 4)
                for chosen, group in zip(routing.index.tolist(), routing.modality_group.tolist(), strict=True):
                    own[group, chosen] += 1
                slots[phase, layer] = slots.get((phase, layer), torch.zeros(2, 4)) + own
    for (phase, layer), expected in slots.items():
        assert torch.equal(alone.totals[phase][layer].slots.float(), expected)
    assert alone.num_questions == 4


@pytest.mark.parametrize("batch_size", [3, 4])
def test_a_trace_does_not_depend_on_the_batch_size(alone: SavedTrace, tmp_path: Path, batch_size: int) -> None:
    """Neither padding nor what a batch reads behind a shorter answer is in it."""
    lengths = [len(question.generated) for question in alone.questions]
    assert len(set(lengths)) > 1, "answers of one length would prove nothing"
    same(traces.traced(traces.sparse(), tmp_path / "t.safetensors", batch_size=batch_size), alone)


def test_rivals_of_a_contrastive_decoding_are_left_out(alone: SavedTrace, tmp_path: Path) -> None:
    plain = DecodingSettings(method="context_aware", weight=0.0)
    same(traces.traced(traces.sparse(), tmp_path / "t.safetensors", decoding=plain), alone)


def test_decisions_are_kept_of_the_first_questions_and_sums_of_all(alone: SavedTrace, tmp_path: Path) -> None:
    found = traces.traced(traces.sparse(), tmp_path / "t.safetensors", limit=2)
    assert [question.id for question in found.questions] == ["r0", "r1"]
    assert found.num_questions == 4
    assert torch.equal(found.totals["prefill"][3].slots, alone.totals["prefill"][3].slots)


def test_equal_questions_to_one_picture_count_once(tmp_path: Path) -> None:
    rows = traces.rows(13)  # r0 and r12 ask the same of the same picture
    traces.answer(traces.sparse(), tmp_path / "t.safetensors", rows)
    found = read_trace(tmp_path / "t.safetensors")
    assert (found.num_questions, len(found.asked)) == (12, 13)


# -- stopped and resumed -----------------------------------------------------------------------------------------------
def test_a_stopped_run_goes_on_and_counts_nothing_twice(alone: SavedTrace, tmp_path: Path) -> None:
    path, predictions = tmp_path / "t.safetensors", tmp_path / "answers.jsonl"

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        traces.answer(
            traces.sparse(), path, traces.rows(), batch_size=3, predictions=predictions, progress=stop
        )  # fmt: skip
    written = len(predictions.read_text().splitlines()) - 1  # the first line holds the settings
    assert 0 < read_trace(path).num_questions == written < len(traces.rows())
    traces.answer(traces.sparse(), path, traces.rows(), predictions=predictions)
    same(read_trace(path), alone)


def test_known_answers_are_asked_again_where_the_trace_lacks_them(alone: SavedTrace, tmp_path: Path) -> None:
    predictions, images = tmp_path / "answers.jsonl", traces.pictures()
    answer_rows(
        *(*traces.sparse(), traces.rows(), images), batch_size=4, max_new_tokens=5, predictions=predictions
    )  # fmt: skip
    before = predictions.read_text()
    traces.answer(traces.sparse(), tmp_path / "t.safetensors", traces.rows(), predictions=predictions)
    same(read_trace(tmp_path / "t.safetensors"), alone)
    assert predictions.read_text() == before


def test_a_finished_run_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, predictions = tmp_path / "t.safetensors", tmp_path / "answers.jsonl"
    first = traces.answer(traces.sparse(), path, traces.rows(), predictions=predictions)
    written = path.read_bytes()
    monkeypatch.setattr(type(traces.sparse()[0]), "generate", None)
    assert traces.answer(traces.sparse(), path, traces.rows(), predictions=predictions) == first
    assert path.read_bytes() == written


def test_more_questions_go_into_the_same_file(alone: SavedTrace, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    traces.answer(traces.sparse(), path, traces.rows(2))
    same(traces.traced(traces.sparse(), path), alone)


def test_a_trace_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    traces.answer(traces.sparse(), path, traces.rows())
    with pytest.raises(ValueError, match=r"made with other settings \(max_new_tokens: 5 there, 2 now\); delete it or"):
        traces.answer(traces.sparse(), path, traces.rows(), max_new_tokens=2)
    with pytest.raises(ValueError, match=r"holds a trace of 2 rows that are not asked now; delete it or choose"):
        traces.answer(traces.sparse(), path, traces.rows(2))
    with pytest.raises(ValueError, match=r"is a folder; give --trace a file, for instance .*trace\.safetensors"):
        TraceWriter(tmp_path, *traces.sparse(), {})


def test_a_dense_model_has_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this model is dense: it has no experts whose routing could be traced; make"):
        TraceWriter(tmp_path / "t.safetensors", load(model_folders.dense_folder()), None, {})


# -- parts -------------------------------------------------------------------------------------------------------------
def test_prefill_in_chunks_is_refused() -> None:
    zeros = torch.zeros(5, 4)
    routing = Routing(zeros, zeros[:, :2].long(), zeros[:, :2], zeros[:, 0].long())
    with pytest.raises(RuntimeError, match="layer 1 read 5 tokens at first, the prompts of the batch have 2 x 4; pref"):
        split_batch(RoutingTrace([(1, routing)]), torch.ones(2, 4, dtype=torch.bool), [0, 0])


def test_ends_of_answers_are_those_of_generate() -> None:
    model = upcycle(load(model_folders.dense_folder()), MoESettings())
    model.generation_config.eos_token_id = 7
    assert end_tokens(model) == [7]
    model.generation_config.eos_token_id = None
    assert end_tokens(model) == []
    assert answered_lengths(torch.tensor([[1, 2, 3]]), []) == [2]
