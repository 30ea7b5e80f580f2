"""From records to tables, sentences, plot and page; no sentence says more than its interval."""

import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moiety.compare.pace import place_of, seconds_left
from moiety.compare.page import report_page
from moiety.compare.plot import draw
from moiety.compare.records import RunRecord, load_record, save_record
from moiety.compare.sentences import result
from moiety.compare.summary import MEAN_OF_TYPES, Comparison, SchemeRow
from moiety.compare.table import csv_text, json_text, markdown
from moiety.compare.verdicts import Difference, Floors
from moiety.evaluate.report import Conflict
from moiety.recipe.compare import CompareSettings
from moiety.recipe.recipe import EvaluateSettings, MoESettings
from moiety.recipe.section import differences
from moiety.stats.intervals import Estimate, wilson_interval
from moiety.stats.permutation import sign_flip_test

SIGNS = sign_flip_test([0.1, 0.2, 0.3])


def record(scheme: str, seed: int, colour: int, exist: int, blank: int = 20) -> RunRecord:
    def scores(*right: int) -> dict[str, object]:
        types = {
            name: {"accuracy": vars(wilson_interval(count, 100)), "task": "exact", "num_questions": 100, "metrics": {}}
            for name, count in zip(("colour", "exist <b>"), right, strict=True)
        }
        return {"types": types, "mean_of_types": sum(right) / 200}

    training = {"tokens": 1000.0, "tokens_per_second": 50.0, "peak_memory_gib": 0.5}
    return RunRecord(scheme, seed, {"a": 1}, scores(colour, exist), scores(blank, 50), 100, 200, training)


def comparison(*records: RunRecord, seeds: int = 3, **more: object) -> Comparison:
    rows = [
        SchemeRow("dense", "fewer activated parameters", 8, 80, 80, -0.2),
        SchemeRow("vanilla", "equal", 8, 100, 200, 0.0),
        SchemeRow("moiie", "equal", 8, 100, 200, 0.0),
    ]
    planned = [(row.scheme, seed) for row in rows for seed in range(seeds)]
    floors = {"colour": Floors(majority=0.2, question_only=0.25)}
    return Comparison("toy", rows, "moiie", records, floors, planned, **more)  # type: ignore[arg-type]


@pytest.fixture
def three_seeds() -> Comparison:
    runs = [record("moiie", seed, 80 + seed, 60 + 5 * seed) for seed in range(3)]
    runs += [record("vanilla", seed, 70 + seed, 62 - 5 * seed) for seed in range(3)]
    return comparison(*runs, record("dense", 0, 50, 50))


def test_differences_are_paired_by_seed(three_seeds: Comparison) -> None:
    found = {(entry.second, entry.question_type): entry for entry in three_seeds.reference_minus_others()}
    colour = found["vanilla", "colour"]
    assert colour.sentence == (
        "moiie − vanilla on 'colour': +10.0 points [+10.0, +10.0], 3 seeds, p 0.25, corrected 0.75: moiie is higher"
    )
    assert found["vanilla", "exist <b>"].verdict == "not distinguishable"
    dense = found["dense", "colour"]
    assert dense.sentence.endswith("1 seed: one seed: no verdict (dense: fewer activated parameters)")
    assert ("vanilla", MEAN_OF_TYPES) in found


def test_the_sign_is_the_same_in_the_number_the_sentence_the_page_and_the_file() -> None:
    """The reference answers 80, 82 and 87 % right, the other scheme 70, 71 and 72 %: the reference leads by 12."""
    runs = [record("moiie", seed, right, 60) for seed, right in enumerate((80, 82, 87))]
    runs += [record("vanilla", seed, right, 60) for seed, right in enumerate((70, 71, 72))]
    found = comparison(*runs)
    colour = next(one for one in found.reference_minus_others() if one.question_type == "colour")
    assert (colour.first, colour.second) == ("moiie", "vanilla")
    assert colour.estimate.mean == pytest.approx((0.10 + 0.11 + 0.15) / 3)
    assert colour.sentence.startswith("moiie − vanilla on 'colour': +12.0 points [+5.4, +18.6]")
    assert colour.verdict == "moiie is higher"
    assert colour.sentence in report_page(found, {}).replace("&#x27;", "'")
    saved = next(one for one in json.loads(json_text(found))["differences"] if one["question_type"] == "colour")
    assert (saved["first"], saved["second"], saved["verdict"]) == ("moiie", "vanilla", "moiie is higher")
    assert saved["estimate"]["mean"] == pytest.approx(0.12)
    assert "moiie is higher than vanilla by 6.0 points" in result(found)  # the mean of two types, one of them equal
    turned = replace(found, reference="vanilla").reference_minus_others()
    assert [one.estimate.mean for one in turned if one.question_type == "colour"] == [pytest.approx(-0.12)]


@given(st.floats(-1, 1), st.floats(0, 1))
def test_a_verdict_never_says_more_than_its_interval(mean: float, half: float) -> None:
    verdict = Difference("a", "b", "t", Estimate(mean, mean - half, mean + half, 3), "equal", SIGNS).verdict
    contains_zero = mean - half <= 0 <= mean + half
    assert (verdict == "not distinguishable") == contains_zero
    assert verdict != ("a is higher" if mean < 0 else "a is lower")


def test_standing_needs_the_whole_interval_above_every_control(three_seeds: Comparison) -> None:
    standing = {(entry.scheme, entry.question_type): entry for entry in three_seeds.standings()}
    assert standing["moiie", "colour"].sees
    assert (
        "against blank image 20.0, majority 20.0, question-only 25.0: above all" in standing["moiie", "colour"].sentence
    )
    assert not standing["vanilla", "exist <b>"].sees
    assert "not shown to be above" in standing["vanilla", "exist <b>"].sentence


def test_table_names_what_is_missing_and_unequal(three_seeds: Comparison) -> None:
    text = markdown(three_seeds)
    assert "| moiie | 3 | 73.0 [65.5, 80.5] | 81.0 [78.5, 83.5] |" in text
    assert "| dense (fewer activated parameters) | 1 | 50.0 | 50.0 [40.4, 59.6] |" in text
    assert "7 of 9 runs are finished; without result: dense seeds 1, 2." in text
    assert "| question-only |  |  | 25.0 |" in text
    assert "-20.00 % (fewer activated parameters)" in text


def test_plan_without_runs_shows_parameters_only() -> None:
    text = markdown(comparison())
    assert "0 of 9 runs" in text
    assert "| scheme | expert width |" in text
    assert "seeds |" not in text


def test_one_seed_says_what_its_interval_means() -> None:
    text = markdown(comparison(record("moiie", 0, 80, 60), seeds=1))
    assert "one seed, with Wilson's 95 % interval over questions (says nothing about other seeds)" in text


def test_csv_and_json_hold_the_same_numbers(three_seeds: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(three_seeds))))
    line = next(line for line in lines if line["scheme"] == "moiie" and line["type"] == "colour")
    assert float(line["mean"]) == pytest.approx(0.81)
    assert (line["num_seeds"], line["question_only"], line["total"]) == ("3", "0.25", "200")
    tree = json.loads(json_text(three_seeds))
    assert len(tree["records"]) == 7
    assert tree["missing"] == [["dense", 1], ["dense", 2]]
    assert "NaN" not in json_text(three_seeds)


def test_page_stands_alone_and_escapes(three_seeds: Comparison, tmp_path: Path) -> None:
    plot = tmp_path / "comparison.png"
    draw(three_seeds, plot)
    with Image.open(plot) as picture:
        assert picture.size[0] > 500
    page = report_page(three_seeds, {"Accuracy": plot, "absent": tmp_path / "absent.png"})
    assert page.count("<img") == 1
    assert "data:image/png;base64," in page
    assert "exist &lt;b&gt;" in page
    assert "exist <b>" not in page
    assert page.index("<img") < page.index("<table") < page.index("moiie minus each other scheme")
    for request in ("http://", "https://", "<script", "<link", "url("):
        assert request not in page
    assert "with 3 comparisons at 95 %, about 0.15 would look different by chance" in page
    assert "sign-flip test, which 3 seeds cannot bring below 0.25" in page


def test_record_is_whole_and_refused_under_other_settings(tmp_path: Path) -> None:
    assert load_record(tmp_path) is None
    save_record(record("moiie", 0, 80, 60), tmp_path)
    assert load_record(tmp_path, {"a": 1}) == record("moiie", 0, 80, 60)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    with pytest.raises(ValueError, match=r"result.json was made with other settings: a was 1, is 2. Choose another"):
        load_record(tmp_path, {"a": 2})
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result.json is not the result of a run"):
        load_record(tmp_path)


def test_records_from_before_a_setting_existed_stay_valid(tmp_path: Path) -> None:
    now: dict[str, Any] = {
        "stages": [{"seed": 0, "moe": {"top_k": 1}}],
        "evaluate": EvaluateSettings().model_dump(mode="json"),
    }
    then = {
        "stages": [{"seed": 0, "moe": MoESettings(top_k=1).model_dump(mode="json", exclude={"asymoe"})}],
        "evaluate": {"data": [], "limit": None, "max_new_tokens": 16, "blank_image": True},
    }
    save_record(replace(record("moiie", 0, 80, 60), settings=then), tmp_path)
    assert load_record(tmp_path, now) is not None
    changed = [{"seed": 0, "moe": {"top_k": 1, "norm_topk": False}}]
    with pytest.raises(ValueError, match=r"evaluate.limit was None, is 3; stages.0.moe.norm_topk was True, is False"):
        load_record(tmp_path, {"stages": changed, "evaluate": now["evaluate"] | {"limit": 3}})


def test_differences_name_dotted_keys() -> None:
    then = {"stages": [{"train": {"max_steps": 100}}], "seed": 0}
    now = {"stages": [{"train": {"max_steps": 200}}], "limit": 5, "seed": 0}
    assert differences(then, now) == ["stages.0.train.max_steps was 100, is 200", "limit was None, is 5"]


def asked(**compare: object) -> CompareSettings:
    return CompareSettings.model_validate(compare)


def test_contrasts_are_corrected_together_and_say_what_is_missing(three_seeds: Comparison, tmp_path: Path) -> None:
    contrasts = {"gain": ["moiie", "vanilla"], "sparse": {"moiie": 1, "dense": -1}, "waits": ["moiie", "later"]}
    with_questions = replace(three_seeds, asked=asked(contrasts=contrasts, contrast_types=["colour"]))
    gain, sparse = with_questions.contrasts()
    assert (gain.question_type, gain.family, gain.test.p) == ("colour", 1, 0.25)
    assert "No contrast can be shown: 3 seeds cannot give p below 0.25; take more seeds" in markdown(with_questions)
    assert gain.verdict == "moiie and vanilla are not distinguishable"
    assert sparse.verdict == "one seed: no verdict"
    assert "dense: fewer activated parameters" in sparse.numbers
    assert len(replace(three_seeds, asked=asked(contrasts=contrasts)).contrasts()) == 6
    text = markdown(with_questions)
    assert "| gain | colour | moiie and vanilla are not distinguishable | +10.0 points, 95 % interval" in text
    assert "| waits |  | no seed with all of its schemes yet |  |" in text
    page = report_page(with_questions, {})
    assert page.index("What the recipe asks") < page.index("moiie minus each other scheme")
    assert "gain: +1 × moiie, -1 × vanilla" in page
    saved = json.loads(json_text(with_questions))["contrasts"][0]
    assert (saved["name"], saved["test"]["smallest"], saved["verdict"]) == ("gain", 0.25, gain.verdict)
    assert "What the recipe asks" not in report_page(three_seeds, {})


def test_whom_each_scheme_believed_stands_in_a_table_of_its_own() -> None:
    def with_conflict(scheme: str, seed: int, evidence: int, memory: int) -> RunRecord:
        made = record(scheme, seed, evidence, 60)
        shares = (
            wilson_interval(evidence, 100),
            wilson_interval(memory, 100),
            wilson_interval(memory, evidence + memory),
        )
        made.evaluation["types"]["colour"]["conflict"] = asdict(Conflict(100, *shares))
        return made

    runs = [with_conflict("moiie", seed, 60 + 10 * seed, 20) for seed in range(3)]
    found = comparison(*runs, with_conflict("vanilla", 0, 0, 100))
    ratio = found.conflict("moiie", "colour", "ratio")
    assert ratio is not None
    assert ratio.mean == pytest.approx((20 / 80 + 20 / 90 + 20 / 100) / 3)
    assert found.conflict("vanilla", "colour", "memory") == wilson_interval(100, 100)
    assert found.conflict("moiie", "exist <b>", "evidence") is None
    text = markdown(found)
    assert "| scheme | type | ConR (evidence) | MemR (memory) | MR = MemR / (MemR + ConR) |" in text
    assert "| vanilla | colour | 0.0 [0.0, 3.7] | 100.0 [96.3, 100.0] | 100.0 [96.3, 100.0] |" in text
    assert "Evidence against memory" in report_page(found, {})
    assert "MemR" not in markdown(comparison(record("moiie", 0, 80, 60)))


def test_widths_budget_and_notes_of_variants_are_shown() -> None:
    widths = {"vision": 184, "space": 64}
    row = SchemeRow(
        "asymoe-twin", "12.0 % fewer activated parameters", 8, 80, 90, -0.12, -0.2581, widths, "flat control"
    )
    text = markdown(replace(comparison(), rows=[row]))
    assert "| asymoe-twin | vision 184, space 64 | 80 | 90 | -12.00 % (12.0 % fewer activated" in text
    assert "| -25.81 % |" in text
    assert "asymoe-twin: flat control" in text
    assert "of the language model alone" in text


def test_work_left_is_counted_by_scheme_and_seed() -> None:
    def took(scheme: str, seed: int, seconds: float) -> RunRecord:
        made = replace(record(scheme, seed, 80, 60), training={"seconds": seconds})
        return replace(
            made, evaluation={**made.evaluation, "seconds": 20.0}, blank={**made.evaluation, "seconds": 10.0}
        )

    runs = [(scheme, seed) for seed in range(3) for scheme in ("moiie", "vanilla", "new")]
    done = {("moiie", 0): took("moiie", 0, 70.0), ("vanilla", 0): took("vanilla", 0, 170.0)}
    # two runs of moiie at 100 s, two of vanilla at 200 s, three of a scheme not seen yet at the mean
    assert seconds_left(runs, done) == 2 * 100 + 2 * 200 + 3 * 150
    assert place_of(runs, done) == "run 3 of 9, about 18 min of work left"
    assert seconds_left(runs, done, ["vanilla"]) == 2 * 100 + 2 * 30 + 3 * 65  # vanilla only asks: 20 s and 10 s
    assert place_of(runs, {}) == "run 1 of 9"
    assert place_of(runs[2:4], done) == "run 1 of 2, about 4 min of work left", "asked for alone; others tell the pace"


def test_records_from_before_pictures_and_weights_counted_stay_valid(tmp_path: Path) -> None:
    now: dict[str, Any] = {
        "stages": [{"seed": 0, "base": {"model.safetensors": "a"}, "pictures": {"x.tar": "b"}}],
        "evaluate": {"limit": None, "pictures": {"x.tar": "b"}},
    }
    then = {"stages": [{"seed": 0}], "evaluate": {"limit": None}}
    save_record(replace(record("moiie", 0, 80, 60), settings=then), tmp_path)
    assert load_record(tmp_path, now) is not None
    save_record(replace(record("moiie", 0, 80, 60), settings=now), tmp_path)
    assert load_record(tmp_path, now) is not None
    changed = {**now, "evaluate": {"limit": None, "pictures": {"x.tar": "c"}}}
    with pytest.raises(ValueError, match=r"other settings: evaluate.pictures.x.tar was 'b', is 'c'\. Choose"):
        load_record(tmp_path, changed)


@pytest.mark.parametrize("score", [0, 50, 100])
def test_points_at_both_ends_stay_inside_the_frame(tmp_path: Path, score: int) -> None:
    """The dot of the mean of types, the uppermost, is as wide as it is high wherever it stands."""
    draw(comparison(record("vanilla", 0, score, score, blank=30), seeds=1), tmp_path / "ends.png")
    with Image.open(tmp_path / "ends.png") as picture:
        blue = np.abs(np.asarray(picture.convert("RGB")).astype(int) - (0, 114, 178)).sum(-1) < 30
    rows = np.flatnonzero(blue.any(1))
    high = int(np.argmin(np.diff(rows) == 1)) + 1  # rows of the first dot, up to the first gap
    columns = np.flatnonzero(blue[rows[:high]].any(0))
    assert high > 5
    assert abs(columns.max() - columns.min() + 1 - high) <= 1
