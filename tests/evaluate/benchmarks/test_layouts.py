"""Every layout in which people have a benchmark is read, its pictures are found, and a part of it is called a part."""

from pathlib import Path

import numpy as np
import pytest

from moiety.evaluate.benchmarks.files.layouts import SITE, Layout, Questions, questions_in
from moiety.evaluate.benchmarks.registry import BENCHMARKS, layouts_table
from moiety.evaluate.benchmarks.run import score_answers
from tests.evaluate.benchmarks.made_layouts import FREE, Case, mme_release, pope_mixed, pope_repository, table
from tests.evaluate.benchmarks.made_letter_layouts import LETTERED, cmmmu_hub_part, mmmu_subject
from tests.evaluate.benchmarks.made_options import write_lines

CASES = (*FREE, *LETTERED)
DOCS = Path(__file__).parents[3] / "docs" / "benchmarks.md"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_folder_as_people_have_it_is_read_and_scored(case: Case, tmp_path: Path) -> None:
    right = case.make(tmp_path / "folder")
    benchmark = BENCHMARKS[case.benchmark]
    questions = benchmark.questions(tmp_path / "folder")
    rows = questions.rows
    assert {row.id for row in rows} == set(right)
    pictures = questions.pictures()
    shown = [name for row in rows for name in row.images]
    assert shown
    assert all(name in pictures and pictures[name].size == (16, 16) for name in shown)
    assert "never.png" not in pictures
    assert ", ".join(part for part in (benchmark.portion(rows), questions.part) if part) == case.part
    if benchmark.scorer is None:
        return
    write_lines(tmp_path / "answers.jsonl", [{"id": name, "prediction": text} for name, text in right.items()])
    score, num_all = score_answers(case.benchmark, tmp_path / "folder", tmp_path / "answers.jsonl")
    assert (score.part, score.to_dict()["part"], num_all) == (case.part, case.part, len(rows))
    assert score.headline[1] == {"mme": 200.0 * len(rows) / 2, "ocrbench": len(rows)}.get(case.benchmark, 100)


def test_what_lies_there_and_was_not_asked_is_noted(tmp_path: Path) -> None:
    right = pope_mixed(tmp_path)
    write_lines(tmp_path / "answers.jsonl", [{"id": name, "text": text} for name, text in right.items()])
    score, _ = score_answers("pope", tmp_path, tmp_path / "answers.jsonl")
    assert score.notes[0] == "only coco is asked; to ask gqa, put it into another folder"
    assert "adversarial F1" not in score.numbers


def test_pictures_of_the_hub_are_told_apart(tmp_path: Path) -> None:
    cmmmu_hub_part(tmp_path)
    questions = BENCHMARKS["cmmmu"].questions(tmp_path)
    name = questions.rows[0].images[0]  # a.png, which is the second picture of its row
    assert int(np.asarray(questions.pictures()[name])[0, 0, 0]) == 2


@pytest.mark.parametrize("name", ["Pope", "POPE", "lmms-lab--POPE", "datasets--lmms-lab--POPE"])
def test_a_folder_has_the_name_under_which_people_keep_it(name: str, tmp_path: Path) -> None:
    pope_repository(tmp_path / name)
    found = BENCHMARKS["pope"].folder_in(tmp_path)
    assert found.name == name
    assert len(BENCHMARKS["pope"].read(found)) == 6


def test_the_folder_of_a_part_can_be_given_itself(tmp_path: Path) -> None:
    mme_release(tmp_path)
    for task, name in (("OCR", "0001.png"), ("posters", "7.jpg")):
        questions = BENCHMARKS["mme"].questions(tmp_path / "MME_Benchmark_release_version/MME_Benchmark" / task)
        assert [row.id for row in questions.rows] == [f"{task}/{name}/1", f"{task}/{name}/2"]
        assert questions.pictures()[f"{task}/{name}"].size == (16, 16)
    mmmu_subject(tmp_path)
    assert len(BENCHMARKS["mmmu"].read(tmp_path / "Art_Theory")) == 1


def test_folders_of_the_bundle_are_known_by_their_names(tmp_path: Path) -> None:
    for folder, name in {"MME": "mme", "mm-vet": "mmvet", "seed_bench": "seed", "vqav2": "vqav2_testdev"}.items():
        (tmp_path / folder).mkdir()
        assert BENCHMARKS[name].folder_in(tmp_path) == tmp_path / folder
    assert BENCHMARKS["mme"].folder_in(tmp_path / "MME") == tmp_path / "MME"
    assert BENCHMARKS["gqa"].folder_in(tmp_path) == tmp_path / "gqa"
    (tmp_path / "mme").mkdir()
    assert BENCHMARKS["mme"].folder_in(tmp_path) == tmp_path / "mme"


# -- what is missing ---------------------------------------------------------------------------------------------------
def test_what_is_missing_is_named_once_with_the_layouts_that_would_do(tmp_path: Path) -> None:
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text("{}")
    with pytest.raises(FileNotFoundError) as told:
        BENCHMARKS["vqav2"].read(tmp_path)
    text = str(told.value)
    missing = "v2_mscoco_val2014_annotations.json"
    assert text.startswith(f"vqav2: {tmp_path} lacks {missing} (its own release is there in part)")
    assert "expected there, any one of:\n  its own release: v2_OpenEnded" in text
    assert "\n  the hub: data/validation-*.parquet" in text


def test_a_broken_archive_is_told_of_where_the_questions_are_missing(tmp_path: Path) -> None:
    (tmp_path / "questions1.2.zip").write_text("PK half")
    with pytest.raises(
        FileNotFoundError, match=r"gqa: no questions in .*; .*1.2.zip is not a complete archive .*; expected"
    ):
        BENCHMARKS["gqa"].read(tmp_path)


def test_the_first_layout_that_is_whole_is_read(tmp_path: Path) -> None:
    def never(release: object) -> Questions:
        raise AssertionError("not whole")

    whole = Questions([], dict)
    layouts = [
        Layout(SITE, ("a.json", ("b.json", "c.json")), never),
        Layout("another", ("a.json",), lambda release: whole, "a file", "pictures"),
    ]
    assert [layout.in_words for layout in layouts] == ["a.json and b.json", "a file; pictures"]
    (tmp_path / "a.json").write_text("")
    assert questions_in(tmp_path, layouts) is whole
    with pytest.raises(FileNotFoundError, match=r".* lacks b.json \(its own release is there in part\)"):
        questions_in(tmp_path, layouts[:1])
    with pytest.raises(FileNotFoundError, match=r"no folder .*none; expected there, any one of:\n  its own release: a"):
        questions_in(tmp_path / "none", layouts)


def test_what_the_hub_cannot_say_is_refused(tmp_path: Path) -> None:
    entry = {"question_id": "OCR/1.png", "question": "?", "answer": "Yes", "category": "reading"}
    table(tmp_path / "mme/data/test-00000-of-00001.parquet", [entry])
    with pytest.raises(ValueError, match=r"category 'reading' and answer 'Yes'; expected a task of MME and Yes or No"):
        BENCHMARKS["mme"].read(tmp_path / "mme")
    table(tmp_path / "chartqa/data/test-00000-of-00001.parquet", [{"type": "x", "question": "?", "answer": "1"}])
    with pytest.raises(ValueError, match=r"expected a question by people or by machine with its answer, got \{'type'"):
        BENCHMARKS["chartqa"].read(tmp_path / "chartqa")
    entry = {"id": "validation_Dance_1", "question": "?", "options": "[]", "answer": "A", "question_type": "open"}
    table(tmp_path / "mmmu/data/validation-00000-of-00001.parquet", [entry])
    with pytest.raises(ValueError, match=r"'validation_Dance_1', names no subject of MMMU; ids look like validation_A"):
        BENCHMARKS["mmmu"].read(tmp_path / "mmmu")


def test_the_docs_name_every_layout() -> None:
    assert layouts_table() in DOCS.read_text(encoding="utf-8")
