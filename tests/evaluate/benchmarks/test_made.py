"""All benchmarks of free answers on small folders: full marks, floors, hostile answers, damaged files."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moiety.evaluate.benchmarks.registry import BENCHMARKS
from tests.evaluate.benchmarks.made import MADE

HOSTILE = (
    "\x00",
    "\n\t\r\u2028\u0085",
    "\ud800",
    "👩\u200d👩\u200d👧 ١٢٣ ｅｘｉｔ",
    "\u202eabc\u202c",
    "<image><|im_end|></s><script>",
    "(" * 5_000,
    "1" * 100_000,
    "1,111" * 4_000 + "x",
    "[1," * 4_000,
    "a. " * 4_000,
    "-.,?!'\"" * 2_000,
    "nan",
    "-inf",
    "1e400",
    "%",
    "answer is (" * 2_000,
)


@pytest.mark.parametrize("name", MADE)
def test_full_marks_and_floor(name: str, tmp_path: Path) -> None:
    benchmark, made = BENCHMARKS[name], MADE[name]
    rows = benchmark.read(made.write(tmp_path))
    assert {row.id for row in rows} == set(made.right)
    assert all(row.turns[0].text.count("<image>") == len(row.images) for row in rows)
    if benchmark.writer is not None:
        benchmark.write_answers(rows, made.right, tmp_path / "out.json")
        assert (tmp_path / "out.json").stat().st_size > 10
    if benchmark.scorer is None:
        return
    for rule in benchmark.rules:
        faulty = (name, rule) == ("hallusionbench", "official")  # it takes every label for no
        full = len(rows) if name == "ocrbench" else 0 if faulty else 100
        score = benchmark.score(rows, made.right, rule)
        assert score.headline[1] == pytest.approx(full)
        assert score.interval is not None
        assert score.interval.low == score.interval.high == pytest.approx(full)
        silent = benchmark.score(rows, dict.fromkeys(made.right, ""), rule)
        assert silent.headline[1] == pytest.approx(benchmark.floor(rows, rule))


@pytest.mark.parametrize("name", [name for name in MADE if BENCHMARKS[name].scorer is not None])
def test_hostile_answers_are_wrong_and_nothing_worse(name: str, tmp_path: Path) -> None:
    benchmark, made = BENCHMARKS[name], MADE[name]
    rows = benchmark.read(made.write(tmp_path))
    assert benchmark.scorer is not None
    for rule in benchmark.rules:
        for text in HOSTILE:
            score = benchmark.scorer(rows, dict.fromkeys(made.right, text), rule)
            assert 0 <= score.headline[1] <= 100


def damaged(document: Any, damage: Any) -> Iterator[Any]:
    """The document with one value at a time replaced; of a list the first entry stands for all."""
    if not isinstance(document, dict | list) or not document:
        return
    for key in document if isinstance(document, dict) else [0]:
        whole = copy.copy(document)
        for inner in (damage, *damaged(document[key], damage)):
            whole[key] = inner
            yield whole


def is_refused(name: str, folder: Path) -> bool:
    try:
        BENCHMARKS[name].read(folder)
    except ValueError as refused:
        message = str(refused)
    else:
        return False
    assert str(folder) in message
    return True


@pytest.mark.parametrize("name", MADE)
def test_damaged_files_are_refused_with_their_name(name: str, tmp_path: Path) -> None:
    """A value of another kind is an error that names the benchmark and its folder, or does no harm to reading."""
    made, num_refused = MADE[name], 0
    for file, document in made.files.items():
        made.write(tmp_path)
        for damage in (None, 3, "x", []):
            for broken in damaged(document, damage):
                (tmp_path / file).write_text(json.dumps(broken))
                num_refused += is_refused(name, tmp_path)
    assert num_refused > 3
