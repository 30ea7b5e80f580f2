"""Nested parts by person: who scores chose nothing, and verdicts are about persons."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.intent.compare.fold_runs import pooled
from moiety.intent.compare.outcome import IntentComparison
from moiety.intent.compare.persons import drawn, swapped, tables_of
from moiety.intent.compare.run import run_intent_compare, run_intent_fit
from moiety.intent.compare.run_record import load_run, run_folder
from moiety.intent.compare.tables import contrast_table, markdown
from moiety.intent.data.dataset import IntentDataset, Split
from moiety.intent.data.folds import fold_rows, folds_of
from moiety.intent.data.samples import IntentSample
from moiety.intent.data.sources import fingerprint, known_persons, read_source
from moiety.intent.metrics import closed_set_metrics, measures_of
from moiety.intent.recipe import IntentDataSettings, IntentRecipe, parse_intent_recipe
from moiety.recipe.reader import RecipeError
from moiety.stats.permutation import sign_flip_test
from tests.intent.small_folder import tree_of, write_folder


def split_of(groups: list[int], labels: list[str]) -> Split:
    return Split([IntentSample(f"r{i}", text="x") for i in range(len(groups))], labels, [f"g{g}" for g in groups])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(5, 12), st.integers(0, 3), st.data())
def test_every_person_scores_once_and_is_then_unknown_to_the_model(
    folds: int, persons: int, seed: int, data: st.DataObject
) -> None:
    groups = [person for person in range(persons) for _ in range(data.draw(st.integers(3, 9)))]
    split = split_of(groups, [("a", "b")[i % 2] for i in range(len(groups))])
    parts = folds_of(split, folds, seed)
    scored = Counter(sample.key for part in parts for sample in part.score.samples)
    assert scored == Counter(sample.key for sample in split.samples)
    for part in parts:
        assert part.choose is not None
        names = [set(rows.groups) for rows in (part.train, part.choose, part.score)]
        assert sum(map(len, names)) == len(set.union(*names)) == persons
        assert len(part.train) + len(part.choose) + len(part.score) == len(split)
    # the seed draws who chooses, never who scores
    again = folds_of(split, folds, seed + 1)
    assert [part.score.groups for part in parts] == [part.score.groups for part in again]


def test_folds_need_persons_and_enough_of_them() -> None:
    nobody = replace(split_of([0, 1], ["a", "b"]), groups=[])
    with pytest.raises(
        ValueError, match=r"data.folds is 3, but no row says who speaks; name the persons in a field `gr"
    ):
        fold_rows(nobody, 3)
    with pytest.raises(ValueError, match=r"data.folds is 3, but there are 2 groups; give at most 2"):
        fold_rows(split_of([0, 1, 1], ["a", "b", "a"]), 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=30))
def test_grades_of_counts_are_those_of_rows(answers: list[tuple[str, str]]) -> None:
    counts = np.zeros((2, 4, 4))
    for truth, said in answers:
        counts[1, "abcd".index(truth), "abcd".index(said)] += 1
    expected = closed_set_metrics([truth for truth, _ in answers], [said for _, said in answers])
    found = measures_of(counts)
    assert {name: float(values[1]) for name, values in found.items()} == pytest.approx(expected)
    assert {float(values[0]) for values in found.values()} == {0.0}, "no row, no grade"


def tables(shares: list[float], rows: int = 20) -> np.ndarray:
    """``(1, groups, 2, 2)``: rows of two classes, of which so large a share is right for each person."""
    found = np.zeros((1, len(shares), 2, 2))
    for person, share in enumerate(shares):
        right = round(share * rows)
        found[0, person] = [[right, rows - right], [rows - right, right]]
    return found


def test_the_test_over_persons_is_the_sign_flip_test_where_a_grade_is_a_mean_over_persons() -> None:
    """Accuracy with as many rows of each person is one; of eleven persons all exchanges are counted."""
    draw = np.random.default_rng(0)
    first, second = draw.uniform(0.4, 0.9, 11).round(2), draw.uniform(0.4, 0.8, 11).round(2)
    one, other = tables(first.tolist(), 100), tables(second.tolist(), 100)
    found = swapped(one, other)["acc"]
    exact = sign_flip_test((first - second).tolist())
    assert (found.p, found.exact, found.num_values) == (exact.p, True, 11)
    many = swapped(np.concatenate([one] * 2, 1), np.concatenate([other] * 2, 1))["acc"]
    assert not many.exact
    assert many.p == pytest.approx(sign_flip_test([*(first - second)] * 2).p, abs=0.03)


def test_what_differs_in_every_person_is_shown_and_what_differs_in_one_is_not() -> None:
    same, better = tables([0.5] * 20), tables([0.7] * 20)
    one = tables([1.0, *[0.5] * 19])
    pair = {"a": 1.0, "b": -1.0}
    estimate, test = drawn({"a": better, "b": same}, pair)["acc"]
    assert (round(estimate.low, 6), round(estimate.mean, 6), round(estimate.high, 6)) == (0.2, 0.2, 0.2)
    assert test.p < 0.01
    assert swapped(better, same)["f1"].p < 0.01
    estimate, test = drawn({"a": one, "b": same}, pair)["acc"]
    assert estimate.low <= 0 < estimate.mean < estimate.high
    assert swapped(one, same)["acc"].p > 0.4
    assert swapped(same, same)["acc"].p == 1
    assert math.isnan(drawn({"a": tables([0.5])}, {"a": 1.0})["acc"][0].low), "one person has no spread"


def recipe_of(folder: Path, output: Path, **compare: object) -> IntentRecipe:
    tree = tree_of(folder, output, **{"methods": ["majority", "logistic", "concat"], **compare})
    tree["data"] = {"kind": "hazumi", "path": str(folder), "folds": 3}
    tree["compare"]["contrasts"] = {"floor": ["logistic", "majority"], "net": ["concat", "majority"]}
    return parse_intent_recipe(tree)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> IntentComparison:
    folder = tmp_path_factory.mktemp("folds")
    return run_intent_compare(recipe_of(write_folder(folder / "data"), folder / "out"), seeds=[0, 1])


def test_grades_are_those_of_all_rows_together(finished: IntentComparison) -> None:
    rows = read_source(finished.recipe.data)["train"]
    for run in finished.runs:
        assert run.rows == len(rows) == 60
        counts = np.array(run.confusion["counts"])
        labels = run.confusion["labels"]
        truth = [labels[i] for i, line in enumerate(counts) for _ in range(line.sum())]
        said = [labels[j] for line in counts for j, number in enumerate(line) for _ in range(number)]
        assert run.grades == pytest.approx(closed_set_metrics(truth, said))
        assert set(run.by_group) == {"", "audio", "text+video"}
        assert set(run.by_group[""]["counts"]) == set(rows.groups)
    whole = tables_of({"m": [run for run in finished.runs if run.name == "majority"]})["m"]
    assert whole.sum() == 60
    assert finished.estimate("concat", "acc").has_interval
    assert finished.estimate("majority", "acc").has_interval, "persons enter floors too"


def test_verdicts_are_about_persons(finished: IntentComparison) -> None:
    found = {(one.name, one.question_type): one for one in finished.contrasts()}
    assert found["floor", "acc"].pairs == "person"
    assert found["floor", "acc"].test.num_values == 6
    # six persons on two measures can give 0.0625 at best, however clear it is
    assert "6 persons on 2 measures cannot give p below 0.0625" in found["floor", "acc"].numbers
    assert "logistic and majority are not distinguishable" in str(contrast_table(finished))
    text = markdown(finished)
    assert "Each of 60 rows (split 'train') is scored in one fold and used for training in the others." in text
    assert "with the 95 % interval over persons" in text
    assert "Each of 6 groups was scored once, in 3 folds, by models that never saw it" in text
    page = (finished.folder / "report.html").read_text("utf-8")
    assert (
        "are scored on 60 rows of 6 persons (split &#x27;train&#x27;), in 3 folds: each person by models that" in page
    )
    assert "; six persons are too few (the test needs 7) to show a difference from majority and logistic." in page
    assert "the intervals are over persons like these" in page
    assert "persons drawn with replacement" in (finished.folder / "report.html").read_text("utf-8")


def test_a_stopped_run_goes_on_at_its_fold(finished: IntentComparison, caplog: pytest.LogCaptureFixture) -> None:
    folder = run_folder(finished.recipe.output, "concat", 0)
    before = load_run(folder)
    (folder / "result.json").unlink()
    (folder / "fold1" / "result.json").unlink()
    with caplog.at_level(logging.INFO, "moiety"):
        again = run_intent_compare(finished.recipe, methods=["concat"], seeds=[0])
    assert [line for line in caplog.messages if "fold" in line] == ["concat-seed0: fold 2 of 3"]
    assert again.runs[0].grades == before.grades
    folds = [load_run(folder / f"fold{number}") for number in range(3)]
    assert pooled(folds, before.settings).by_group == before.by_group


def test_folds_stand_in_the_record(finished: IntentComparison, tmp_path: Path) -> None:
    tree = finished.recipe.model_dump() | {"data": {**finished.recipe.data.given(), "folds": 2}}
    with pytest.raises(ValueError, match=r"made with other settings: data.folds was 3, is 2"):
        run_intent_compare(parse_intent_recipe(tree), methods=["majority"])
    split = read_source(finished.recipe.data)["train"]
    other = replace(split, groups=["x", *split.groups[1:]])
    assert fingerprint(split, with_groups=True) != fingerprint(other, with_groups=True)


def test_what_folds_cannot_go_with(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, tmp_path / "out")
    tree["data"] = {"kind": "hazumi", "path": "x", "folds": 3, "score": "dev"}
    with pytest.raises(
        RecipeError, match=r"folds is 3: the persons of each fold are scored .*, so leave score out \(or over"
    ):
        parse_intent_recipe(tree)
    tree["data"] = {"kind": "hazumi", "path": "x", "folds": 3}
    assert parse_intent_recipe(tree).data.choose is None
    with pytest.raises(
        ValueError, match=r"data.folds is 3, which makes as many models for each seed .*leave folds out"
    ):
        run_intent_fit(parse_intent_recipe(tree))
    tree["model"]["oos"] = "msp"
    with pytest.raises(RecipeError, match=r"data.folds grades rows of known classes only; leave model.oos and"):
        parse_intent_recipe(tree)


def test_a_person_on_both_sides_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = tmp_path / "rows.csv"
    people = {"train": ["p1", "p2", "p3"], "dev": ["p3"], "test": ["p3", "p4"]}
    lines = [
        f"{split}{person}{label}{n},{label} {n},{label},{split},{person}"
        for split, names in people.items()
        for person in names
        for label in ("go", "stay")
        for n in range(3)
    ]
    rows.write_text("\n".join(["key,text,label,split,person", *lines]) + "\n")
    data = IntentDataSettings(kind="clips", path=str(rows))
    told = known_persons(read_source(data), data)
    assert told == [
        "1 of 2 groups of split test are also in split train (p3): these grades are for persons that the model knows; "
        "for new persons set data.folds",
        "1 of 2 groups of split test are also in split dev (p3): these grades are for persons that the model knows; "
        "for new persons set data.folds",
    ]
    recipe = parse_intent_recipe(
        {"name": "r", "output": str(tmp_path / "out"), "data": data.given(), "compare": {"methods": ["majority"]}}
    )
    with caplog.at_level(logging.WARNING, "moiety"):
        run_intent_compare(recipe)
    assert caplog.text.count("are also in split train") == 1
    apart = IntentDataset("x", {"train": split_of([0], ["a"]), "test": split_of([1], ["a"])})
    assert known_persons(apart, data.model_copy(update={"choose": None})) == []
