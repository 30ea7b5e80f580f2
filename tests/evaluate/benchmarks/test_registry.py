"""Laws of every benchmark: full marks, floors, intervals, ids that fit, 500 hostile answers, files that are missing."""

import random
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from moiety.evaluate.benchmarks.benchmark import Benchmark
from moiety.evaluate.benchmarks.registry import BENCHMARKS, benchmarks_named
from moiety.vlm.rows import Row
from tests.evaluate.benchmarks.made import MADE
from tests.evaluate.benchmarks.made_options import MADE_OPTIONS, Right

SCORED = [name for name, benchmark in BENCHMARKS.items() if benchmark.scorer is not None]
NUM_HOSTILE = 500


@cache
def made(name: str) -> tuple[Benchmark, list[Row], Right]:
    folder = Path(mkdtemp()) / name
    if name in MADE_OPTIONS:
        right = MADE_OPTIONS[name](folder)
    else:
        folder.mkdir()
        MADE[name].write(folder)
        right = dict(MADE[name].right)
    return BENCHMARKS[name], BENCHMARKS[name].read(folder), right


@cache
def hostile() -> tuple[str, ...]:
    """Texts that no model should write and one day does; six of 100,000 characters."""
    draw = random.Random(0)
    planes = ((0, 0x20), (0x20, 0x7F), (0x80, 0x2FF), (0x590, 0x6FF), (0x2000, 0x206F), (0x4E00, 0x4FFF))
    planes = (*planes, (0xD800, 0xDFFF), (0xFF00, 0xFFEF), (0x1F300, 0x1FAFF), (0, sys.maxunicode))
    bits = ["yes", "No", "A.", "(B)", "answer is ", "是", "对", "\n", "\t", "\0", "\u2028", "\u202e", "<image>", "</s>"]
    bits += ["1,000", "-3.5e9", "1e400", "nan", "٣", "½", "²", "[", "{", "%", "'", '"', "\\", "=", "。", "  ", "İ", "ß"]
    whole = [
        "",
        " ",
        "\0",
        "\n" * 9,
        "nan",
        "-inf",
        "1e999",
        "⁵",
        "٤٢",
        "👩\u200d👧",
        "\u202eyes\u202c",
        "<b>A</b>",
        "[1, 2",
    ]
    whole += ["A " * 50_000, "(" * 100_000, "9" * 100_000, "1,111," * 16_667, "answer is " * 10_000, "\n" * 100_000]
    while len(whole) < NUM_HOSTILE:
        if len(whole) % 2:
            whole.append("".join(draw.choice(bits) for _ in range(draw.randint(1, 12))))
        else:
            low, high = draw.choice(planes)
            whole.append("".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 40))))
    return tuple(whole)


def test_every_benchmark_has_a_small_folder() -> None:
    assert set(BENCHMARKS) == set(MADE) | set(MADE_OPTIONS)
    assert all(name == benchmark.name for name, benchmark in BENCHMARKS.items())


@pytest.mark.parametrize("name", SCORED)
def test_five_hundred_hostile_answers_never_stop_a_scorer(name: str) -> None:
    benchmark, rows, right = made(name)
    assert benchmark.scorer is not None
    assert len(hostile()) == NUM_HOSTILE
    rows = [row for row in rows if row.type == rows[0].type] if len(rows) > 8 else rows
    full = {
        rule: benchmark.scorer(rows, {row.id: right[row.id] for row in rows}, rule).headline for rule in benchmark.rules
    }
    for number, text in enumerate(hostile()):
        # one row at a time reads a text of 100,000 characters, each row its own; that takes nine tenths of the test
        readers = [rows[number % len(rows)]] if len(text) >= 100_000 else rows
        answers = dict.fromkeys((row.id for row in rows), "") | {row.id: text for row in readers}
        for rule in benchmark.rules:
            score = benchmark.scorer(rows, answers, rule)
            assert score.headline[0] == full[rule][0]
            assert 0 <= score.headline[1] <= max(100, full[rule][1])


@pytest.mark.parametrize("name", SCORED)
def test_full_marks_floor_and_interval(name: str) -> None:
    benchmark, rows, right = made(name)
    assert set(right) == {row.id for row in rows}
    for rule in benchmark.rules:
        score = benchmark.score(rows, right, rule)
        silent = benchmark.score(rows, dict.fromkeys(right, ""), rule)
        if (name, rule) != ("hallusionbench", "official"):  # it takes every label for no
            assert score.headline[1] == {"mme": 2000, "ocrbench": len(rows)}.get(name, 100)
        assert silent.headline[1] == pytest.approx(benchmark.floor(rows, rule))
        for one in (score, silent):
            assert one.statistic is not None
            assert one.interval is not None
            assert one.numbers[one.headline[0]] == one.headline[1]
            assert one.statistic(np.ones(len(rows))) == pytest.approx(one.headline[1])
            assert one.interval.low - 1e-9 <= one.headline[1] <= one.interval.high + 1e-9
            assert one.to_dict()["rule"] == rule


@pytest.mark.parametrize("name", BENCHMARKS)
def test_answers_must_fit_by_id(name: str) -> None:
    benchmark, rows, right = made(name)
    first = rows[0].id
    missing = {key: text for key, text in right.items() if key != first}
    use = benchmark.score if benchmark.scorer is not None else lambda r, a: benchmark.write_answers(r, a, Path("never"))
    with pytest.raises(ValueError, match=f"by id; 1 have no answer: {first!r}"):
        use(rows, missing)
    with pytest.raises(ValueError, match="by id; 1 were answered but not asked: 'extra'"):
        use(rows, right | {"extra": "yes"})
    with pytest.raises(ValueError, match=f"by id; 1 occur more than once: {first!r}"):
        use([*rows, rows[0]], right)
    with pytest.raises(ValueError, match=f"{name}: no questions to score"):
        use([], right)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_files_are_told_with_what_is_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        BENCHMARKS[name].read(tmp_path / name)
    assert BENCHMARKS[name].files in str(missing.value)


def test_names_and_rules_are_checked() -> None:
    assert [benchmark.name for benchmark in benchmarks_named(["pope", "mme"])] == ["pope", "mme"]
    with pytest.raises(ValueError, match=r"no benchmark 'poppe'; known: .*; did you mean 'pope'\?"):
        benchmarks_named(["poppe"])
    with pytest.raises(ValueError, match=r"a benchmark is named twice in pope, pope; name each once"):
        benchmarks_named(["pope", "pope"])
    with pytest.raises(ValueError, match=r"name at least one benchmark; known: "):
        benchmarks_named([])
    pope = BENCHMARKS["pope"]
    assert [pope.rule_named(rule) for rule in (None, "sound", "vcd")] == ["official", "sound", "vcd"]
    assert BENCHMARKS["mmbench"].rule_named(None) == "sound"
    with pytest.raises(ValueError, match=r"pope has no rule 'oficial'; known: .*; did you mean 'official'\?"):
        pope.rule_named("oficial")
    with pytest.raises(ValueError, match=r"pope has no answers file of its own; its answers are scored here"):
        pope.write_answers([], {}, Path("never"))


def test_an_empty_file_and_equal_ids_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ai2d_test.jsonl").write_text("\n")
    with pytest.raises(
        ValueError, match=r"ai2d: no question in .*; expected there, any one of:\n  LLaVA's bundle: ai2d_te"
    ):
        BENCHMARKS["ai2d"].read(tmp_path)
    line = '{"question_id": 3, "question": "?", "options": ["w", "x"], "answer": "0", "image": "a.png"}\n'
    (tmp_path / "ai2d_test.jsonl").write_text(line * 2)
    with pytest.raises(ValueError, match=r"ai2d: 1 ids occur more than once in .*: '3'"):
        BENCHMARKS["ai2d"].read(tmp_path)
