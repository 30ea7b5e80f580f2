"""Small folders in the layouts in which people have benchmarks: releases, LLaVA's bundle, tables of the hub."""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.benchmarks.made import PEOPLE, hallusion
from tests.evaluate.benchmarks.made import gqa as gqa_entry
from tests.evaluate.benchmarks.made_options import picture, png, write_lines

Right = dict[str, str]
SHOWN = {"bytes": png(40), "path": "was.png"}


@dataclass(frozen=True)
class Case:
    """One folder.

    Args:
        benchmark: Name of the benchmark.
        make: Writes the folder and gives right answers by id.
        part: What the score has to say of it; empty: it is the whole.
    """

    benchmark: str
    make: Callable[[Path], Right]
    part: str = ""

    @property
    def name(self) -> str:
        return f"{self.benchmark}-{self.make.__name__}"


def document(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A parquet file in row groups of two rows."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist([dict(row) for row in rows]), path, row_group_size=2)


# -- POPE --------------------------------------------------------------------------------------------------------------
def _pope_lines(picture_name: str) -> list[dict[str, Any]]:
    return [
        {"question_id": number, "image": picture_name, "text": f"Is there a {thing} in the image?", "label": label}
        for number, (thing, label) in enumerate((("dog", "yes"), ("cat", "no")), start=1)
    ]


def _pope(folder: Path, files: Mapping[str, str], picture_name: str = "COCO_val2014_000000000001.jpg") -> Right:
    for category, name in files.items():
        write_lines(folder / name.format(category), _pope_lines(picture_name))
    return {f"{category}/{number}": label for category in files for number, label in ((1, "yes"), (2, "no"))}


def pope_repository(folder: Path) -> Right:
    document(folder / "output/coco/coco_ground_truth_objects.json", {})
    picture(folder / "val2014/COCO_val2014_000000000001.jpg", 1)
    return _pope(folder, dict.fromkeys(("random", "popular", "adversarial"), "output/coco/coco_pope_{}.json"))


def pope_one_category(folder: Path) -> Right:
    picture(folder / "COCO_val2014_000000000001.jpg", 1)
    return _pope(folder, {"popular": "coco_pope_{}.json"})


def pope_gqa(folder: Path) -> Right:
    picture(folder / "gqa/images/1.jpg", 1)
    files = dict.fromkeys(("random", "popular", "adversarial"), "gqa/gqa_pope_{}.json")
    return _pope(folder, files, "1.jpg")


def pope_mixed(folder: Path) -> Right:
    picture(folder / "COCO_val2014_000000000001.jpg", 1)
    _pope(folder, {"adversarial": "gqa_pope_{}.json"})
    return _pope(folder, dict.fromkeys(("random", "popular"), "coco_pope_{}.json"))


def pope_bundle_of_one_category(folder: Path) -> Right:
    _pope(folder, {"random": "coco/coco_pope_{}.json"})
    picture(folder / "val2014/COCO_val2014_000000000001.jpg", 1)
    lines = [
        {"question_id": number, "image": line["image"], "text": line["text"] + "\nShort.", "category": category}
        for category in ("adversarial", "random")
        for number, line in enumerate(_pope_lines("COCO_val2014_000000000001.jpg"), start=len(category))
    ]
    short = "Answer the question using a single word or phrase."
    write_lines(folder / "llava_pope_test.jsonl", [{**x, "text": x["text"].replace("Short.", short)} for x in lines])
    return {"6": "yes", "7": "no"}


def pope_bundle_asked_in_one_category(folder: Path) -> Right:
    pope_repository(folder)
    lines = [{**line, "category": "popular"} for line in _pope_lines("COCO_val2014_000000000001.jpg")]
    write_lines(folder / "llava_pope_test.jsonl", lines)
    return {"1": "yes", "2": "no"}


def _pope_hub(category: str) -> list[dict[str, Any]]:
    return [
        {"question_id": str(line["question_id"]), "question": line["text"], "answer": line["label"], "image": SHOWN}
        | {"category": category, "image_source": "COCO_val2014_000000000001"}
        for line in _pope_lines("")
    ]


def pope_hub(folder: Path) -> Right:
    categories = ("adversarial", "popular", "random")
    for number, category in enumerate(categories):
        table(folder / f"data/test-0000{number}-of-00003.parquet", _pope_hub(category))
    return {f"{name}/{number}": label for name in categories for number, label in ((1, "yes"), (2, "no"))}


def pope_hub_with_a_file_missing(folder: Path) -> Right:
    for number, category in ((0, "adversarial"), (2, "random")):
        table(folder / f"data/test-0000{number}-of-00003.parquet", _pope_hub(category))
    return {
        f"{name}/{number}": label for name in ("adversarial", "random") for number, label in ((1, "yes"), (2, "no"))
    }


def pope_hub_full(folder: Path) -> Right:
    table(folder / "Full/popular-00000-of-00001.parquet", _pope_hub("popular"))
    return {"popular/1": "yes", "popular/2": "no"}


# -- MME ---------------------------------------------------------------------------------------------------------------
def mme_release(folder: Path) -> Right:
    below = folder / "MME_Benchmark_release_version" / "MME_Benchmark"
    for name, shown in {"OCR/0001": "OCR/0001.png", "posters/questions_answers_YN/7": "posters/images/7.jpg"}.items():
        (below / name).parent.mkdir(parents=True)
        (below / f"{name}.txt").write_text("Is it? Please answer yes or no.\tYes\nIs it not?\tNo\n")
        picture(below / shown, 5)
    right = {"posters/7.jpg/1": "Yes", "posters/7.jpg/2": "No"}
    return right | {"OCR/0001.png/1": "Yes", "OCR/0001.png/2": "No"}


def mme_bundle(folder: Path) -> Right:
    (folder / "eval_tool/Your_Results").mkdir(parents=True)
    line = "0001.png\tIs it?\tYes\tno\n0001.png\tIs it not?\tNo\tNo.\n"
    (folder / "eval_tool/Your_Results/OCR.txt").write_text(line)
    picture(folder / "MME_Benchmark_release_version/OCR/0001.png", 5)
    return {"OCR/0001.png/1": "Yes", "OCR/0001.png/2": "No"}


def mme_zipped(folder: Path) -> Right:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "MME_Benchmark_release_version.zip", "w") as packed:
        packed.writestr("MME_Benchmark_release_version/OCR/0001.txt", "Is it?\tYes\nIs it not?\tNo")
        packed.writestr("MME_Benchmark_release_version/OCR/0001.png", png(3))
    return {"OCR/0001.png/1": "Yes", "OCR/0001.png/2": "No"}


def mme_hub(folder: Path) -> Right:
    rows = [
        {"question_id": "OCR/0001.png", "question": f"{ask}? Please answer yes or no.", "answer": answer}
        | {"category": "OCR", "image": SHOWN}
        for ask, answer in (("Is it", "Yes"), ("Is it not", "No"))
    ]
    table(folder / "data/test-00000-of-00001-abc.parquet", rows)
    return {"OCR/0001.png/1": "Yes", "OCR/0001.png/2": "No"}


# -- free answers ------------------------------------------------------------------------------------------------------
def gqa_questions12(folder: Path) -> Right:
    for split, answer in (("val_balanced", "blue"), ("testdev_balanced", "red")):
        document(folder / f"data/questions1.2/{split}_questions.json", gqa_entry("1", "query", answer, "color"))
    picture(folder / "data/images/n1.jpg", 1)
    return {"1": "red"}


def gqa_packed(folder: Path) -> Right:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "questions1.2.zip", "w") as packed:
        packed.writestr("testdev_balanced_questions.json", json.dumps(gqa_entry("1", "query", "red", "color")))
    with zipfile.ZipFile(folder / "images.zip", "w") as packed:
        packed.writestr("images/n1.jpg", png(1))
    return {"1": "red"}


def gqa_val(folder: Path) -> Right:
    document(folder / "questions1.2/val_balanced_questions.json", gqa_entry("1", "query", "red", "color"))
    picture(folder / "images/n1.jpg", 1)
    return {"1": "red"}


def _gqa_hub(folder: Path, split: str) -> Right:
    short = split.split("_")[0]
    rows = [{"id": name, **entry} for name, entry in gqa_entry("1", "query", "red", "color").items()]
    table(folder / f"{split}_instructions/{short}-00000-of-00001.parquet", rows)
    table(folder / f"{split}_images/{short}-00000-of-00001.parquet", [{"id": "n1", "image": SHOWN}])
    return {"1": "red"}


def gqa_hub(folder: Path) -> Right:
    return _gqa_hub(folder, "testdev_balanced")


def gqa_hub_val(folder: Path) -> Right:
    return _gqa_hub(folder, "val_balanced")


def textvqa_text_ids(folder: Path) -> Right:
    entry = {"question_id": "34602", "image_id": "ab", "question": "Which?", "answers": ["red"] * 10}
    document(folder / "TextVQA_0.5.1_val.json", {"data": [entry]})
    with zipfile.ZipFile(folder / "train_val_images.zip", "w") as packed:
        packed.writestr("train_images/ab.jpg", png(1))
    return {"34602": "red"}


def textvqa_hub(folder: Path) -> Right:
    entry = {"question_id": 34602, "image_id": "ab", "question": "Which?", "answers": ["red"] * 10, "image": SHOWN}
    table(folder / "data/validation-00000-of-00001.parquet", [entry])
    return {"34602": "red"}


def _vqa_row() -> dict[str, Any]:
    people = [{**one, "answer_id": place} for place, one in enumerate(PEOPLE)]
    kinds = {"question_type": "which", "answer_type": "other", "answers": people}
    return {"question_id": 7, "image_id": 9, "question": "Which?", "image": SHOWN, **kinds}


def vqav2_hub(folder: Path) -> Right:
    table(folder / "data/validation-00000-of-00001.parquet", [_vqa_row()])
    return {"7": "red"}


def vqav2_text_ids(folder: Path) -> Right:
    row = {key: value for key, value in _vqa_row().items() if key != "image"} | {"question_id": "7", "image_id": "9"}
    document(folder / "Questions/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [row]})
    document(folder / "Annotations/v2_mscoco_val2014_annotations.json", {"annotations": [row]})
    picture(folder / "val2014/COCO_val2014_000000000009.jpg", 1)
    return {"7": "red"}


def vqav2_testdev_bundle(folder: Path) -> Right:
    line = {"question_id": 7, "image": "COCO_test2015_000000000009.jpg", "text": "Which?", "category": "default"}
    write_lines(folder / "llava_vqav2_mscoco_test-dev2015.jsonl", [line])
    picture(folder / "test2015/COCO_test2015_000000000009.jpg", 1)
    return {"7": "red"}


def vqav2_testdev_hub(folder: Path) -> Right:
    table(folder / "data/testdev-00000-of-00001.parquet", [_vqa_row() | {"answers": None}])
    return {"7": "red"}


def vizwiz_site(folder: Path) -> Right:
    document(folder / "Annotations/val.json", [{"image": "a.jpg", "question": "What?", "answers": PEOPLE}])
    picture(folder / "val/a.jpg", 1)
    return {"a.jpg": "red"}


def vizwiz_hub(folder: Path) -> Right:
    entry = {"question_id": "a.jpg", "question": "What?", "answers": ["red"] * 10, "category": "other"}
    table(folder / "data/val-00000-of-00001.parquet", [entry | {"image": SHOWN}])
    return {"a.jpg": "red"}


def vizwiz_test_bundle(folder: Path) -> Right:
    write_lines(folder / "llava_test.jsonl", [{"question_id": 0, "image": "a.jpg", "text": "What?"}])
    picture(folder / "test/a.jpg", 1)
    return {"a.jpg": "red"}


def vizwiz_test_hub(folder: Path) -> Right:
    entry = {"question_id": "a.jpg", "question": "What?", "answers": None, "category": None, "image": SHOWN}
    table(folder / "data/test-00000-of-00001.parquet", [entry])
    return {"a.jpg": "red"}


DOCUMENT = {"questionId": 1, "question": "Who?", "image": "documents/x_1.png", "answers": ["Ann"]}


def docvqa_site(folder: Path) -> Right:
    document(folder / "spdocvqa_qas/val_v1.0_withQT.json", {"data": [DOCUMENT]})
    picture(folder / "spdocvqa_images/x_1.png", 1)
    return {"1": "Ann"}


def docvqa_hub(folder: Path) -> Right:
    pages = {"ucsf_document_id": "x", "ucsf_document_page_no": "1", "image": SHOWN, "questionId": "1"}
    table(folder / "DocVQA/validation-00000-of-00001.parquet", [DOCUMENT | pages])
    table(folder / "InfographicVQA/validation-00000-of-00001.parquet", [DOCUMENT | pages | {"questionId": "2"}])
    return {"1": "Ann"}


def docvqa_test_hub(folder: Path) -> Right:
    pages = {"ucsf_document_id": "x", "ucsf_document_page_no": "1", "image": SHOWN, "questionId": "1", "answers": None}
    table(folder / "DocVQA/test-00000-of-00001.parquet", [DOCUMENT | pages])
    return {"1": "Ann"}


def chartqa_repository(folder: Path) -> Right:
    for half in ("human", "augmented"):
        entry = {"imgname": "1.png", "query": "How many?", "label": "14"}
        document(folder / f"ChartQA Dataset/test/test_{half}.json", [entry])
        document(folder / f"ChartQA Dataset/val/val_{half}.json", [entry | {"label": "3"}])
    picture(folder / "ChartQA Dataset/test/png/1.png", 1)
    return {"human/0": "14", "augmented/0": "14"}


def chartqa_half(folder: Path) -> Right:
    document(folder / "test_human.json", [{"imgname": "1.png", "query": "How many?", "label": "14"}])
    picture(folder / "png/1.png", 1)
    return {"human/0": "14"}


def chartqa_val(folder: Path) -> Right:
    document(folder / "val/val_human.json", [{"imgname": "1.png", "query": "How many?", "label": "14"}])
    picture(folder / "val/png/1.png", 1)
    return {"human/0": "14"}


def chartqa_hub(folder: Path) -> Right:
    rows = [
        {"type": f"{half}_test", "question": "How many?", "answer": "14", "image": SHOWN}
        for half in ("human", "augmented")
    ]
    table(folder / "data/test-00000-of-00001.parquet", rows)
    return {"human/0": "14", "augmented/0": "14"}


def chartqa_other_hub(folder: Path) -> Right:
    rows = [{"human_or_machine": who, "query": "How many?", "label": ["14"], "image": SHOWN} for who in (1, 0)]
    table(folder / "data/test-00000-of-00001-e2cd0b7a0f9eb20d.parquet", rows)
    return {"human/0": "14", "augmented/0": "14"}


def mathvista_hub(folder: Path) -> Right:
    entry = {"pid": "1", "image": "images/1.jpg", "unit": None, "precision": 1.0, "question": "What?"}
    entry |= {"choices": None, "answer": "1.2", "question_type": "free_form", "answer_type": "float"}
    entry |= {"decoded_image": SHOWN, "query": "x", "metadata": {"grade": "high school"}}
    table(folder / "data/testmini-00000-of-00001-abc.parquet", [entry])
    return {"1": "1.2"}


def hallusionbench_hub(folder: Path) -> Right:
    table(folder / "data/non_image-00000-of-00001.parquet", [hallusion("0", None)])
    table(folder / "data/image-00000-of-00001.parquet", [hallusion("1", "./VS/map/0_1.png") | {"image": SHOWN}])
    return {"VS/map/0/0/0": "yes", "VS/map/0/1/0": "yes"}


def hallusionbench_with_figure(folder: Path) -> Right:
    entries = [hallusion("1", "./VS/map/0_1.png"), hallusion("1", "./VS/map/0_1.png") | {"category": "VD"}]
    table(folder / "data/image-00000-of-00001.parquet", [entry | {"image": SHOWN} for entry in entries])
    return {"VS/map/0/1/0": "yes", "VD/map/0/1/0": "yes"}


def mmvet_hub(folder: Path) -> Right:
    entry = {"question_id": "v1_0", "question": "?", "answer": "1", "capability": "ocr,math", "image": SHOWN}
    table(folder / "data/test-00000-of-00001.parquet", [entry])
    return {"v1_0": "1"}


def ocrbench_hub(folder: Path) -> Right:
    entry = {"dataset": "SVT", "question": "?", "question_type": "text", "answer": ["Exit"], "image": SHOWN}
    table(folder / "data/test-00000-of-00001.parquet", [entry])
    return {"0": "Exit"}


SENTENCE = {"identifier": "dev-1-0-0", "sentence": "It is.", "label": "True"}


def nlvr2_repository(folder: Path) -> Right:
    write_lines(folder / "nlvr2/data/dev.json", [SENTENCE])
    write_lines(folder / "nlvr/dev/dev.json", [{"identifier": "1-0", "sentence": "?", "label": "true"}])
    for side in (0, 1):
        picture(folder / f"images/dev/dev-1-0-img{side}.png", side)
    return {"dev-1-0-0": "True"}


def nlvr2_test(folder: Path) -> Right:
    write_lines(folder / "test1.json", [SENTENCE | {"identifier": "test1-1-0-0"}])
    for side in (0, 1):
        picture(folder / f"test1/test1-1-0-img{side}.png", side)
    return {"test1-1-0-0": "True"}


def nlvr2_hub(folder: Path) -> Right:
    entry = {"question_id": "dev-1-0-0", "question": "It is.", "answer": "True"}
    table(folder / "data/balanced_dev-00000-of-00001.parquet", [entry | {"left_image": SHOWN, "right_image": SHOWN}])
    return {"dev-1-0-0": "True"}


FREE = (
    Case("pope", pope_repository),
    Case("pope", pope_one_category, "popular"),
    Case("pope", pope_gqa, "gqa"),
    Case("pope", pope_mixed, "random, popular"),
    Case("pope", pope_bundle_of_one_category, "random"),
    Case("pope", pope_bundle_asked_in_one_category, "popular"),
    Case("pope", pope_hub),
    Case("pope", pope_hub_with_a_file_missing, "random, adversarial, 2 of 3 files of test"),
    Case("pope", pope_hub_full, "popular"),
    Case("mme", mme_release, "posters, OCR"),
    Case("mme", mme_bundle, "OCR"),
    Case("mme", mme_zipped, "OCR"),
    Case("mme", mme_hub, "OCR"),
    Case("gqa", gqa_questions12),
    Case("gqa", gqa_packed),
    Case("gqa", gqa_val, "val_balanced"),
    Case("gqa", gqa_hub),
    Case("gqa", gqa_hub_val, "val_balanced"),
    Case("textvqa", textvqa_text_ids),
    Case("textvqa", textvqa_hub),
    Case("vqav2", vqav2_hub),
    Case("vqav2", vqav2_text_ids),
    Case("vqav2_testdev", vqav2_testdev_bundle),
    Case("vqav2_testdev", vqav2_testdev_hub),
    Case("vizwiz", vizwiz_site),
    Case("vizwiz", vizwiz_hub),
    Case("vizwiz_test", vizwiz_test_bundle),
    Case("vizwiz_test", vizwiz_test_hub),
    Case("docvqa", docvqa_site),
    Case("docvqa", docvqa_hub),
    Case("docvqa_test", docvqa_test_hub),
    Case("chartqa", chartqa_repository),
    Case("chartqa", chartqa_half, "human"),
    Case("chartqa", chartqa_val, "val human"),
    Case("chartqa", chartqa_hub),
    Case("chartqa", chartqa_other_hub),
    Case("mathvista", mathvista_hub),
    Case("hallusionbench", hallusionbench_hub, "VS with figure, VS without figure"),
    Case("hallusionbench", hallusionbench_with_figure, "VS with figure, VD with figure"),
    Case("mmvet", mmvet_hub),
    Case("ocrbench", ocrbench_hub),
    Case("nlvr2", nlvr2_repository),
    Case("nlvr2", nlvr2_test, "test1"),
    Case("nlvr2", nlvr2_hub, "balanced_dev"),
)
