"""CMMMU val: a Chinese benchmark like MMMU. Its questions have options, blanks to fill, or statements to judge.

Of the options, one or several are right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, mean_score, percent_by
from moiety.evaluate.benchmarks.files.entries import Kinds, entry_with
from moiety.evaluate.benchmarks.files.layouts import (
    HUB,
    LLAVA,
    SITE,
    Layout,
    Questions,
    beside,
    first_of,
    hub_layout,
    hub_table,
    parts_by,
)
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_lines
from moiety.evaluate.benchmarks.files.release import Readable, Release
from moiety.evaluate.benchmarks.rules.letters import stated_letter
from moiety.evaluate.benchmarks.rules.open_answers import any_agrees, as_number, between_blanks, kept_tails, numbers_in
from moiety.evaluate.wrappers import answer_parts
from moiety.vlm.rows import IMAGE_MARK, Row, Turn

CHOICE, BLANK, JUDGE = "选择", "填空", "判断"
CATEGORIES: Mapping[str, str] = {
    "艺术与设计": "Art & Design",
    "商业": "Business",
    "科学": "Science",
    "健康与医学": "Health & Medicine",
    "人文社会科学": "Humanities & Social Sciences",
    "技术与工程": "Technology & Engineering",
}
PARTS = (
    *("art_and_design", "business", "science", "health_and_medicine", "humanities_and_social_sciences"),
    "technology_and_engineering",
)
LETTERS = "ABCD"
_SPLIT = "val"
WHOLE = "cmmmu-data-val-answer.jsonl"
_ANY = "{" + ",".join(PARTS) + "}"
# Requests of the benchmark (Zhang et al. 2024, appendix A).
_REQUESTS = {
    CHOICE: (
        "请回答以下多项选择题，并选出正确选项。这些题目可能包括单选和多选题型。"
        "如果所提供的信息不足以确定一个明确的答案，那么请根据可用的数据和你的判断来选择最可能正确的选项。"
    ),
    JUDGE: (
        "请回答以下判断题，并根据题目描述和所给的信息来判断问题中陈述的对错。"
        "如果信息不完整或不足以作出绝对判断，请运用你的逻辑推理和现有信息来做出最可能的判断。"
    ),
    BLANK: (
        "请回答以下填空题，并根据题目的要求和所提供的信息来给出最恰当的答案。"
        "如果信息不足以确切回答，那么请依据现有的数据和你的推理能力来填写最合理的答案。"
    ),
}
_KINDS: Mapping[str, Kinds] = {
    "id": (int, str),
    "type": str,
    "category": str,
    "question": str,
    "answer": (str, int, float),
}
_OPTIONS = tuple(f"option{number}" for number in range(1, 5))
_MARK = re.compile(r'<img="([^"]*)">')
_BLANK_MARKERS = ("是", "为", "所以", "等于", "方案", "选择", "正确答案", "因此", "最后", "答案", "结果")
_JUDGE_MARKERS = ("是", "为", "所以", "判断", "陈述", "说法", "表达", "答案", "结果")
_TRUE_WORDS = ("正确", "对", "准确", "肯定", "对的")
_FALSE_WORDS = ("不对", "错误", "不正确", "不准确", "不合适", "否定", "错的", "错")
_OPEN_WORDS = ("对错", "是否正确", "否正确", "或者", "是否", "正确性", "对不")
_STATED_LETTERS = re.compile(r"(?:答案|选项|选择|选)(?:应该)?(?:是|为)?[:\s]*\(?([A-D](?:[,、和\s]*[A-D])*)")
_ONLY_LETTERS = re.compile(r"\(?[A-D](?:[,、和\s()]*[A-D])*\)?[.。]?")


# -- questions ---------------------------------------------------------------------------------------------------------
def read(release: Release) -> Questions:
    """Questions in the order of the file. Each picture stands at its place in the text.

    Raises:
        ValueError: a question has an unknown type or category.
    """
    return _read(release, [release.one(WHOLE)])


def read_parts(release: Release) -> Questions:
    """The questions of all parts that are there. Each part is one file."""
    found = (release.find(f"cmmmu-data-val/{part}/{part}.jsonl", f"./{part}/{part}.jsonl") for part in PARTS)
    return _read(release, [path for path in found if path is not None])


def _read(release: Release, paths: Sequence[Readable]) -> Questions:
    rows = [_row(entry, str(path), line) for path in paths for line, entry in read_lines(path)]
    below = [f"{above}/{part}" for above in ("cmmmu-data-val", "images") for part in PARTS]
    return Questions(rows, beside(release, "images", *below, *PARTS))


def read_hub(table: HubTable) -> Questions:
    """The questions of the tables from the Hugging Face Hub. The text names pictures by their file names."""
    rows, names = [], dict[str, str]()
    for file, line, entry in table.rows():
        row = _row(entry, file, line)
        there = [f"image_{number}" for number in range(1, 6) if entry.get(f"image_{number}")]
        called = {
            PurePosixPath(str(first_of(entry, f"{name}_filename", f"{name}#path"))).name: entry[name] for name in there
        }
        in_turn = dict(zip(dict.fromkeys(row.images), (entry[name] for name in there), strict=False))
        shown = {name: called.get(name, in_turn.get(name)) for name in row.images}
        names |= {f"{row.id}/{name}": str(place) for name, place in shown.items()}
        rows.append(replace(row, images=tuple(f"{row.id}/{name}" for name in row.images)))
    return Questions(rows, lambda: table.pictures(names))


def read_hub_parts(release: Release) -> Questions:
    """The questions of all parts from the original repository on the Hugging Face Hub that are there."""
    tables = [hub_table(release, _SPLIT, f"!{part}") for part in PARTS]
    return read_hub(HubTable({name: path for table in tables if table for name, path in table.files.items()}))


def _row(entry: Mapping[str, Any], path: str, line: int) -> Row:
    entry_with(dict(entry), _KINDS, f"{path}:{line}")
    kind, category = entry["type"], entry["category"]
    if kind not in _REQUESTS or category not in CATEGORIES:
        raise ValueError(
            f"{path}:{line}: type {kind!r} and category {category!r}; expected one of {', '.join(_REQUESTS)} and one "
            f"of {', '.join(CATEGORIES)}"
        )
    if kind == CHOICE:
        entry_with(dict(entry), dict.fromkeys(_OPTIONS, (str, int, float)), f"{path}:{line}")
    choices = [str(entry[name]) for name in _OPTIONS] if kind == CHOICE else []
    shown = "".join(f"({letter}) {choice}\n" for letter, choice in zip(LETTERS, choices, strict=False))
    options = f"选项：\n{shown}\n" if kind == CHOICE else ""
    prompt = f"{_REQUESTS[kind]}\n\n问题：{entry['question']}\n{options}正确答案：\n"
    return Row(
        str(entry["id"]),
        (Turn("user", _MARK.sub(IMAGE_MARK, prompt.replace(IMAGE_MARK, ""))),),
        tuple(_MARK.findall(prompt)),
        kind,
        (str(entry["answer"]),),
        tuple(choices),
        path,
        line,
        {"answer": str(entry["answer"]), "category": category},
    )


# -- rules -------------------------------------------------------------------------------------------------------------
def official_letters(text: str, choices: Sequence[str]) -> str:
    """The letters that occur most often, in the order A to D; ``""`` if none is found.

    First ``(X)`` is counted. If there is none, single letters are counted, even inside a word such as ``DNA``. If there
    is none either, the texts of the options are counted.

    Example:
        >>> [official_letters(text, "wxyz") for text in ("(B)", "A和C", "DNA", "B, not A, so B", "y")]
        ['B', 'AC', 'AD', 'B', 'C']
    """
    padded = between_blanks(text)
    by_form = (
        {letter: padded.count(f"({letter})") for letter in LETTERS},
        {letter: padded.count(letter) for letter in LETTERS},
        {letter: padded.count(choice) for letter, choice in zip(LETTERS, choices, strict=False)}
        if padded.strip()
        else {},
    )
    counts = next((found for found in by_form if any(found.values())), {})
    most = max(counts.values(), default=0)
    return "".join(letter for letter in LETTERS if most and counts.get(letter) == most)


def sound_letters(text: str, choices: Sequence[str]) -> str:
    """The letters that make up the whole text; otherwise those after the last 答案 or 选; otherwise the stated letter.

    Example:
        >>> [sound_letters(text, "wxyz") for text in ("A、C", "答案是（B）", "DNA", "选AC", "The answer is D.", "ABD")]
        ['AC', 'B', '', 'AC', 'D', 'ABD']
        >>> [sound_letters(text, "wxyz") for text in ("<think>A？</think>\\boxed{AC}", "选A。不，选C")]
        ['AC', 'C']
    """
    bare = answer_parts(text)[0].text
    stated = _STATED_LETTERS.findall(bare)
    said = bare if _ONLY_LETTERS.fullmatch(bare) else stated[-1] if stated else None
    if said is not None:
        return "".join(letter for letter in LETTERS if letter in said)
    return stated_letter(text, choices) or ""


def is_blank_right(text: str, answer: str) -> bool:
    """Whether the answer occurs in one of the kept ends of the sentences.

    A number must be equal to the answer. A text must contain the answer, and may be longer than it by at most 20
    characters and at most two Latin letters.

    Example:
        >>> is_blank_right("所以最后是237", "237"), is_blank_right("结果等于二三七", "237")
        (True, False)
    """
    kept = _kept(text, _BLANK_MARKERS, ("=",))
    numbers = [number for piece in kept for number in numbers_in(piece, "，", bounded=False)]
    wanted = _normal(answer, answer)
    return any_agrees([value for piece in (*kept, *numbers) for value in _normal(piece, answer)], wanted)


def _kept(text: str, markers: Sequence[str], last: Sequence[str] = ()) -> list[str]:
    bare = text.strip("。").strip()
    return kept_tails(re.split(r"[。\n]", bare), markers, last) or [bare]


def _normal(text: str, answer: str) -> list[float | str]:
    bare = text.strip()
    number = as_number(bare)
    if number is not None:
        return [number]
    long = len(bare) > len(answer) + 20 or _num_latin(bare) > _num_latin(answer) + 2
    return [] if long else [bare]


def _num_latin(text: str) -> int:
    return sum(sign.isascii() and sign.isalpha() for sign in text)


def judged(text: str, true_first: bool) -> str | None:
    """The judgement of a text: 对 (true), 错 (false), or None if both occur in equally many ends of sentences.

    An end that holds an open question (是否) is not counted.

    Args:
        text: What the model wrote.
        true_first: Look for words that mean true first, as the source does; so the source reads 不正确 as true.

    Example:
        >>> judged("这个说法不正确", True), judged("这个说法不正确", False), judged("", True)
        ('对', '错', None)
    """
    tails = [tail for tail in set(_kept(text, _JUDGE_MARKERS)) if not any(word in tail for word in _OPEN_WORDS)]
    order = [("对", _TRUE_WORDS), ("错", _FALSE_WORDS)][:: 1 if true_first else -1]
    said = [next((side for side, words in order if any(word in tail for word in words)), None) for tail in tails]
    num_true, num_false = said.count("对"), said.count("错")
    return None if num_true == num_false else "对" if num_true > num_false else "错"


def mark(row: Row, text: str, rule: str) -> float:
    """Mark of an answer: 0 or 1; if the released scorer would draw at random, the mean of its draws."""
    answer, official = row.extra["answer"], rule == "official"
    if row.type == CHOICE:
        said = (official_letters if official else sound_letters)(text, row.choices)
        if official and text and not said:
            return float(len(answer) == 1) / len(LETTERS)
        return float(said == answer)
    if row.type == BLANK:
        return float(is_blank_right(text, answer) or (not official and is_blank_right(_bare(text), answer)))
    verdict = judged(text if official else _bare(text), true_first=official)
    return 0.5 if official and verdict is None else float(verdict == answer)


def is_read(row: Row, text: str, rule: str) -> bool:
    """Whether a rule finds letters or a judgement in a text. For a blank to fill, any text counts as read."""
    official = rule == "official"
    if row.type == CHOICE:
        return bool((official_letters if official else sound_letters)(text, row.choices))
    if row.type == BLANK:
        return bool(text.strip())
    return judged(text if official else _bare(text), true_first=official) is not None


def _bare(text: str) -> str:
    """The part of a text that most likely holds the answer, without thinking and wrappers."""
    return answer_parts(text)[0].text


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy over all questions and per category, in percent.

    - ``sound``: :func:`sound_letters`. Words that mean false are looked for first, so that 不正确 is read as false.
    - ``official``: :func:`official_letters`. Words that mean true are looked for first. If the source would draw at
      random (no letter found, or equally many judgements of both kinds), the mark is the mean of its draws. An empty
      answer to a question with options scores 0.

    Blanks are scored by :func:`is_blank_right` under both rules.

    Source:
        CMMMU-Benchmark/CMMMU @ e1ba883, ``eval/utils/eval_utils.py`` (also in AlenjandroWang/MoIIE @ c614868). Its
        lists of words are part of the rule.
    """
    correct = {row.id: mark(row, answers[row.id], rule) for row in rows}
    numbers = percent_by(rows, correct, lambda row: CATEGORIES[row.extra["category"]])
    drawn = sum(0 < value < 1 for value in correct.values())
    notes = (f"{drawn} answers have no verdict and count as answers drawn at random",) if drawn else ()
    unread = sum(not is_read(row, answers[row.id], rule) for row in rows)
    return mean_score("cmmmu", rule, "accuracy", correct, numbers, notes, unread)


def floor(rows: Sequence[Row], rule: str) -> float:
    """Score of a model that never answers: 0; under ``official``, half a point for each statement to judge."""
    return 100 * float(np.mean([0.5 * (row.type == JUDGE) for row in rows])) if rule == "official" else 0.0


CMMMU = Benchmark(
    "cmmmu",
    "CMMMU, val",
    (
        Layout(LLAVA, (WHOLE,), read, beside="pictures in images/"),
        Layout(
            SITE,
            ((f"cmmmu-data-val/{_ANY}/{_ANY}.jsonl", f"./{_ANY}/{_ANY}.jsonl"),),
            read_parts,
            f"cmmmu-data-val/PART/PART.jsonl for any of the six parts {PARTS[0]} to {PARTS[-1]}",
            "pictures beside them or in images/",
        ),
        hub_layout(_SPLIT, read_hub),
        Layout(
            HUB,
            (tuple(f"{part}/{_SPLIT}-*.parquet" for part in PARTS),),
            read_hub_parts,
            f"PART/{_SPLIT}-*.parquet for any of the six parts",
        ),
    ),
    score,
    ("sound", "official"),
    max_new_tokens=128,
    floor=floor,
    portion=parts_by(lambda row: CATEGORIES.get(str(row.extra["category"]), ""), list(CATEGORIES.values())),
)
