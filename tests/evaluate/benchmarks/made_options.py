"""Small folders in the official form of the benchmarks of verdicts and letters, and answers right by every rule."""

import base64
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moiety.evaluate.benchmarks.sets.cmmmu import CATEGORIES
from moiety.evaluate.benchmarks.sets.mme import COGNITION, PERCEPTION
from moiety.evaluate.benchmarks.sets.mmmu import SUBJECTS
from moiety.evaluate.benchmarks.sets.pope import CATEGORIES as POPE_CATEGORIES

Right = dict[str, str]


def png(shade: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (shade % 256, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(shade))


def pope(folder: Path) -> Right:
    right = {}
    things = ("dog", "red car", "bench", "clock")
    for category in POPE_CATEGORIES:
        lines = []
        for number, thing in enumerate(things):
            label = ("yes", "no")[number % 2]
            asked = f"Is there a {thing} in the image?"
            lines.append({"question_id": number, "image": f"{number // 2}.png", "text": asked, "label": label})
            picture(folder / "val2014" / f"{number // 2}.png", 99 * number)
            right[f"{category}/{number}"] = label.capitalize()
        write_lines(folder / "coco" / f"coco_pope_{category}.json", lines)
    return right


def mme(folder: Path) -> Right:
    right = {}
    for shade, task in enumerate((*PERCEPTION, *COGNITION)):
        folder.mkdir(exist_ok=True)
        lines = ["a.png\tIs it? Please answer yes or no.\tYes", "a.png\tIs it not? Please answer yes or no.\tNo"]
        (folder / f"{task}.txt").write_text("\n".join(lines))
        picture(folder / task / "a.png", shade)
        right |= {f"{task}/a.png/1": "Yes", f"{task}/a.png/2": "No"}
    return right


def mmbench(folder: Path, name: str = "mmbench_dev_20230712.tsv", with_answers: bool = True) -> Right:
    head = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category")
    cell = base64.b64encode(png(3)).decode()
    right = {"1": "B", "1000001": "A", "2": "D"}
    options = {"1": ("red", "blue", "", ""), "1000001": ("blue", "red", "", ""), "2": ("w", "x", "y", "z")}
    lines = [
        (index, "Which?", "nan", *options[index], letter * with_answers, "colour", cell, "perception")
        for index, letter in right.items()
    ]
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join("\t".join(line) for line in (head, *lines)))
    return right


def mmbench_test(folder: Path) -> Right:
    return mmbench(folder, "mmbench_test_20230712.tsv", with_answers=False)


def seed(folder: Path) -> Right:
    entry = {"question": "What?", "choice_a": "w", "choice_b": "x", "choice_c": "y", "choice_d": "z"}
    kinds = (("7", "image", "B"), ("8", "video", "A"), ("9", "image", "D"))
    questions = [
        {**entry, "question_id": name, "question_type_id": 1, "data_type": kind, "data_id": "p", "answer": letter}
        for name, kind, letter in kinds
    ]
    picture(folder / "SEED-Bench-image" / "p", 1)
    (folder / "SEED-Bench.json").write_text(json.dumps({"questions": questions}))
    return {"7": "B", "9": "D"}


def scienceqa(folder: Path) -> Right:
    folder.mkdir(exist_ok=True)
    entries = [
        {"id": "4", "conversations": [{"from": "human", "value": "Which?\nA. red\nB. blue"}]},
        {
            "id": "5",
            "image": "5/image.png",
            "conversations": [{"from": "human", "value": "<image>\nWho?\nA. I\nB. you"}],
        },
    ]
    problems = {"4": {"choices": ["red", "blue"], "answer": 1}, "5": {"choices": ["I", "you"], "answer": 0}}
    picture(folder / "images" / "test" / "5" / "image.png", 5)
    documents = {"llava_test_CQM-A": entries, "problems": problems, "pid_splits": {"test": ["4", "5"], "train": ["1"]}}
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return {"4": "B", "5": "A"}


def ai2d(folder: Path) -> Right:
    entry = {"question": "Which?", "options": ["w", "x", "y", "z"], "image": "1.png"}
    write_lines(folder / "ai2d_test.jsonl", [{**entry, "answer": "2"}, {**entry, "answer": "0"}])
    picture(folder / "images" / "1.png", 4)
    return {"1": "C", "2": "A"}


def mmmu(folder: Path) -> Right:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    right = {}
    shown = {"bytes": png(8), "path": "1.png"}
    for subject in SUBJECTS:
        lines: list[Mapping[str, Any]] = [
            {"question": "See <image 1>.", "options": "['w', 'x']", "answer": "B", "question_type": "multiple-choice"},
            {"question": "How many?", "options": "[]", "answer": "['two', '2']", "question_type": "open"},
        ]
        ids = [f"validation_{subject}_{place}" for place in (1, 2)]
        right |= dict(zip(ids, ("B", "2"), strict=True))
        table = [{**line, "id": name, "image_1": shown} for line, name in zip(lines, ids, strict=True)]
        (folder / subject).mkdir(parents=True, exist_ok=True)
        parquet.write_table(arrow.Table.from_pylist(table), folder / subject / "validation-00000-of-00001.parquet")
    return right


def cmmmu(folder: Path) -> Right:
    options = {f"option{number}": word for number, word in enumerate(("红", "蓝", "绿", "白"), start=1)}
    entries = [
        {"type": "选择", "answer": "B", **options},
        {"type": "选择", "answer": "ACD", **options},
        {"type": "填空", "answer": "237"},
        {"type": "判断", "answer": "错"},
    ]
    lines = [
        {**entry, "id": number, "category": category, "question": '见<img="a.png">（）'}
        for number, (entry, category) in enumerate(zip(entries, CATEGORIES, strict=False))
    ]
    write_lines(folder / "cmmmu-data-val-answer.jsonl", lines)
    picture(folder / "images" / "a.png", 6)
    return {str(line["id"]): line["answer"] for line in lines}


MADE_OPTIONS: Mapping[str, Callable[[Path], Right]] = {
    make.__name__: make for make in (pope, mme, mmbench, mmbench_test, seed, scienceqa, ai2d, mmmu, cmmmu)
}
"""Benchmark name -> what writes its folder and gives right answers by row id."""
