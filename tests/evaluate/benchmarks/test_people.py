"""Benchmarks with the answers of ten people: VQAv2, TextVQA, VizWiz."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from moiety.evaluate.benchmarks.benchmark import Benchmark, asked
from moiety.evaluate.benchmarks.rules.people import people_of
from moiety.evaluate.benchmarks.rules.vqa_text import long_form
from moiety.evaluate.benchmarks.sets.textvqa import ANNOTATIONS, TEXTVQA
from moiety.evaluate.benchmarks.sets.vizwiz import VIZWIZ, VIZWIZ_TEST
from moiety.evaluate.benchmarks.sets.vqav2 import VQAV2, VQAV2_TESTDEV
from moiety.vlm.rows import Row
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores

SHORT = "Answer the question using a single word or phrase."


def row_of(line: dict[str, Any]) -> Row:
    return asked(str(line["question_id"]), "?", answers=line["answers"], extra={"recognised_text": False, **line})


@pytest.mark.parametrize(
    ("benchmark", "rule", "column", "headline"),
    [
        (VQAV2, "official", "official_score", ("official", "overall", 1)),
        (VQAV2, "lmms_eval", "lmms_score", ("lmms_eval", "exact_match", 100)),
        (VQAV2, "m4c", "m4c_score", ("m4c", "accuracy", 100)),
        (TEXTVQA, "official", "official_score", ("official", "accuracy", 100)),
        (TEXTVQA, "lmms_eval", "lmms_score", ("lmms_eval", "exact_match", 100)),
        (TEXTVQA, "stvqa", "stvqa_accuracy", ("stvqa", "accuracy", 100)),
        (VIZWIZ, "lmms_eval", "lmms_score", ("lmms_eval", "exact_match", 100)),
    ],
)
def test_equals_the_released_scorer(
    shared: Path, benchmark: Benchmark, rule: str, column: str, headline: tuple[str, str, float]
) -> None:
    lines = golden_rows(shared, benchmark.name)
    assert len(lines) == {"vqav2": 264, "textvqa": 252, "vizwiz": 150}[benchmark.name]
    rows = [row_of(line) for line in lines]
    answers = {row.id: line["text"] for row, line in zip(rows, lines, strict=True)}
    score = checked_score(benchmark, rows, answers, rule)
    variant, name, factor = headline
    wanted = golden_scores(shared, benchmark.name)[variant]
    assert score.headline[1] == pytest.approx(factor * wanted[name], abs=1e-4 if factor == 1 else 1e-9)
    assert score.correct is not None
    for row, line in zip(rows, lines, strict=True):
        assert score.correct[row.id] == pytest.approx(line[column], abs=1e-9), line
        assert long_form(line["text"]) == line.get("submission_answer", long_form(line["text"]))
    if rule == "official" and benchmark is VQAV2:
        for kind in ("question_type", "answer_type"):
            theirs = wanted["per" + "".join(map(str.capitalize, kind.split("_")))]
            assert {f"{kind} {value}": pytest.approx(mark, abs=1e-4) for value, mark in theirs.items()} == {
                key: mark for key, mark in score.numbers.items() if key.startswith(kind)
            }


def vqav2_folder(folder: Path, num_annotations: int = 2) -> Path:
    questions = [{"question_id": 42 + n, "image_id": 9, "question": f"What is {n}?"} for n in range(2)]
    for split in ("val2014", "test-dev2015"):
        (folder / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(json.dumps({"questions": questions}))
    kinds = {"question_type": "what is", "answer_type": "other"}
    people = [{"answer": "red", "answer_id": n} for n in range(10)]
    annotations = [{"question_id": 42 + n, "answers": people, **kinds} for n in range(num_annotations)]
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return folder


def test_vqav2_joins_questions_and_annotations(tmp_path: Path) -> None:
    rows = VQAV2.read(vqav2_folder(tmp_path))
    assert [row.id for row in rows] == ["42", "43"]
    assert rows[0].images == ("COCO_val2014_000000000009.jpg",)
    assert rows[1].turns[0].text == f"<image>\nWhat is 1?\n{SHORT}"
    assert VQAV2.score(rows, {"42": "red", "43": "blue"}).headline == ("accuracy", 50)
    for rule in VQAV2.rules:
        assert VQAV2.scorer is not None
        assert VQAV2.score(rows, {"42": "", "43": ""}, rule).headline[1] == VQAV2.floor(rows, rule) == 0


@pytest.mark.parametrize(
    ("num_annotations", "message"),
    [
        (1, r"question 43 has no annotation in v2_mscoco_val2014_annotations.json; fetch both files again"),
        (3, r"has 3 annotations for 2 questions; fetch both files again"),
    ],
)
def test_vqav2_files_of_different_versions(tmp_path: Path, num_annotations: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VQAV2.read(vqav2_folder(tmp_path, num_annotations))


def test_vqav2_testdev_writes_what_the_server_takes(tmp_path: Path) -> None:
    rows = VQAV2_TESTDEV.read(vqav2_folder(tmp_path))
    assert rows[0].images == ("COCO_test2015_000000000009.jpg",)
    answers = {"42": "A Dog.", "43": ""}
    with pytest.raises(ValueError, match="graded elsewhere; write its answers file"):
        VQAV2_TESTDEV.score(rows, answers)
    VQAV2_TESTDEV.write_answers(rows, answers, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == [{"question_id": 42, "answer": "dog"}, {"question_id": 43, "answer": ""}]


def textvqa_folder(shared: Path, folder: Path) -> Path:
    """The LLaVA line's real prompts, and annotations in the official form made for them."""
    source = shared / "data/benchmark_formats/textvqa/bunny_textvqa_val_v051_ocr.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(source.read_bytes()).decode().split("\n") if line]
    data = [
        {
            "question_id": number,
            "image_id": line["question_id"],
            "question": line["text"].split("\n")[0].upper(),
            "answers": ["Nokia"] * 10,
        }
        for number, line in enumerate(lines)
    ]
    (folder / ANNOTATIONS).write_text(json.dumps({"data": data}))
    (folder / source.name).write_bytes(source.read_bytes())
    return folder


def test_textvqa_takes_the_prompts_with_recognised_text(shared: Path, tmp_path: Path) -> None:
    rows = TEXTVQA.read(textvqa_folder(shared, tmp_path))
    assert len(rows) == 5000
    assert rows[0].turns[0].text == (
        "<image>\nWhat is the brand of this camera?\nReference OCR token: DAKOTA, DIGITAL, Single-Use, Camera, Pire, "
        f"digitat\n{SHORT}"
    )
    assert rows[0].images == ("003a8ae2ef43b901.jpg",)
    perfect = dict.fromkeys((row.id for row in rows), "nokia.")
    for rule in TEXTVQA.rules:
        score = checked_score(TEXTVQA, rows, perfect, rule)
        assert score.headline[1] == pytest.approx(100)
        assert checked_score(TEXTVQA, rows, dict.fromkeys(perfect, ""), rule).headline[1] == 0
    assert score.notes == ("5000 of 5000 prompts showed recognised text",)


def test_textvqa_without_prompts_and_with_foreign_ones(tmp_path: Path) -> None:
    entry = {"question_id": 1, "image_id": "ab", "question": "What brand?", "answers": ["x"] * 10}
    (tmp_path / ANNOTATIONS).write_text(json.dumps({"data": [entry]}))
    assert TEXTVQA.read(tmp_path)[0].turns[0].text == f"<image>\nWhat brand?\n{SHORT}"
    prompt = {"question_id": "ab", "text": "What else?\nReference OCR token: x"}
    (tmp_path / "llava_textvqa_val_v051_ocr.jsonl").write_text(json.dumps(prompt))
    with pytest.raises(ValueError, match=r"'What brand\?' on 'ab'\) has no prompt in the LLaVA question file"):
        TEXTVQA.read(tmp_path)


def test_vizwiz_asks_as_the_released_file_does(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/benchmark_formats/vizwiz/bunny_test.jsonl.gz"
    lines = [json.loads(line) for line in gzip.decompress(source.read_bytes()).decode().split("\n") if line]
    entries = [{"image": line["image"], "question": line["text"].split("\nWhen the prov")[0]} for line in lines]
    (tmp_path / "test.json").write_text(json.dumps(entries))
    rows = VIZWIZ_TEST.read(tmp_path)
    assert len(rows) == 8000
    assert [row.turns[0].text for row in rows] == [f"<image>\n{line['text']}" for line in lines]
    VIZWIZ_TEST.write_answers(rows, {row.id: "Unanswerable." for row in rows}, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written[0] == {"image": "VizWiz_test_00000000.jpg", "answer": "unanswerable"}


def test_vizwiz_val(tmp_path: Path) -> None:
    people = [{"answer": "unanswerable", "answer_confidence": "yes"}] * 10
    entry = {"image": "a.jpg", "question": "What?", "answers": people, "answer_type": "unanswerable", "answerable": 0}
    (tmp_path / "val.json").write_text(json.dumps([entry]))
    rows = VIZWIZ.read(tmp_path)
    score = VIZWIZ.score(rows, {"a.jpg": "Unanswerable"})
    assert score.numbers == {"accuracy": 100, "answer_type unanswerable": 100}
    assert VIZWIZ.score(rows, {"a.jpg": ""}).headline[1] == 0


def test_a_question_without_ten_people() -> None:
    with pytest.raises(
        ValueError, match=r"vizwiz: row '1' has 3 people's answers, expected 10; answers of test splits"
    ):
        people_of("vizwiz", asked("1", "?", answers=["a", "b", "c"]))
