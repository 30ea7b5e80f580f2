"""What a comparison says of schemes that do not start as the dense model, and of the language that is kept."""

import csv
import io
from dataclasses import replace

import pytest

from moiety.compare.caveats import starts
from moiety.compare.page import report_page
from moiety.compare.sentences import made, result, told_apart
from moiety.compare.summary import Comparison, DenseBase, SchemeRow
from moiety.compare.table import csv_text, start_table
from moiety.recipe.compare import CompareSettings
from tests.compare.test_summary import comparison, record


def started(found: Comparison, **starts: bool) -> list[SchemeRow]:
    return [replace(row, starts_as_dense=starts.get(row.scheme, True)) for row in found.rows]


def test_no_verdict_between_a_scheme_that_kept_its_start_and_one_that_lost_it() -> None:
    runs = [record("moiie", seed, 80 + seed, 60) for seed in range(3)]
    runs += [record("vanilla", seed, 60 + seed, 40) for seed in range(3)]
    runs += [record("dense", seed, 60 + seed, 40) for seed in range(3)]
    asked = CompareSettings(contrasts={"gain": ["moiie", "vanilla"], "other": ["vanilla", "dense"]})
    found = comparison(*runs, base=DenseBase(given=True, text_loss=3.25, num_texts=12), asked=asked)
    free = replace(found, rows=started(found))
    lost = replace(found, rows=started(found, vanilla=False))
    why = "no verdict: vanilla does not start as the dense model and moiie does"
    verdicts = {(one.second, one.verdict) for one in lost.reference_minus_others()}
    assert verdicts == {("vanilla", why), ("dense", "moiie is higher")}
    assert {one.verdict for one in free.reference_minus_others()} == {"moiie is higher"}
    sentence = next(one.sentence for one in lost.reference_minus_others() if one.second == "vanilla")
    assert sentence == f"moiie − vanilla on 'colour': +20.0 points [+20.0, +20.0], 3 seeds: {why}"
    corrected = {one.second: one.corrected for one in lost.reference_minus_others() if one.question_type == "colour"}
    assert corrected["dense"] == pytest.approx(3 * 0.25), "the family holds the three that are tested, not all six"
    contrasts = {(one.name, one.verdict) for one in lost.contrasts() if one.question_type == "colour"}
    assert contrasts == {
        ("gain", why),
        ("other", "no verdict: vanilla does not start as the dense model and dense does"),
    }
    assert "; no verdict where vanilla does not start as the dense model and moiie does" in result(lost)
    assert "moiie is higher than dense by 20.0 points [+20.0, +20.0] (dense has fewer activated parameters)" in result(
        lost
    )
    only = replace(lost, records=[run for run in runs if run.scheme != "dense"])
    assert "; no verdict where vanilla does not start" in result(only)
    assert " is higher" not in result(only)
    assert told_apart(only).endswith("by type of question: no verdict, because the schemes start differently.")
    assert told_apart(lost).endswith("3 with an interval that excludes 0, 0 without, 3 without a verdict because the "
                                     "schemes start differently.")  # fmt: skip
    assert "were trained from one given dense model on the same rows" in made(found)
    both = replace(found, rows=started(found, vanilla=False, moiie=False, dense=False))
    assert {one.verdict for one in both.reference_minus_others()} == {"moiie is higher"}, "all lost their start"


def test_verdicts_are_given_where_the_recipe_recovers_or_built_the_base_itself() -> None:
    runs = [record(name, seed, score, 60) for seed in range(3) for name, score in (("moiie", 80), ("vanilla", 60))]
    for base, words in (
        (DenseBase(given=True, recovery="long"), "Stage 'long' is there to bring this back (`recovers: true`)"),
        (DenseBase(given=False), "The recipe builds that model from nothing, so there is nothing to lose"),
    ):
        found = comparison(*runs, base=base)
        lost = replace(found, rows=started(found, vanilla=False))
        assert not any(one.withheld for one in lost.reference_minus_others())
        assert words in " ".join(starts(lost))
        assert "vanilla does not start as the dense model." in " ".join(starts(lost))
        assert ["vanilla", "no"] in start_table(lost)
    assert start_table(comparison(*runs)) == [["scheme", "starts as the dense model"]], "nothing to say, no table"
    assert starts(comparison(*runs)) == []


def test_language_kept_is_a_mean_over_seeds_with_its_interval() -> None:
    runs = [replace(record("moiie", seed, 80, 60), text_loss=3.2 + 0.1 * seed) for seed in range(3)]
    runs += [record("vanilla", 0, 80, 60)]
    found = comparison(*runs, base=DenseBase(given=True, text_loss=3.25, num_texts=12))
    rows = [replace(row, starts_as_dense=True, start_text_loss=3.25) for row in found.rows]
    lines = {line[0]: line[2:] for line in start_table(replace(found, rows=rows))}
    assert lines["moiie"] == ["3.250", "3.250 → 3.300 [3.052, 3.548]"]  # 0.1 x 4.3027 / sqrt(3)
    assert lines["vanilla"] == ["3.250", ""], "a run of an earlier release, which did not measure it"
    assert "Loss of plain text: 3.250 in the dense model, 3.300 after training." in result(found)
    table = list(csv.DictReader(io.StringIO(csv_text(replace(found, rows=rows)))))
    line = next(entry for entry in table if entry["scheme"] == "moiie")
    assert [line[key] for key in ("starts_as_dense", "base_text_loss", "start_text_loss")] == ["True", "3.25", "3.25"]
    assert float(line["text_loss"]) == pytest.approx(3.3)
    page = report_page(replace(found, rows=rows), {})
    assert "The start, and how much language is kept" in page
    assert "<dt>text loss</dt>" in page
    assert "<dt>text loss</dt>" not in report_page(comparison(*runs), {})
