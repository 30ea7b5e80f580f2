"""The three sentences a report begins with: computed from the runs, and never more than these show."""

from dataclasses import replace

import pytest

from moiety.compare.page import report_page
from moiety.compare.sentences import limits, made, result, sight, title_of, told_apart
from moiety.compare.summary import Comparison, SchemeRow
from moiety.stats.intervals import wilson_interval
from tests.compare.test_summary import comparison, record


def scored(scheme: str, seed: int, colour: int, exist: int) -> object:
    """A record of 100 questions of each of two types, with its overall score and its steps."""
    made = record(scheme, seed, colour, exist)
    whole = {**made.evaluation, "overall": vars(wilson_interval(colour + exist, 200))}
    return replace(made, evaluation=whole, training={**made.training, "steps": 378.0})


def equal(*records: object, schemes: tuple[str, ...] = ("vanilla", "moiie"), seeds: int = 1) -> Comparison:
    rows = [SchemeRow(name, "equal", 8, 1000 + n, 2000, 0.001 * n) for n, name in enumerate(schemes)]
    planned = [(name, seed) for name in schemes for seed in range(seeds)]
    return replace(comparison(*records), rows=rows, planned=planned)  # type: ignore[arg-type]


def test_what_was_trained_is_said_with_its_numbers() -> None:
    text = made(equal(scored("vanilla", 0, 77, 78), scored("moiie", 0, 77, 79)))
    assert text == (
        "Two schemes (vanilla, moiie) were trained from one dense base on the same rows in the same order, one seed, "
        "378 steps a run, then asked 200 questions about pictures. Of their parameters one token passes through 1,000 "
        "to 1,001 (these are called activated, equal within 0.1 %)."
    )
    assert made(equal(schemes=("moiie",))) == "One run to come; none has a result yet."
    unequal = made(comparison(scored("dense", 0, 70, 70), scored("moiie", 0, 70, 70)))
    assert unequal.endswith("; not equal to the reference: dense −20.0 %.")


def test_one_seed_cannot_tell_schemes_apart() -> None:
    text = result(equal(scored("vanilla", 0, 77, 78), scored("moiie", 0, 77, 79)))
    assert text == (
        "Two schemes answer 77.5 to 78.0 % right, on average over two types of question; one seed cannot tell the two "
        "apart. With blank pictures: 35.0 %."
    )


def test_one_seed_with_a_wide_gap_is_still_no_verdict() -> None:
    text = result(equal(scored("vanilla", 0, 20, 30), scored("moiie", 0, 90, 95)))
    assert "moiie is above vanilla by more than the choice of questions explains, but one seed is no verdict" in text


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ((70, 71, 72), "moiie is higher than vanilla by 10.0 points [+10.0, +10.0]"),
        ((90, 91, 92), "moiie is lower than vanilla by 10.0 points [−10.0, −10.0]"),
        ((85, 79, 80), "three seeds cannot tell vanilla from moiie"),
    ],
)
def test_several_seeds_say_what_their_intervals_say(others: tuple[int, ...], said: str) -> None:
    runs = [scored("moiie", seed, 80 + seed, 80 + seed) for seed in range(3)]
    runs += [scored("vanilla", seed, value, value) for seed, value in enumerate(others)]
    assert said in result(equal(*runs, seeds=3))


def test_a_reference_without_a_result_is_named() -> None:
    runs = [scored("vanilla", 0, 70, 70), scored("dense_wide", 0, 70, 70)]
    text = result(equal(*runs, schemes=("dense_wide", "vanilla", "moiie")))
    assert "moiie, which they are measured against, has no result yet" in text
    assert result(equal()) == limits(equal()) == ""


def test_limits_are_those_of_the_runs() -> None:
    one = equal(scored("vanilla", 0, 77, 78), scored("moiie", 0, 77, 79))
    assert limits(one) == (
        "What this does not say: how much a second seed would change, nor what holds for models larger than these of "
        "2 K parameters, or for other data."
    )
    several = equal(*(scored("moiie", seed, 80, 80) for seed in range(2)), seeds=2)
    assert "how much another dense base would change, for all seeds share one" in limits(several)
    assert limits(several).endswith("Two runs of 4 have no result yet.")


def test_sight_and_differences_in_one_sentence() -> None:
    found = equal(scored("vanilla", 0, 77, 78), scored("moiie", 0, 77, 50))
    assert sight(found) == (
        "3 of 4 scores are above every floor and the blank-image control with their whole interval; not shown for "
        "moiie on exist <b>."
    )
    assert told_apart(found) == (
        "Three differences, moiie minus another scheme, by type of question: one seed each, so none has a verdict."
    )
    assert sight(equal()) == "Nothing is scored yet."


def test_the_page_begins_with_title_sentences_and_folds_what_is_long() -> None:
    found = replace(equal(scored("vanilla", 0, 77, 78), scored("moiie", 0, 77, 79)), title="Two <ways>")
    page = report_page(found, {}, {"Talk to it": "moiety demo-app runs/moiie-seed0/sparse"})
    assert "<h1>Two &lt;ways&gt;</h1>" in page
    assert title_of(replace(found, title="")) == "Two schemes side by side: toy"
    lead = page[page.index('<div class="lede">') : page.index("<h2>")]
    assert lead.count("<p") == 3
    assert page.index("one seed cannot tell") < page.index("<h2>")
    for long in ("moiie − vanilla on 'colour'", "moiie on 'colour': 77.0", "&quot;toy&quot;"):
        assert long not in page or page.rindex("<details>", 0, page.index(long)) > page.rindex(
            "<h2>", 0, page.index(long)
        )
    assert '<pre class="command">moiety demo-app runs/moiie-seed0/sparse</pre>' in page
    assert page.index("<th>mean of types</th>") < page.index("<th>colour</th>")
    assert "77.0 <small>[67.8, 84.2]</small>" in page
