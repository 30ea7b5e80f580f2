"""The first sentences of a report: what was done, what came out, and what the numbers do not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from moiety.intent.compare.outcome import IntentComparison
from moiety.intent.compare.tables import IN_WORDS
from moiety.records.pages import counted, listed, spread
from moiety.stats.contrasts import Contrast, as_families, limit_of
from moiety.stats.intervals import Estimate

FEW = 6
"""At most so many names are listed in a sentence."""


def title_of(comparison: IntentComparison) -> str:
    """The title: how many methods, and the name of the recipe."""
    return f"Recognising intents, {counted(len(comparison.names), 'method')} side by side: {comparison.recipe.name}"


def made(comparison: IntentComparison) -> str:
    """Which methods learned, from how many rows, and on how many rows they are scored."""
    rows, names = comparison.context.get("rows", {}), comparison.names
    methods = counted(len(names), "method").capitalize() + (f" ({', '.join(names)})" if len(names) <= FEW else "")
    seeds = counted(len({run.seed for run in comparison.runs if not comparison.is_floor(run.name)}), "seed")
    data = comparison.recipe.data
    if comparison.rests_on_persons:
        return (
            f"{methods} are scored on {rows.get('score', 0):,} rows of {rows.get('groups', 0)} persons (split "
            f"{data.train!r}), in {data.folds} folds: each person by models that never saw that person. Methods that "
            f"depend on a seed ran with {seeds}."
        )
    return (
        f"{methods} learned from {rows.get('train', 0):,} rows and are scored on {rows.get('score', 0):,} others "
        f"(split {data.score!r}). Methods that depend on a seed ran with {seeds}."
    )


def result(comparison: IntentComparison) -> str:
    """The score of the method of section model on the first measure, those of the others, and which really differ."""
    measure, method = comparison.recipe.compare.measures[0], comparison.recipe.model.method
    found = {name: estimate for name in comparison.names if (estimate := comparison.estimate(name, measure))}
    if not found:
        return "Nothing is scored yet."
    trained = [name for name in found if not comparison.is_floor(name)]
    first = method if method in found else next(iter(trained or found))
    others = [name for name in found if name != first]
    text = f"{first} reaches {in_percent(found[first])} {IN_WORDS[measure]}"
    text += f", the others {spread([100 * found[name].mean for name in others])} %" if others else ""
    pairs = [{first: 1.0, name: -1.0} for name in others]
    against = [one for pair in pairs for one in comparison.contrast_on("against all others", pair, [measure])]
    return f"{text}; {_verdicts(first, as_families(against))}." if against else f"{text}."


def in_percent(estimate: Estimate) -> str:
    """A score in a sentence.

    Example:
        >>> in_percent(Estimate(0.705, 0.69, 0.72, 5)), in_percent(Estimate(0.5, float("nan"), float("nan"), 1))
        ('70.5 % [69.0, 72.0]', '50.0 %')
    """
    interval = f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]" if estimate.has_interval else ""
    return f"{100 * estimate.mean:.1f} %{interval}"


def _verdicts(first: str, against: Sequence[Contrast]) -> str:
    """Which methods `first` beats, which beat it, which are alike, and where too few were tested to show anything."""
    if not any(contrast.estimate.has_interval for contrast in against):
        return f"one {against[0].pairs} cannot tell them apart"
    groups: dict[str, list[str]] = {"it beats": [], "it is beaten by": [], "it cannot be told from": []}
    for contrast in against:
        other = next(name for name in contrast.weights if name != first)
        if contrast.limit:
            groups.setdefault(_too_few(contrast), []).append(other)
        elif not contrast.is_clear:
            groups["it cannot be told from"].append(other)
        else:
            way = "it beats" if contrast.estimate.mean > 0 else "it is beaten by"
            groups[way].append(f"{other} (by {100 * abs(contrast.estimate.mean):.1f} points)")
    return "; ".join(f"{way} {listed(names)}" for way, names in groups.items() if names)


def _too_few(contrast: Contrast) -> str:
    """How many pairs were tested, how many the test needs to show anything, and the beginning of a list of methods."""
    number, pairs = contrast.test.num_values, contrast.pairs
    needed = next(n for n in count(number) if not limit_of(n, 2.0 ** (1 - n), contrast.family))
    return f"{counted(number, pairs)} are too few (the test needs {needed}) to show a difference from"


def limits(comparison: IntentComparison) -> str:
    """The sentence of a report that names what its numbers cannot show.

    Intervals over persons say nothing of other kinds of persons; intervals over seeds say nothing of other rows; one
    seed says nothing of chance in training.

    Args:
        comparison: The finished runs. Its ``limit`` says when seeds or persons are too few for the test.
    """
    seeds = len({run.seed for run in comparison.runs if not comparison.is_floor(run.name)})
    if comparison.rests_on_persons:
        unknown = "how persons of another kind would score; the intervals are over persons like these"
    elif seeds < 2:
        unknown = "how much a score depends on chance in training; that takes a second seed"
    else:
        unknown = "how other rows or other people would score; the intervals are over seeds alone"
    named = " A-MESS here means A-MESS as reconstructed by moiety." if _has_amess(comparison) else ""
    limit = f" {comparison.limit}" if comparison.limit else ""
    return f"What these numbers do not say: {unknown}.{limit}{named}"


def _has_amess(comparison: IntentComparison) -> bool:
    return any(comparison.recipe.method_of(name) == "amess" for name in comparison.names)


def fusion(comparison: IntentComparison, rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the rules of the world need all modalities, and whether the method of the recipe learned to use them.

    Args:
        comparison: The comparison of the demo.
        rows: As :func:`moiety.intent.demo.page.subset_rows` gives them, that of all modalities first.
    """
    method, (whole, *parts) = comparison.recipe.model.method, rows
    best = max(parts, key=lambda row: row["attainable"])
    more = whole["attainable"] > best["attainable"]
    needed = (
        f"Fusion is {'needed' if more else 'not needed'}: a reader of all signs can know {_share(whole)} % of the "
        f"intents, a reader of two at most {_share(best)} % ({best['modalities'].replace('+', ' and ')})"
    )
    estimate = comparison.estimate(method, "acc")
    if estimate is None:
        return f"{needed}; {method} has no result yet."
    return f"{needed}. {_learned(method, estimate, best['attainable'])}"


def _learned(method: str, estimate: Estimate, bar: float) -> str:
    """Whether the method exceeds `bar`, the best that two modalities allow, as far as the interval shows it."""
    reached = f"{method} reaches {in_percent(estimate)}"
    if estimate.mean <= bar:
        return f"Fusion is not learned here: {reached}, no more than two modalities allow."
    if not estimate.has_interval:
        return f"{reached}, more than two modalities allow; one seed has no interval, so this is no verdict."
    if estimate.low > bar:
        return f"Fusion is learned: {reached}, more than two modalities allow."
    return f"It is not shown whether fusion is learned: {reached}, but the interval includes what two modalities allow."


def luck(rows: Sequence[Mapping[str, Any]]) -> str:
    """A note on scores above the attainable; empty where there are none."""
    above = [
        f"{name} with {row['modalities'].replace('+', ' and ')}"
        for row in rows
        for name, value in row["measured"].items()
        if value["mean"] > row["attainable"]
    ]
    if not above:
        return ""
    more = f" and {len(above) - 3} more" if len(above) > 3 else ""
    return (
        f"Some scores are above the attainable: {', '.join(above[:3])}{more}. The attainable is a mean over all clips "
        "that could be drawn. These clips are a sample, and a model that guesses may be lucky on them."
    )


def _share(row: Mapping[str, Any]) -> str:
    return f"{100 * row['attainable']:.1f}"
