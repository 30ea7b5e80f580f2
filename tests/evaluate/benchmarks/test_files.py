"""Files of questions and of answers: packed or not, with every kind of line end, and what is told of broken ones."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from moiety.evaluate.benchmarks.files.answers import read_answers
from moiety.evaluate.benchmarks.files.questions import read_entries, read_json, read_lines, read_table, text_of
from moiety.evaluate.benchmarks.rules.resampling import resampled
from moiety.evaluate.predictions import PredictionFile


# -- questions ---------------------------------------------------------------------------------------------------------
def test_a_packed_file_stands_for_a_plain_one(tmp_path: Path) -> None:
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'\xef\xbb\xbf{"a": "\xe2\x80\xa8"}'))
    path = tmp_path / "b.json.gz"
    assert read_json(path) == {"a": "\u2028"}
    assert list(read_lines(path)) == [(1, {"a": "\u2028"})]


def test_entries_stand_on_lines_or_in_one_list(tmp_path: Path) -> None:
    for text in ('{"a": 1}\n{"a": 2}\n', '\n[{"a": 1}, {"a": 2}]'):
        (tmp_path / "a.json").write_text(text)
        assert [entry for _, entry in read_entries(tmp_path / "a.json")] == [{"a": 1}, {"a": 2}]
    (tmp_path / "a.json").write_text("[{}, 3]")
    with pytest.raises(ValueError, match=r"a.json:2: expected an object, got int"):
        list(read_entries(tmp_path / "a.json"))


def test_cells_hold_line_breaks_and_long_text(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('a\tb\n"1\n\u20282"\t' + "x" * 200_000 + "\n3\n", encoding="utf-8")
    cells = [cells for _, cells in read_table(tmp_path / "t.tsv")]
    assert cells == [{"a": "1\n\u20282", "b": "x" * 200_000}, {"a": "3", "b": ""}]


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"a.json cannot be read \(.*\); fetch the file again"):
        text_of(path)
    path.write_text('{"a":\n1,}')
    with pytest.raises(ValueError, match=r"a.json:2 is not JSON \(.*\); fetch the file again"):
        read_json(path)
    path.write_text('{}\n\n{"a"')
    with pytest.raises(ValueError, match=r"a.json:3 is not JSON \(.*\); fetch the file again"):
        list(read_lines(path))
    path.write_text("{}\n3")
    with pytest.raises(ValueError, match=r"a.json:2: expected an object, got int"):
        list(read_lines(path))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9])
    with pytest.raises(ValueError, match=r"b.json.gz cannot be read"):
        text_of(tmp_path / "b.json.gz")


# -- answers -----------------------------------------------------------------------------------------------------------
def test_answers_made_here_and_elsewhere_are_read(tmp_path: Path) -> None:
    PredictionFile(tmp_path / "own.jsonl", {"weights": "x"}).add({"1": "a\u2028\n\0", "2": ""})
    assert read_answers(tmp_path / "own.jsonl") == {"1": "a\u2028\n\0", "2": ""}
    llava = [{"question_id": 7, "prompt": "?", "text": "No"}, {"question_id": 8, "text": "Yes", "answer": "not this"}]
    (tmp_path / "llava.jsonl").write_text("\n".join(map(json.dumps, llava)))
    assert read_answers(tmp_path / "llava.jsonl") == {"7": "No", "8": "Yes"}
    (tmp_path / "list.json").write_text(json.dumps([{"questionId": 3, "answer": "x"}]))
    assert read_answers(tmp_path / "list.json") == {"3": "x"}
    (tmp_path / "object.json").write_text(json.dumps({"v1_0": "x"}))
    assert read_answers(tmp_path / "object.json") == {"v1_0": "x"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"id": 1, "text": "a"}\n{"id": "1", "text": "b"}', r"jsonl:2: '1' is answered a second time; each question"),
        ('{"id": 1, "text": null}', r"jsonl:1: the answer to '1' is no text, got None"),
        ('{"text": "a"}', r"jsonl:1: no id under any of id, question_id, .*, and no question; it has 'text'"),
        ('{"id": 1}', r"jsonl:1: no text under any of prediction, text, answer, response, got"),
    ],
)
def test_answers_that_cannot_be_used_are_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=told):
        read_answers(tmp_path / "a.jsonl")


def test_a_missing_file_and_another_document_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no answers at .*nowhere.jsonl"):
        read_answers(tmp_path / "nowhere.jsonl")
    (tmp_path / "a.json").write_text("3")
    with pytest.raises(ValueError, match=r"a.json: expected a list or an object id -> text, got int"):
        read_answers(tmp_path / "a.json")


# -- intervals ---------------------------------------------------------------------------------------------------------
def test_an_interval_covers_what_it_says_and_clusters_widen_it() -> None:
    draw = np.random.default_rng(0)
    covered, widths, wide = 0, [], []
    for repetition in range(40):
        of_picture = np.repeat(draw.random(60) < 0.7, 4).astype(float)  # four questions a picture, all right or wrong

        def mean(weights: np.ndarray, marks: np.ndarray = of_picture) -> float:
            return float(weights @ marks / weights.sum())

        clustered = resampled(mean, np.repeat(np.arange(60), 4).tolist(), num_draws=200, seed=repetition)
        single = resampled(mean, range(240), num_draws=200, seed=repetition)
        covered += clustered.low <= 0.7 <= clustered.high
        wide.append(clustered.high - clustered.low)
        widths.append(single.high - single.low)
    assert covered >= 34  # 38 expected
    assert np.mean(wide) == pytest.approx(2 * np.mean(widths), rel=0.1)  # four questions count as one


def test_every_part_keeps_its_number_of_clusters() -> None:
    parts = np.array([0] * 6 + [1] * 2)
    seen = set()

    def sizes(weights: np.ndarray) -> float:
        seen.add((weights[parts == 0].sum(), weights[parts == 1].sum()))
        return 0.0

    resampled(sizes, [0, 0, 1, 1, 2, 2, 3, 4], parts.tolist(), num_draws=50)
    assert seen == {(6, 2)}


def test_same_seed_same_interval_and_no_question_is_refused() -> None:
    marks = np.array([1.0, 0.0, 1.0])

    def mean(weights: np.ndarray) -> float:
        return float(weights @ marks / weights.sum())

    assert resampled(mean, "abc") == resampled(mean, "abc")
    assert not resampled(lambda weights: float("nan"), "abc", num_draws=5).has_interval
    with pytest.raises(ValueError, match=r"an interval needs at least one question, got none"):
        resampled(mean, [])
