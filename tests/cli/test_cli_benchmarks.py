"""``moiety evaluate --benchmarks`` and ``moiety score`` from the first word to the table, and their page in docs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from moiety.evaluate.benchmarks.registry import BENCHMARKS
from tests.evaluate.benchmarks.made_layouts import pope_one_category
from tests.evaluate.benchmarks.made_options import MADE_OPTIONS

Run = Callable[..., Result]
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def test_benchmarks_are_asked_scored_and_kept(moiety: Run, sparse: Path, tmp_path: Path) -> None:
    MADE_OPTIONS["pope"](tmp_path / "data" / "pope")
    MADE_OPTIONS["mmbench_test"](tmp_path / "data" / "mmbench_test")
    words = ["evaluate", sparse, "--benchmarks", "pope, mmbench_test", "--data", tmp_path / "data"]
    words += ["-o", tmp_path / "out", "--max-new-tokens", 1, "--scorer", "official", "--device", "cpu"]
    result = moiety(*words)
    assert result.exit_code == 0, result.stderr
    assert re.search(r"pope +│ official +│ +12 │ average F1", result.stdout)
    assert "graded elsewhere" in result.stdout
    assert "pope: answers 12/12" in result.stderr
    assert f"mmbench_test: hand in {tmp_path / 'out' / 'mmbench_test.answers.xlsx'}" in result.stderr
    again = json.loads(moiety(*words, "--json").stdout)
    assert [run["benchmark"] for run in again] == ["pope", "mmbench_test"]
    assert again[0]["score"]["headline"][0] == "average F1"
    predictions = tmp_path / "out" / "pope.jsonl"
    scored = json.loads(moiety("score", "pope", tmp_path / "data" / "pope", predictions, "--json").stdout)
    assert scored["notes"].pop(0) == "answers: made by moiety, reply under 'prediction', joined by id"
    assert scored == again[0]["score"]


def test_files_are_missed_before_the_model_is_loaded(moiety: Run, tmp_path: Path) -> None:
    result = moiety("evaluate", tmp_path / "no-model", "--benchmarks", "mme", "--data", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: mme: no folder {tmp_path / 'mme'}; expected there, any one of:\n  its own")
    assert "\n  the hub: data/test-*.parquet\n" in result.stderr


def test_files_and_benchmarks_do_not_mix(moiety: Run, sparse: Path, rows: Path, tmp_path: Path) -> None:
    told = "error: give either conversation files (with --images and --predictions), or --benchmarks with --data"
    for words in (
        [rows, "--benchmarks", "pope", "--data", tmp_path],
        ["--benchmarks", "pope"],
        ["--data", tmp_path],
        [rows, "--scorer", "official"],
        [],
    ):
        result = moiety("evaluate", sparse, *words)
        assert result.exit_code == 2
        assert result.stderr.startswith(told)


def test_score_shows_all_numbers_and_refuses_what_does_not_fit(moiety: Run, tmp_path: Path) -> None:
    right = MADE_OPTIONS["scienceqa"](tmp_path)
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(right))
    result = moiety("score", "scienceqa", tmp_path, answers)
    assert result.exit_code == 0, result.stderr
    assert "scienceqa, rule sound, 2 questions" in result.stdout
    assert re.search(r"accuracy +│ 100.00 │ 100.00 to 100.00", result.stdout)
    assert re.search(r"with picture +│ 100.00", result.stdout)
    answers.write_text(json.dumps({**right, "999": "A"}))
    result = moiety("score", "scienceqa", tmp_path, answers)
    assert (result.exit_code, result.stderr) == (
        2,
        "error: scienceqa: 3 answers do not fit 2 questions by id; 1 were answered but not asked: '999'\n",
    )


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    MADE_OPTIONS["pope"](tmp_path / "data" / "pope")
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, {})
    assert capsys.readouterr().out.startswith("('average F1', 66.66666666666667) Estimate(mean=66.66666666666667")


def test_the_page_lists_every_benchmark_with_its_rules() -> None:
    lines = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = {name: tuple(re.findall(r"`(\w+)`", rules)) for name, _, rules in lines}
    assert told == {
        name: benchmark.rules if benchmark.scorer is not None else () for name, benchmark in BENCHMARKS.items()
    }


def test_a_part_is_called_so_in_the_table(moiety: Run, tmp_path: Path) -> None:
    right = pope_one_category(tmp_path / "POPE")
    (tmp_path / "answers.json").write_text(json.dumps(right))
    result = moiety("score", "pope", tmp_path / "POPE", tmp_path / "answers.json")
    assert result.exit_code == 0, result.stderr
    assert "pope (part: popular), rule official, 2 questions" in result.stdout
