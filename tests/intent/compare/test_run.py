"""A comparison is what its runs say: resumable, shared by processes, and never more certain than its seeds."""

from __future__ import annotations

import copy
import csv
import io
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from filelock import FileLock

from moiety.intent import IntentClassifier
from moiety.intent.compare.grading import grade, subsets
from moiety.intent.compare.outcome import IntentComparison
from moiety.intent.compare.report import first_method, report_page
from moiety.intent.compare.run import model_folder, run_intent_compare, run_intent_fit
from moiety.intent.compare.run_record import IntentRun, load_run, run_folder, save_run
from moiety.intent.compare.tables import csv_text, json_text, markdown
from moiety.intent.data.sources import parts_of, read_source
from moiety.intent.recipe import IntentRecipe, load_intent_recipe, parse_intent_recipe
from moiety.recipe.reader import RecipeError
from moiety.stats.intervals import seed_interval
from moiety.stats.permutation import sign_flip_test
from tests.intent.small_folder import tree_of, write_folder


def recipe_of(folder: Path, output: Path, **compare: Any) -> IntentRecipe:
    return parse_intent_recipe(tree_of(folder, output, **compare))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> IntentComparison:
    """Six lines, two seeds; nobody writes to it."""
    return run_intent_compare(recipe_of(folder, tmp_path_factory.mktemp("out") / "all"))


def test_every_run_is_there_and_floors_run_once(finished: IntentComparison) -> None:
    assert finished.missing == []
    names = sorted(path.name for path in (finished.folder / "runs").iterdir())
    trained = [f"{name}-seed{seed}" for name in ("amess", "concat", "history", "no_sync") for seed in (0, 1)]
    assert names == sorted(["logistic", "majority", *trained])
    for name in ("majority", "logistic"):
        assert set(finished.values(name, "acc")) == {0, 1}, "a floor stands beside every seed"
        assert not finished.estimate(name, "acc").has_interval


def test_scores_are_those_of_the_model_that_is_kept(finished: IntentComparison) -> None:
    recipe = finished.recipe
    parts = parts_of(read_source(recipe.data), recipe.data, 0)
    model = IntentClassifier.load(model_folder(recipe, "amess", 0))
    run = next(run for run in finished.runs if (run.name, run.seed) == ("amess", 0))
    assert grade(model, parts.score).grades == run.grades
    assert grade(model, parts.score, ("audio",)).grades == run.hidden["audio"]
    assert not model_folder(recipe, "amess", 1).exists(), "keep_models: first_seed"
    counts = np.array(run.confusion["counts"])
    assert counts.sum() == run.rows == len(parts.score)
    assert math.isclose(counts.trace() / counts.sum(), run.grades["acc"])


def test_what_is_planted_is_found_and_gone_when_hidden(finished: IntentComparison) -> None:
    # the audio tells the label and nothing else does; measured 1.00, 0.96 to 1.00 and 0.29 to 0.42
    for name in ("logistic", "amess"):
        assert finished.estimate(name, "acc").mean > 0.9
        assert finished.estimate(name, "acc", "text+video").mean > 0.75
        assert finished.estimate(name, "acc", "audio").mean < 0.6
    assert finished.estimate("majority", "acc").mean == pytest.approx(1 / 3)


def test_lines_of_one_seed_share_rows_and_differ_by_their_settings_alone(finished: IntentComparison) -> None:
    found = {(run.name, run.seed): run.settings for run in finished.runs}
    assert found["amess", 0]["data"] == found["no_sync", 0]["data"] == found["concat", 1]["data"]
    changed = dict(found["no_sync", 0]["model"])
    assert changed | {"triplet_weight": 1.0} == found["amess", 0]["model"]
    assert found["history", 0]["data"]["rows"] != found["amess", 0]["data"]["rows"], "the same rows, read otherwise"


def test_the_same_seed_gives_the_same_grades_in_any_order(finished: IntentComparison, tmp_path: Path) -> None:
    recipe = recipe_of(Path(finished.recipe.data.path), tmp_path / "again", methods=["concat"], contrasts={})
    again = run_intent_compare(recipe, seeds=[1])
    assert again.values("concat", "f1")[1] == finished.values("concat", "f1")[1]


def test_finished_runs_are_used_again(finished: IntentComparison, caplog: pytest.LogCaptureFixture) -> None:
    results = sorted(finished.folder.glob("runs/*/result.json"))
    before = [path.stat().st_mtime_ns for path in results]
    with caplog.at_level(logging.INFO, "moiety"):
        again = run_intent_compare(finished.recipe)
    assert [path.stat().st_mtime_ns for path in results] == before
    assert caplog.text.count("is finished and used as it is") == 10
    assert markdown(again) == markdown(finished)


def test_runs_of_other_settings_or_data_are_refused(finished: IntentComparison, tmp_path: Path) -> None:
    tree = finished.recipe.model_dump() | {"data": finished.recipe.data.given()}
    other = parse_intent_recipe(tree | {"model": tree["model"] | {"margin": 0.1}})
    message = r"concat-seed0.result.json was made with other settings: model.margin was 0.3, is 0.1. Choose anoth"
    with pytest.raises(ValueError, match=message):
        run_intent_compare(other, methods=["concat"])
    with pytest.raises(ValueError, match=r"was made with other settings: model.margin was 0.3, is 0.1"):
        run_intent_compare(other, methods=["concat"], seeds=[7])  # the tables would show the others beside it
    assert not run_folder(finished.folder, "concat", 7).exists(), "this is noticed before the work"
    moved = write_folder(tmp_path / "moved")
    run_intent_compare(parse_intent_recipe(tree | {"data": tree["data"] | {"path": str(moved)}}))  # the same content
    changed = write_folder(tmp_path / "changed", seed=1)
    with pytest.raises(ValueError, match=r"data.rows.train was '\w+', is '\w+'"):
        run_intent_compare(parse_intent_recipe(tree | {"data": tree["data"] | {"path": str(changed)}}))
    device = parse_intent_recipe(tree | {"model": tree["model"] | {"progress": True, "random_state": 7}})
    assert run_intent_compare(device).missing == [], "what no result depends on is no difference"


def test_a_run_in_work_elsewhere_is_left_to_that_process(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, tmp_path / "out", methods=["majority", "concat"], contrasts={})
    taken = run_folder(recipe.output, "concat", 0)
    taken.mkdir(parents=True)
    with FileLock(taken / ".lock"):
        shared = run_intent_compare(recipe, seeds=[0])
        assert shared.missing == [("concat", 0)]
        assert "1 of 2 runs are finished; these are not: concat seed 0" in markdown(shared)
    assert run_intent_compare(recipe, seeds=[0]).missing == []


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result.json is not the result of a run .*delete it to repeat the run"):
        load_run(tmp_path)
    assert load_run(tmp_path / "none") is None


def test_dry_run_plans_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    plan = run_intent_compare(recipe_of(folder, tmp_path / "out"), dry_run=True)
    assert not (tmp_path / "out").exists()
    text = markdown(plan)
    assert "10 runs planned, none made yet." in text
    assert "No contrast can be shown: 2 seeds on 2 measures cannot give p below 1; take more seeds" in text
    assert "| no_sync | amess | 0 1 | triplet_weight=0 |" in text
    eight = run_intent_compare(recipe_of(folder, tmp_path / "out"), seeds=range(8), dry_run=True)
    assert eight.limit == ""


def test_names_beside_the_recipe_are_checked_and_shown(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, tmp_path / "out")
    with pytest.raises(RecipeError, match=r"compare.methods names 'mut'; .*did you mean 'mult'"):
        run_intent_compare(recipe, methods=["mut"], dry_run=True)
    plan = run_intent_compare(recipe, methods=["text"], seeds=[9], dry_run=True)
    assert (plan.names, plan.seeds, plan.planned) == (["text"], [9], [("text", 9)])
    assert "1 run planned, none made yet" in markdown(plan)


def test_plan_progress_and_table_show_what_was_asked_and_files_what_is_finished(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, told = recipe_of(folder, tmp_path / "out"), []
    run_intent_compare(recipe, methods=["majority", "logistic"])
    with caplog.at_level(logging.INFO, "moiety"):
        asked = run_intent_compare(recipe, methods=["concat"], seeds=[1], on_run=lambda *both: told.append(both))
    assert told == [(0, 1), (1, 1)]
    assert "concat-seed1: training (run 1 of 1)" in caplog.text
    assert (asked.names, len(asked.runs), asked.missing) == (["concat"], 1, [])
    assert "1 of 1 runs are finished." in markdown(asked)
    assert asked.contrasts() == [], "both contrasts need lines that nobody asked for"
    assert asked.limit == ""
    written = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert "3 of 3 runs are finished." in written
    assert "| majority | none |" in written


def test_a_split_without_anything_to_read_is_refused(folder: Path, tmp_path: Path) -> None:
    tree = tree_of(folder, tmp_path / "out", methods=["deaf"], contrasts={})
    tree["compare"]["variants"] = {"deaf": {"model": {"modalities": ["audio"], "max_epochs": 1}}}
    with np.load(folder / "features.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["audio"][60:] = 0
    bare = tmp_path / "bare"
    bare.mkdir()
    np.savez(bare / "features.npz", **arrays)
    for name in ("rows.jsonl", "columns.json"):
        (bare / name).write_bytes((folder / name).read_bytes())
    rows = [json.loads(line) for line in (bare / "rows.jsonl").read_text().splitlines()]
    rows = [row | {"split": "test" if row["row"] >= 72 else row["split"]} for row in rows]
    (bare / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree["data"] |= {"path": str(bare), "choose": None, "score": "test"}
    with pytest.raises(ValueError, match="deaf: no row of 'test' has a modality that it reads"):
        run_intent_compare(parse_intent_recipe(tree))


def toy(finished: IntentComparison, values: dict[str, list[float]]) -> IntentComparison:
    """The same recipe with made numbers."""
    blank = finished.runs[0]
    runs = [
        replace(blank, name=name, seed=seed, grades={"acc": value, "f1": value / 2}, hidden={})
        for name, column in values.items()
        for seed, value in enumerate(column)
    ]
    seeds = range(max(len(column) for column in values.values()))
    planned = [(name, seed) for name in values for seed in seeds if name != "majority"]
    return replace(finished, runs=runs, planned=planned, names=list(values))


def test_estimates_and_contrasts_are_those_of_the_ground_floor(finished: IntentComparison) -> None:
    amess, plain = [0.8, 0.7, 0.75, 0.9, 0.6, 0.7, 0.72, 0.8], [0.7, 0.72, 0.6, 0.8, 0.5, 0.6, 0.7, 0.7]
    made = toy(finished, {"amess": amess, "no_sync": plain, "majority": [0.25]})
    assert made.estimate("amess", "acc") == seed_interval(amess)
    found = {(entry.name, entry.question_type): entry for entry in made.contrasts()}
    differences = [a - b for a, b in zip(amess, plain, strict=True)]
    assert found["synchronisation", "acc"].test == sign_flip_test(differences)
    assert found["synchronisation", "acc"].estimate.mean == pytest.approx(sum(differences) / 8)
    # F1 is half of accuracy everywhere, so both p agree, and Holm doubles the smaller one
    assert found["synchronisation", "acc"].corrected == pytest.approx(2 * sign_flip_test(differences).p)
    assert found["floor", "acc"].test.p == 2**-7, "all seeds above the floor: the least p that 8 can give"
    assert found["floor", "acc"].verdict.startswith("amess beats majority by ")
    assert "over 2 measures" in found["floor", "f1"].numbers


def test_no_verdict_is_drawn_from_too_few_seeds(finished: IntentComparison) -> None:
    made = toy(finished, {"amess": [0.9] * 5, "no_sync": [0.1] * 5})
    entry = made.contrasts()[0]
    assert entry.verdict == "amess and no_sync are not distinguishable"
    assert "5 seeds on 2 measures cannot give p below 0.125" in entry.numbers
    one = toy(finished, {"amess": [0.9], "no_sync": [0.1]})
    assert one.contrasts()[0].verdict == "one seed: no verdict"
    assert "one seed, no interval" in markdown(one)


def test_tables_say_the_same_as_the_records(finished: IntentComparison) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(finished))))
    for line in lines:
        estimate = finished.estimate(line["method"], line["measure"], line["hidden"])
        assert float(line["mean"]) == estimate.mean
        assert (line["low"] == "") == (not estimate.has_interval)
    assert {line["hidden"] for line in lines} == {"", "audio", "text+video"}
    tree = json.loads(json_text(finished))
    assert [IntentRun(**run) for run in tree["runs"]] == list(finished.runs)
    text = markdown(finished)
    cells = re.search(r"\| amess \| 2 \| ([\d.]+) \[", text)
    assert cells is not None
    assert float(cells[1]) == pytest.approx(100 * finished.estimate("amess", "acc").mean, abs=0.005)
    assert "The best epoch was chosen on 10% of the training rows, whole persons drawn by the seed." in text
    assert "no_sync: without synchronisation" in text
    assert "Every seed scores the same 2 groups of rows (persons). Intervals and verdicts therefore say how" in text


def test_the_page_needs_nothing_else(finished: IntentComparison) -> None:
    page = (finished.folder / "report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    for words in ("synchronisation", "text+video hidden", "logistic", "as reconstructed by moiety"):
        assert words in page
    assert first_method(finished) == "amess"
    hostile = replace(finished, recipe=finished.recipe.model_copy(update={"name": "<b>"}))
    assert "methods side by side: &lt;b&gt;</h1>" in report_page(hostile)


def test_the_recipe_beside_the_results_makes_the_same_comparison(folder: Path, tmp_path: Path) -> None:
    recipe = recipe_of(folder, tmp_path / "out", methods=["majority", "no_sync", "history"])
    run_intent_compare(recipe, methods=["majority"])
    assert load_intent_recipe(tmp_path / "out" / "recipe.yaml") == recipe


def test_fit_keeps_the_model_of_every_seed(folder: Path, tmp_path: Path) -> None:
    tree = tree_of(folder, tmp_path / "out") | {"seeds": [0]}
    tree["model"]["method"] = "concat"
    result, models = run_intent_fit(parse_intent_recipe(tree), seeds=[2, 5])
    assert [(run.name, run.seed) for run in result.runs] == [("concat", 2), ("concat", 5)]
    assert [IntentClassifier.load(model).random_state for model in models] == [2, 5]
    assert not (tmp_path / "out" / "table.md").exists(), "a comparison in the same output has its own table"


def test_records_survive_the_disk(finished: IntentComparison, tmp_path: Path) -> None:
    run = finished.runs[3]
    save_run(run, tmp_path)
    assert load_run(tmp_path, copy.deepcopy(run.settings)) == run
    older = json.loads(json.dumps(run.settings))
    del older["model"]["margin"]  # a field that came later has its default in what was made before
    assert load_run(tmp_path, older) == run


def test_subsets_leave_every_set_once() -> None:
    left = [frozenset("abc") - frozenset(hidden) for hidden in subsets("abc")]
    assert left[0] == frozenset("abc")
    assert len(left) == len(set(left)) == 7
    assert frozenset() not in left


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_ends_as_one_that_was_not(finished: IntentComparison, tmp_path: Path) -> None:
    tree = yaml.safe_load((finished.folder / "recipe.yaml").read_text()) | {"output": str(tmp_path / "out")}
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "moiety", "intent", "compare", str(path)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "out").glob("runs/*/result.json"))) < 4 and first.poll() is None:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    before = len(list((tmp_path / "out").glob("runs/*/result.json")))
    assert 4 <= before < 10
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    again = run_intent_compare(load_intent_recipe(path))
    for name in again.names:
        assert again.values(name, "f1") == finished.values(name, "f1")
