"""MMMU and CMMMU: letters, free answers and domains of the released scorers, and no draw of lots."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.files.parquet import HubTable, ParquetPictures
from moiety.evaluate.benchmarks.sets.cmmmu import CATEGORIES, CMMMU, official_letters, sound_letters
from moiety.evaluate.benchmarks.sets.mmmu import (
    DOMAINS,
    MMMU,
    SUBJECTS,
    in_place,
    lmms_letter,
    official_letter,
    open_candidates,
)
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores

CHOICE = "multiple-choice"


# -- MMMU --------------------------------------------------------------------------------------------------------------
def test_letters_equal_both_public_extractions(shared: Path) -> None:
    lines = golden_rows(shared, "mmmu", "letters.jsonl")
    assert lines
    for line in lines:
        assert (official_letter(line["text"], line["options"]) or "random") == line["mmmu_official"]
        assert (lmms_letter(line["text"], line["options"]) or "random") == line["lmms_eval"]


def test_mmmu_equals_the_public_evaluation(shared: Path) -> None:
    lines = golden_rows(shared, "mmmu")
    rows = []
    for line in lines:
        gold = line["ground_truth"] if isinstance(line["ground_truth"], list) else [line["ground_truth"]]
        subject = line["id"].removeprefix("validation_").rsplit("_", 1)[0]
        extra = {"question_type": line["question_type"], "subject": subject}
        rows.append(asked(line["id"], "?", answers=gold, choices="wxyz", extra=extra))
        if line["question_type"] != CHOICE:
            assert sorted(map(str, open_candidates(line["text"]))) == sorted(map(str, line["parsed"]))
    score = checked_score(MMMU, rows, {line["id"]: line["text"] for line in lines}, "parsed")
    assert score.correct == {line["id"]: line["moiie_correct"] for line in lines}
    expected = golden_scores(shared, "mmmu")["moiie"]
    assert round(score.headline[1] / 100, 3) == expected.pop("Overall")["acc"]
    assert {name: round(value / 100, 3) for name, value in score.numbers.items() if name != "accuracy"} == {
        name: entry["acc"] for name, entry in expected.items()
    }


def test_a_text_without_a_letter_is_wrong_or_one_over_n_but_never_drawn() -> None:
    extra = {"question_type": CHOICE, "subject": "Art"}
    rows = [asked("1", "?", answers=["B"], choices="wxyz", extra=extra)]
    marks = {rule: MMMU.score(rows, {"1": "I do not know"}, rule).headline[1] for rule in MMMU.rules}
    assert marks == {"sound": 0, "official": 25, "lmms_eval": 25, "parsed": 0}
    assert MMMU.score(rows, {"1": ""}, "official").notes == (
        "1 answers name no option and count as options drawn at random",
    )


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), shade).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def mmmu_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("mmmu")
    for shade, subject in enumerate(SUBJECTS):
        picture = {"bytes": png(shade), "path": "1.png"}
        lines: list[Mapping[str, Any]] = [
            {"question": "See <image 1>.", "options": "['w', 'x <image 2>']", "answer": "B", "question_type": CHOICE},
            {"question": "How many?", "options": "[]", "answer": "['two', '2']", "question_type": "open"},
        ]
        table = [
            {
                **line,
                "id": f"validation_{subject}_{place}",
                "image_1": picture,
                "image_2": picture if place == 1 else None,
            }
            for place, line in enumerate(lines, start=1)
        ]
        (folder / subject).mkdir()
        name = folder / subject / "validation-00000-of-00001.parquet"
        parquet.write_table(arrow.Table.from_pylist(table), name)
    return folder


def test_mmmu_reads_the_published_files(mmmu_folder: Path) -> None:
    rows = MMMU.read(mmmu_folder)
    assert len(rows) == 60
    assert sum(map(len, DOMAINS.values())) == 30
    request = "Answer with the option's letter from the given choices directly."
    assert rows[0].turns[0].text == f"See <image>.\n\n(A) w\n(B) x <image>\n\n{request}"
    assert rows[0].images == ("Art#0#image_1", "Art#0#image_2")
    assert rows[1].turns[0].text == "<image>\nHow many?\n\nAnswer the question using a single word or phrase."
    assert rows[1].answers == ("two", "2")
    pictures = MMMU.pictures(mmmu_folder)
    assert int(np.asarray(pictures["Design#1#image_1"])[0, 0, 0]) == SUBJECTS.index("Design")
    shown = ("Art#0#image_2", "Art#1#image_2", "Art#9#image_1", "Law#0#image_1")
    assert [name in pictures for name in shown] == [True, False, False, False]
    with pytest.raises(FileNotFoundError, match=r"row 1 of .*Art.* has none in column 'image_2'"):
        pictures["Art#1#image_2"]
    with pytest.raises(FileNotFoundError, match=r"picture 'Law#0#image_1' is in none of 30 parquet files"):
        pictures["Law#0#image_1"]
    for rule in MMMU.rules:
        perfect = {row.id: row.answers[0] for row in rows}
        assert checked_score(MMMU, rows, perfect, rule).headline[1] == 100
        silent = checked_score(MMMU, rows, dict.fromkeys(perfect, ""), rule).headline[1]
        assert silent == MMMU.floor(rows, rule) == (25 if rule in ("official", "lmms_eval") else 0)


def test_mmmu_refuses_options_that_are_none(mmmu_folder: Path, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    entry = {"id": "validation_Art_1", "question": "?", "options": "['w']", "answer": "A", "question_type": CHOICE}
    (tmp_path / "Art").mkdir()
    parquet.write_table(arrow.Table.from_pylist([entry]), tmp_path / "Art" / "validation-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"question 0, 'validation_Art_1', has 1 options; fetch the file again"):
        MMMU.read(tmp_path)


def test_mmmu_refuses_what_is_no_list(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    entry = {"id": "validation_Art_1", "question": "?", "options": "[1,", "answer": "A", "question_type": CHOICE}
    (tmp_path / "Art").mkdir()
    parquet.write_table(arrow.Table.from_pylist([entry]), tmp_path / "Art" / "validation-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"question 0: expected a list, got '\[1,'; fetch the file again"):
        MMMU.read(tmp_path)


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"a.parquet is not a complete parquet file .*; fetch it again"):
        list(HubTable({"a": tmp_path / "a.parquet"}).rows())


def test_without_pyarrow_the_install_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"is a parquet file; to read it: pip install pyarrow"):
        ParquetPictures({"a": tmp_path / "a.parquet"})["a#0#image"]


def test_pictures_stand_where_they_are_first_mentioned() -> None:
    assert in_place("<image 1> or <image 1> or <image 7>", ["image_1"]) == (
        "<image> or image 1 or image 7",
        ["image_1"],
    )
    assert in_place("no mention of <image>", ["image_1"]) == ("<image>\nno mention of image", ["image_1"])


# -- CMMMU -------------------------------------------------------------------------------------------------------------
def test_cmmmu_equals_the_public_evaluation(shared: Path) -> None:
    lines = golden_rows(shared, "cmmmu")
    rows = [
        asked(
            str(line["id"]),
            "?",
            choices=line.get("options", ()),
            type=line["type"],
            extra={"answer": line["answer"], "category": line["category"]},
        )
        for line in lines
    ]
    score = checked_score(CMMMU, rows, {str(line["id"]): line["response"] for line in lines}, "official")
    assert score.correct == {str(line["id"]): line["correct"] for line in lines}
    expected = golden_scores(shared, "cmmmu")["official"]
    assert f"{score.headline[1] / 100:.6g}" == f"{expected.pop('Overall')['accuracy_printed']:.6g}"
    assert {name: f"{value / 100:.6g}" for name, value in score.numbers.items() if name != "accuracy"} == {
        name: f"{entry['accuracy_printed']:.6g}" for name, entry in expected.items()
    }
    for line in lines:
        if line["type"] == "选择":
            assert official_letters(line["response"], line["options"]) == line["parsed"]


def test_cmmmu_official_file(shared: Path) -> None:
    rows = CMMMU.read(shared / "data" / "benchmark_formats" / "cmmmu")
    assert len(rows) == 900
    first = rows[0]
    assert first.images == ("q_01900_001.jpg",)
    assert first.turns[0].text.startswith("请回答以下多项选择题")
    assert "\n\n问题：<image>为一幅灰度图" in first.turns[0].text
    assert first.turns[0].text.endswith("直接调节色彩属性参数\n\n正确答案：\n")
    assert all(row.num_marks == len(row.images) for row in rows)
    perfect = {row.id: row.answers[0] for row in rows}
    for rule in CMMMU.rules:
        assert checked_score(CMMMU, rows, perfect, rule).headline[1] == 100
        silent = checked_score(CMMMU, rows, dict.fromkeys(perfect, ""), rule).headline[1]
        assert silent == pytest.approx(CMMMU.floor(rows, rule))
    assert CMMMU.floor(rows, "official") == pytest.approx(100 * 44 / 900)


def test_the_sound_rule_of_cmmmu_takes_a_denial_for_one() -> None:
    extra = {"answer": "错", "category": next(iter(CATEGORIES))}
    rows = [asked("1", "?", type="判断", extra=extra)]
    told = {rule: CMMMU.score(rows, {"1": "这个说法不正确"}, rule).headline[1] for rule in CMMMU.rules}
    assert told == {"sound": 100, "official": 0}
    assert CMMMU.score(rows, {"1": "是否正确"}, "official").headline[1] == 50


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("（C）", "C"),
        ("A,B,D", "ABD"),
        ("正确答案：B", "B"),
        ("选项是A和C。", "AC"),
        ("DNA 是", ""),
        ("", ""),
    ],
)
def test_sound_letters(text: str, letters: str) -> None:
    assert sound_letters(text, ["w", "x", "y", "z"]) == letters


def test_cmmmu_refuses_unknown_types(tmp_path: Path) -> None:
    line = {"id": 1, "type": "问答", "category": "商业", "question": "?", "answer": "A"}
    (tmp_path / "cmmmu-data-val-answer.jsonl").write_text(json.dumps(line))
    with pytest.raises(
        ValueError, match=r"jsonl:1: type '问答' and category '商业'; expected one of 选择, 判断, 填空 and"
    ):
        CMMMU.read(tmp_path)


def test_cmmmu_reads_the_six_parts(shared: Path, tmp_path: Path) -> None:
    whole = CMMMU.read(shared / "data" / "benchmark_formats" / "cmmmu")
    line = {"type": "填空", "category": "商业", "question": '<img="a.png">', "answer": "1"}
    parts = ["art_and_design", "business", "science", "health_and_medicine", "humanities_and_social_sciences"]
    for number, part in enumerate([*parts, "technology_and_engineering"]):
        folder = tmp_path / "cmmmu-data-val" / part
        folder.mkdir(parents=True)
        (folder / f"{part}.jsonl").write_text(json.dumps({**line, "id": number}))
        Image.new("L", (1, 1), number).save(folder / f"{number}.png")
    assert [row.id for row in CMMMU.read(tmp_path)] == list("012345")
    assert int(np.asarray(CMMMU.pictures(tmp_path)["4.png"])[0, 0, 0]) == 4
    assert len(whole) == 900
