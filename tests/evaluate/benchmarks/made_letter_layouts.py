"""The same for benchmarks of options and letters."""

import base64
import json
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.sets.cmmmu import CATEGORIES
from moiety.evaluate.benchmarks.sets.mmmu import SUBJECTS
from tests.evaluate.benchmarks.made_layouts import SHOWN, Case, Right, document, table
from tests.evaluate.benchmarks.made_options import picture, png, write_lines


# -- ScienceQA ---------------------------------------------------------------------------------------------------------
def _problem(answer: int, shown: Any) -> dict[str, Any]:
    problem = {"question": "Which?", "choices": ["red", "blue"], "answer": answer, "hint": "Look.", "image": shown}
    return {**problem, "lecture": "", "solution": ""}


def scienceqa_repository(folder: Path) -> Right:
    problems = {"4": _problem(1, None), "5": _problem(0, "image.png"), "6": _problem(0, None)}
    document(folder / "data/scienceqa/problems.json", problems)
    document(folder / "data/scienceqa/pid_splits.json", {"train": ["6"], "test": ["4", "5"]})
    picture(folder / "data/scienceqa/images/test/5/image.png", 5)
    return {"4": "B", "5": "A"}


def scienceqa_with_pictures(folder: Path) -> Right:
    scienceqa_repository(folder)
    asked = [{"from": "human", "value": "<image>\nContext: Look.\nWhich?\nA. red\nB. blue"}]
    entry = {"id": "5", "image": "5/image.png", "conversations": asked}
    document(folder / "llava_test_CQM-A.json", [entry])
    return {"5": "A"}


def scienceqa_hub(folder: Path) -> Right:
    rows = [_problem(1, None), _problem(0, SHOWN)]
    table(folder / "ScienceQA-FULL/test-00000-of-00001.parquet", rows)
    table(folder / "ScienceQA-IMG/test-00000-of-00001.parquet", rows[1:])
    return {"0": "B", "1": "A"}


def scienceqa_hub_with_pictures(folder: Path) -> Right:
    table(folder / "ScienceQA-IMG/test-00000-of-00001.parquet", [_problem(0, SHOWN)])
    return {"0": "A"}


# -- one table a benchmark ---------------------------------------------------------------------------------------------
def ai2d_release(folder: Path) -> Right:
    for name in ("1", "2"):
        entry = {"abcLabel": False, "answerTexts": ["w", "x"], "correctAnswer": 1, "questionId": f"{name}.png-0"}
        document(folder / f"ai2d/questions/{name}.png.json", {"imageName": f"{name}.png", "questions": {"Why?": entry}})
        picture(folder / f"ai2d/images/{name}.png", 2)
    (folder / "ai2d_test_ids.csv").write_text("2\n")
    return {"2.png-0": "B"}


def ai2d_hub(folder: Path) -> Right:
    entry = {"question": "Why?", "options": ["w", "x"], "answer": "1", "image": SHOWN}
    table(folder / "data/test-00000-of-00001.parquet", [entry, {**entry, "image": {"bytes": png(9), "path": None}}])
    return {"1": "B", "2": "B"}


def _mmbench_table(folder: Path, name: str) -> Right:
    head = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category")
    line = ("1", "Which?", "nan", "red", "blue", "", "", "B", "colour", base64.b64encode(png(3)).decode(), "x")
    folder.mkdir(parents=True)
    (folder / name).write_text("\n".join("\t".join(cells) for cells in (head, line)), encoding="utf-8")
    return {"1": "B"}


def mmbench_chinese(folder: Path) -> Right:
    return _mmbench_table(folder, "mmbench_dev_cn_20231003.tsv")


def mmbench_second_version(folder: Path) -> Right:
    return _mmbench_table(folder, "MMBench_DEV_EN_V11.tsv")


def _mmbench_hub(folder: Path, place: str) -> Right:
    entry = {"index": 1, "question": "Which?", "hint": "nan", "A": "red", "B": "blue", "C": "nan", "D": "nan"}
    entry |= {"answer": "B", "category": "colour", "image": SHOWN, "L2-category": "x", "split": "dev"}
    table(folder / place, [entry])
    return {"1": "B"}


def mmbench_hub(folder: Path) -> Right:
    _mmbench_hub(folder, "cn/dev-00000-of-00001.parquet")
    return _mmbench_hub(folder, "en/dev-00000-of-00001.parquet")


def mmbench_hub_chinese(folder: Path) -> Right:
    return _mmbench_hub(folder, "cn/dev-00000-of-00001.parquet")


def mmbench_test_hub(folder: Path) -> Right:
    return _mmbench_hub(folder, "en/test-00000-of-00001.parquet")


def seed_hub(folder: Path) -> Right:
    entry = {"question": "What?", "choice_a": "w", "choice_b": "x", "choice_c": "y", "choice_d": "z", "answer": "B"}
    rows = [
        {**entry, "question_id": name, "question_type_id": 1, "data_type": kind, "data_id": name, "image": pictures}
        for name, kind, pictures in (("7", "image", [SHOWN]), ("v8", "video", [SHOWN, SHOWN]))
    ]
    table(folder / "data/test-00000-of-00001.parquet", rows)
    return {"7": "B"}


# -- MMMU, CMMMU -------------------------------------------------------------------------------------------------------
def _mmmu(subject: str) -> dict[str, Any]:
    entry = {"id": f"validation_{subject}_1", "question": "See <image 1>.", "options": "['w', 'x']", "answer": "B"}
    return {**entry, "question_type": "multiple-choice", "image_1": SHOWN, "image_2": None}


def mmmu_subject(folder: Path) -> Right:
    table(folder / "Art_Theory/validation-00000-of-00001.parquet", [_mmmu("Art_Theory")])
    table(folder / "Art_Theory/dev-00000-of-00001.parquet", [_mmmu("Art_Theory") | {"id": "dev_Art_Theory_1"}])
    return {"validation_Art_Theory_1": "B"}


def mmmu_one_table(folder: Path) -> Right:
    table(folder / "data/validation-00000-of-00001.parquet", [_mmmu(subject) for subject in SUBJECTS])
    return {f"validation_{subject}_1": "B" for subject in SUBJECTS}


def _cmmmu(category: str) -> dict[str, Any]:
    options = {f"option{number}": word for number, word in enumerate("红蓝绿白", start=1)}
    entry = {"id": 7, "type": "选择", "answer": "B", "category": category, "question": '见<img="a.png">（）'}
    return {**entry, **options}


def cmmmu_part(folder: Path) -> Right:
    write_lines(folder / "cmmmu-data-val/science/science.jsonl", [_cmmmu("科学")])
    write_lines(folder / "cmmmu-data-dev/business/business.jsonl", [_cmmmu("商业")])
    picture(folder / "cmmmu-data-val/science/a.png", 1)
    return {"7": "B"}


def cmmmu_hub(folder: Path) -> Right:
    rows = [
        {**_cmmmu(category), "id": number, "image_1": SHOWN, "image_1_filename": "a.png"}
        for number, category in enumerate(CATEGORIES)
    ]
    table(folder / "data/val-00000-of-00001.parquet", rows)
    return {str(number): "B" for number in range(6)}


def cmmmu_hub_part(folder: Path) -> Right:
    shown = {"image_1": {"bytes": png(1), "path": "b.png"}, "image_2": {"bytes": png(2), "path": "a.png"}}
    table(folder / "business/val-00000-of-00001.parquet", [{**_cmmmu("商业"), **shown}])
    return {"7": "B"}


def seed_bundle(folder: Path) -> Right:
    entry = {"question": "What?", "choice_a": "w", "choice_b": "x", "choice_c": "y", "choice_d": "z", "answer": "B"}
    entries = [
        {**entry, "question_id": str(kind), "question_type_id": kind, "data_type": "image", "data_id": "p"}
        for kind in range(1, 10)
    ]
    (folder / "seed_bench").mkdir(parents=True)
    (folder / "seed_bench/SEED-Bench.json").write_text(json.dumps({"questions": entries}))
    picture(folder / "seed_bench/SEED-Bench-image/p", 1)
    return {str(kind): "B" for kind in range(1, 10)}


LETTERED = (
    Case("scienceqa", scienceqa_repository),
    Case("scienceqa", scienceqa_with_pictures, "with picture"),
    Case("scienceqa", scienceqa_hub),
    Case("scienceqa", scienceqa_hub_with_pictures, "with picture"),
    Case("ai2d", ai2d_release),
    Case("ai2d", ai2d_hub),
    Case("mmbench", mmbench_chinese, "Chinese"),
    Case("mmbench", mmbench_second_version, "V1.1"),
    Case("mmbench", mmbench_hub),
    Case("mmbench", mmbench_hub_chinese, "Chinese"),
    Case("mmbench_test", mmbench_test_hub),
    Case("seed", seed_hub, "type 1"),
    Case("seed", seed_bundle),
    Case("mmmu", mmmu_subject, "Art_Theory"),
    Case("mmmu", mmmu_one_table),
    Case("cmmmu", cmmmu_part, "Science"),
    Case("cmmmu", cmmmu_hub),
    Case("cmmmu", cmmmu_hub_part, "Business"),
)
