"""Answers as tools write them: what is the reply, which question it belongs to, and what is refused."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from moiety.evaluate.benchmarks.benchmark import BenchmarkScore
from moiety.evaluate.benchmarks.files.spreadsheet import write_xlsx
from moiety.evaluate.benchmarks.registry import BENCHMARKS
from moiety.evaluate.benchmarks.run import score_answers
from moiety.evaluate.predictions import PredictionFile
from moiety.vlm.rows import Row
from tests.evaluate.benchmarks.made import MADE
from tests.evaluate.benchmarks.made_options import MADE_OPTIONS

Lines = Iterable[Mapping[str, Any]]


class Folder:
    """A small benchmark and files of answers beside it."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.data, self.out = name, path / "data", path / "answers"
        self.out.mkdir(parents=True)
        if name in MADE_OPTIONS:
            self.right: Mapping[str, str] = MADE_OPTIONS[name](self.data)
        else:
            self.data.mkdir()
            MADE[name].write(self.data)
            self.right = MADE[name].right
        self.rows: Sequence[Row] = BENCHMARKS[name].read(self.data)

    def file(self, name: str, lines: Lines | str) -> Path:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (
            lines if isinstance(lines, str) else "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        )
        path.write_text(text, encoding="utf-8")
        return path

    def score(self, *paths: Path, rule: str | None = None) -> BenchmarkScore:
        return score_answers(self.name, self.data, paths, rule)[0]


Make = Callable[[str], Folder]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name: Folder(name, tmp_path / name)


def question(row: Row) -> str:
    return row.turns[0].text.replace("<image>", "").strip()


# -- the reply, not the right answer -----------------------------------------------------------------------------------
def test_what_stands_beside_the_reply_is_never_scored(make: Make) -> None:
    cmmmu = make("cmmmu")
    gold = [{"id": name, "answer": text} for name, text in cmmmu.right.items()]
    wrong = cmmmu.file("official.jsonl", [{**line, "response": "我不知道"} for line in gold])
    assert cmmmu.score(wrong).headline[1] == 0
    assert (
        cmmmu.score(cmmmu.file("right.jsonl", [{**line, "response": line["answer"]} for line in gold])).headline[1]
        == 100
    )
    told = cmmmu.score(cmmmu.file("text.jsonl", [{**line, "text": "x"} for line in gold]))
    assert told.headline[1] == 0
    assert told.notes[1] == "'answer' in these lines is not read: it holds the right answers"


def test_mmmu_results_of_a_subject_each_are_one_file_of_answers(make: Make) -> None:
    mmmu = make("mmmu")
    for subject in {row.extra["subject"] for row in mmmu.rows}:
        entries = [
            {"id": row.id, "answer": list(row.answers), "question_type": "multiple-choice", "response": "A"}
            for row in mmmu.rows
            if row.extra["subject"] == subject
        ]
        mmmu.file(f"{subject}/output.json", json.dumps(entries))
    assert mmmu.score(mmmu.out).headline[1] == 0
    with pytest.raises(FileNotFoundError, match=r"no answers in the folder .*; files of .jsonl, .json, .* are read"):
        mmmu.score(mmmu.data / "Art" / "..", mmmu.data / "Art")
    with pytest.raises(FileNotFoundError, match=r"no answers at .*nowhere.json"):
        mmmu.score(mmmu.out / "nowhere.json")


def test_two_possible_replies_are_refused(make: Make) -> None:
    ai2d = make("ai2d")
    both = ai2d.file("both.jsonl", [{"id": name, "output": "A", "text": "B"} for name in ai2d.right])
    with pytest.raises(
        ValueError, match=r"both.jsonl:1: 'output' and 'text' can both be the model's reply, and they diff"
    ):
        ai2d.score(both)
    guess = ai2d.file("guess.jsonl", [{"id": name, "answer": "D", "text": "B"} for name in ai2d.right])
    with pytest.raises(ValueError, match=r"guess.jsonl:1: 'text' and 'answer' can both be"):
        ai2d.score(guess)
    gold = ai2d.file("gold.jsonl", [{"id": n, "answer": "B", "prediction": right} for n, right in ai2d.right.items()])
    with pytest.raises(ValueError, match=r"gold.jsonl:1: 'prediction' and 'answer' can both be"):
        ai2d.score(gold)
    same = ai2d.file("same.jsonl", [{"id": name, "output": "A", "text": "A"} for name in ai2d.right])
    assert ai2d.score(same).headline[1] == 50


def test_questions_handed_in_as_answers_are_refused(make: Make) -> None:
    ai2d, pope = make("ai2d"), make("pope")
    with pytest.raises(
        ValueError, match=r"'answer' is the right answer in all 2 lines, beside 'image', 'options': these "
    ):
        ai2d.score(ai2d.file("q.jsonl", (ai2d.data / "ai2d_test.jsonl").read_text()))
    files = sorted((pope.data / "coco").iterdir())
    with pytest.raises(
        ValueError, match=r"adversarial.jsonl:1: no text under any of prediction, text, answer, response"
    ):
        pope.score(*[pope.file(path.name + "l", path.read_text()) for path in files])


def test_replies_that_are_none_are_named(make: Make) -> None:
    ai2d = make("ai2d")
    lines = [{"id": name, "prediction": text} for name, text in ai2d.right.items()]
    with pytest.raises(ValueError, match=r":2: no reply under 'prediction', where the other lines have it"):
        ai2d.score(ai2d.file("a.jsonl", [lines[0], {"id": "2", "x": 1}]))
    with pytest.raises(ValueError, match=r":1: the answer to '1' is no text, got True"):
        ai2d.score(ai2d.file("b.jsonl", [{**lines[0], "prediction": True}, lines[1]]))
    with pytest.raises(ValueError, match=r"c.jsonl holds no answer"):
        ai2d.score(ai2d.file("c.jsonl", ""))
    with pytest.raises(ValueError, match=r"d.json:2: expected an object, got 'A'"):
        ai2d.score(ai2d.file("d.json", json.dumps([lines[0], "A"])))


# -- ids that repeat ---------------------------------------------------------------------------------------------------
def test_pictures_as_ids_are_told_apart_by_their_questions(make: Make) -> None:
    mme = make("mme")
    lines = [
        {"question_id": row.images[0], "prompt": question(row), "text": mme.right[row.id], "model_id": "m"}
        for row in mme.rows
    ]
    score = mme.score(mme.file("llava.jsonl", lines[::-1]))
    assert (score.numbers["perception"], score.numbers["cognition"]) == (2000, 800)
    assert (
        score.notes[0] == "answers: lines of LLaVA's evaluation, reply under 'text', joined by question and question_id"
    )
    with pytest.raises(ValueError, match=r"is answered a second time; each question has one answer"):
        mme.score(mme.file("twice.jsonl", [*lines, lines[0]]))


def test_category_and_number_are_an_id(make: Make) -> None:
    pope = make("pope")
    lines = [
        {"question_id": row.id.split("/")[1], "category": row.type, "text": pope.right[row.id]} for row in pope.rows
    ]
    assert pope.score(pope.file("a.jsonl", lines)).headline[1] == 100
    parts = [
        pope.file(
            f"{kind}.jsonl",
            [{"question_id": line["question_id"], "text": line["text"]} for line in lines if line["category"] == kind],
        )
        for kind in ("random", "popular", "adversarial")
    ]
    assert pope.score(*parts).headline[1] == 100
    part = pope.score(parts[1])
    assert part.num_questions == 4
    assert "a part: random, adversarial have no answers and do not enter" in part.notes
    with pytest.raises(ValueError, match=r"'popular/0' is answered a second time; each question has one answer"):
        pope.score(parts[1], pope.file("sub/popular.jsonl", parts[1].read_text()))


def test_popes_own_answers_are_joined_by_order_once_every_question_agrees(make: Make) -> None:
    pope = make("pope")
    own = [
        {"question": row.turns[0].text.split("\n")[1], "answer": pope.right[row.id], "type": row.type}
        for row in pope.rows
    ]
    files = [
        pope.file(
            f"{kind}_answers.json",
            "\n".join(json.dumps({k: line[k] for k in ("question", "answer")}) for line in own if line["type"] == kind),
        )
        for kind in ("popular", "random", "adversarial")
    ]
    files = [path.rename(path.with_suffix(".jsonl")) for path in files]
    score = pope.score(*files)
    assert score.headline[1] == 100
    assert (
        score.notes[0]
        == "answers: lines of answer, question, reply under 'answer', joined by question and name of the file"
    )
    unnamed = pope.file("x.jsonl", files[0].read_text())
    with pytest.raises(
        ValueError, match=r"x.jsonl:1: 3 questions of pope read so, first 'random/0' and 'popular/0'; give"
    ):
        pope.score(unnamed)
    with pytest.raises(
        ValueError, match=r"y.jsonl:1: 'Is there a cow.*' is no question of pope in this folder; 0 of 1 "
    ):
        pope.score(pope.file("y.jsonl", [{"question": "Is there a cow in the image?", "answer": "yes"}]))


def test_rounds_of_mmbench_are_its_rotations(make: Make) -> None:
    mmbench = make("mmbench")
    lines = [
        {"question_id": int(name) % 1_000_000, "round_id": int(name) // 1_000_000, "text": text, "prompt": "Which?"}
        for name, text in mmbench.right.items()
    ]
    assert mmbench.score(mmbench.file("a.jsonl", lines)).headline[1] == 100


def test_the_place_of_a_question_of_hallusionbench_is_its_id(make: Make) -> None:
    hallusion = make("hallusionbench")
    official = [{**row.extra, "model_prediction": "yes"} for row in hallusion.rows]
    assert hallusion.score(hallusion.file("r.json", json.dumps(official))).headline[1] == 100
    kit = [
        {"index": f"x_VS_map_{'_'.join(row.id.split('/')[2:])}", "category": "VS", "l2-category": "map"}
        for row in hallusion.rows
    ]
    kit = [{**line, "question": "Is it?", "answer": "Yes", "prediction": "No"} for line in kit]
    assert hallusion.score(hallusion.file("k.jsonl", kit)).headline[1] == 0


# -- files of other tools ----------------------------------------------------------------------------------------------
def test_result_files_of_mme(make: Make) -> None:
    mme = make("mme")
    for task in {row.type for row in mme.rows}:
        lines = [
            "\t".join(
                [row.images[0].split("/")[1], str(row.extra["question"]), row.answers[0].capitalize(), "Yes\nindeed"]
            )
            for row in mme.rows
            if row.type == task
        ]
        mme.file(f"{task}.txt", "\n".join(lines))
    score = mme.score(mme.out)
    assert (score.numbers["perception"], score.unread) == (500, 0)
    assert score.notes[0].startswith(
        "answers: result file of MME (picture, question, label, answer), joined by question"
    )
    assert mme.score(mme.out / "OCR.txt").numbers["OCR"] == 50
    with pytest.raises(
        ValueError, match=r"OCR.txt:1: expected picture, question, Yes or No, and the model's answer betw"
    ):
        mme.score(mme.file("OCR.txt", "a.png\tIs it?\tYes\n"))


def samples(rows: Sequence[Row], said: str = "Yes") -> list[dict[str, Any]]:
    return [
        {
            "doc_id": number,
            "target": row.answers[0],
            "doc": {"question_id": row.images[0], "question": row.extra["question"], "category": row.type},
            "resps": [[said]],
            "filtered_resps": [said],
        }
        for number, row in enumerate(rows)
    ]


def test_samples_of_lmms_eval(make: Make) -> None:
    mme = make("mme")
    lines = samples(mme.rows)
    assert mme.score(mme.file("samples_mme.jsonl", lines)).numbers["perception"] == 500
    filtered = [{**line, "filter": name} for name in ("none", "strict") for line in lines]
    score = mme.score(mme.file("filters.jsonl", filtered))
    assert score.notes[0] == "answers: samples of lmms-eval, joined by question and question_id"
    assert mme.score(mme.file("old.json", json.dumps({"args": {}, "logs": lines}))).headline[1] == 500
    several = [{**lines[0], "resps": [["Yes", "No"]]}, *lines[1:]]
    with pytest.raises(
        ValueError, match=r"several.jsonl:1: 2 different replies to one question, got \[\['Yes', 'No'\]\]"
    ):
        mme.score(mme.file("several.jsonl", several))
    with pytest.raises(ValueError, match=r":1: no id under any of id, .*, and no question; it has 'doc_id'"):
        mme.score(mme.file("bare.jsonl", [{"doc_id": 0, "resps": [["Yes"]]}]))


def test_tables_of_vlmevalkit(make: Make) -> None:
    pope = make("pope")
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in pope.rows:
        line = merged.setdefault((row.images[0], question(row)), {"image_path": row.images[0], "category": []})
        line["category"].append(row.type)
        line |= {"question": question(row).split("\n")[0], "answer": "Yes", "prediction": row.answers[0]}
    table = [{"index": n, **line, "category": ",".join(line["category"])} for n, line in enumerate(merged.values())]
    head = list(table[0])
    cells = [[str(line[name]) for name in head] for line in table]
    for suffix, sign in ((".tsv", "\t"), (".csv", ",")):
        quoted = "\n".join(sign.join(f'"{cell}"' for cell in line) for line in (head, *cells))
        score = pope.score(pope.file(f"a{suffix}", quoted))
        assert score.headline[1] == 100
        assert score.notes[0].startswith("answers: table of VLMEvalKit, reply under 'prediction', joined by question")
    assert pope.score(pope.file("a.json", json.dumps(table))).headline[1] == 100
    columns = {name: {str(n): line[name] for n, line in enumerate(table)} for name in head}
    assert pope.score(pope.file("b.json", json.dumps(columns))).headline[1] == 100
    with pytest.raises(ValueError, match=r"e.csv:2: 3 cells in a table of 2 columns"):
        pope.score(pope.file("e.csv", "index,prediction\n1,yes,no\n"))
    with pytest.raises(ValueError, match=r"a.pkl: nothing is unpickled here; write the table as .xlsx, .tsv or .jsonl"):
        pope.score(pope.file("a.pkl", ""))


def test_spreadsheets(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    mmbench = make("mmbench")
    path = mmbench.out / "a.xlsx"
    path.parent.mkdir(exist_ok=True)
    write_xlsx(
        path, ["index", "question", "prediction"], [[int(n), "Which?", text] for n, text in mmbench.right.items()]
    )
    with monkeypatch.context() as hidden:
        hidden.setitem(__import__("sys").modules, "openpyxl", None)
        with pytest.raises(
            ImportError, match=r"a.xlsx is a spreadsheet; to read it: pip install openpyxl, or save it as"
        ):
            mmbench.score(path)
    pytest.importorskip("openpyxl")
    assert mmbench.score(path).headline[1] == 100
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"a.xlsx is not a complete spreadsheet \(.*\); write it again"):
        mmbench.score(path)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("gqa", [{"questionId": "1", "prediction": "red"}, {"questionId": "2", "prediction": "yes"}]),
        ("vqav2", [{"question_id": 1, "answer": "red"}, {"question_id": 2, "answer": "red"}]),
        ("vizwiz", [{"image": "a.jpg", "answer": "red"}]),
        ("docvqa", [{"questionId": 1, "answer": "Ann"}]),
        (
            "textvqa",
            [{"question_id": "ab", "prompt": "Which?\nReference OCR token: x", "text": "red", "model_id": "m"}],
        ),
        (
            "chartqa",
            [{"question": "How many?", "answer": "14", "annotation": "14"}, {"question": "Who?", "answer": "Ann"}],
        ),
        ("ocrbench", [{"id": n, "answers": "Exit", "predict": "Exit"} for n in (0, 1)]),
        ("mathvista", {n: {"answer": "0", "response": text} for n, text in MADE["mathvista"].right.items()}),
        ("scienceqa", {"acc": 50.0, "results": {"4": 1, "5": 0}, "outputs": {"4": "B", "5": "A"}}),
        ("seed", [{"question_id": "7", "prediction": "B"}, {"question_id": 9, "prediction": "D"}]),
    ],
)
def test_a_benchmarks_own_form(make: Make, name: str, form: Any) -> None:
    folder = make(name)
    assert folder.score(folder.file("form.json", json.dumps(form))).numbers == pytest.approx(
        BENCHMARKS[name].score(folder.rows, folder.right).numbers
    )


def test_the_released_form_of_nlvr2_has_no_head(make: Make) -> None:
    nlvr2 = make("nlvr2")
    assert nlvr2.score(nlvr2.file("a.csv", "dev-1-0-0,True\n")).headline[1] == 100


# -- the wrong file ----------------------------------------------------------------------------------------------------
def test_answers_to_another_benchmark_are_refused(make: Make) -> None:
    ai2d, seed = make("ai2d"), make("seed")
    path = ai2d.out / "pope.jsonl"
    PredictionFile(path, {"benchmark": "pope"}).add({"1": "A", "2": "B"})
    with pytest.raises(ValueError, match=r"pope.jsonl holds answers to pope, not to ai2d; give the file of ai2d"):
        ai2d.score(path)
    lines = [{"question_id": name, "prompt": "How many dogs?", "text": "A", "model_id": "m"} for name in ai2d.right]
    with pytest.raises(
        ValueError, match=r":1: 'How many dogs\?' is not the question that ai2d asks under this id, and so in"
    ):
        ai2d.score(ai2d.file("llava.jsonl", lines))
    with pytest.raises(ValueError, match=r"seed: 2 answers do not fit 2 questions by id; 2 have no answer: '7', '9'"):
        seed.score(seed.file("other.json", json.dumps({"1": "A", "2": "B"})))


def test_the_id_of_one_question_with_the_words_of_another_is_refused(make: Make) -> None:
    pope = make("pope")
    lines = [{"id": row.id, "question": question(row), "prediction": "yes"} for row in pope.rows]
    lines[0]["question"], lines[1]["question"] = lines[1]["question"], lines[0]["question"]
    with pytest.raises(
        ValueError, match=r":1: 'random/0' carries the question 'Is there a red car.*', which pope asks under "
    ):
        pope.score(pope.file("a.jsonl", lines))
