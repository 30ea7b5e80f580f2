"""What a report of intents says first: what learned from what, what came out, what that leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moiety.intent.compare.outcome import IntentComparison
from moiety.intent.compare.tables import SHOWN
from moiety.records.pages import counted, listed, spread
from moiety.stats.contrasts import Contrast, as_families, contrast_over
from moiety.stats.intervals import Estimate

FEW = 6
"""So many names fit a sentence."""


def title_of(comparison: IntentComparison) -> str:
    """What was compared, on which recipe."""
    return f"Recognising intents, {counted(len(comparison.names), 'method')} side by side: {comparison.recipe.name}"


def made(comparison: IntentComparison) -> str:
    """Who learned, from how many rows, and on how many they are scored."""
    rows, names = comparison.context.get("rows", {}), comparison.names
    shown = f" ({', '.join(names)})" if len(names) <= FEW else ""
    seeds = counted(len({run.seed for run in comparison.runs if not comparison.is_floor(run.name)}), "seed")
    taught, scored = rows.get("train", 0), rows.get("score", 0)
    return (
        f"{counted(len(names), 'method').capitalize()}{shown} learned from {taught:,} rows and are scored on "
        f"{scored:,} others (split {comparison.recipe.data.score!r}), with {seeds} each where chance enters."
    )


def result(comparison: IntentComparison) -> str:
    """The recipe's own method on its first measure, beside the others, and who can be told apart."""
    measure, own = comparison.recipe.compare.measures[0], comparison.recipe.model.method
    found = {name: estimate for name in comparison.names if (estimate := comparison.estimate(name, measure))}
    if not found:
        return "Nothing is scored yet."
    first = own if own in found else next(iter(found))
    others = [name for name in found if name != first]
    text = f"{first} reaches {in_percent(found[first])} {SHOWN[measure]}"
    text += f", the others {spread([100 * found[name].mean for name in others])} %" if others else ""
    against = [contrast for name in others if (contrast := _pair(comparison, first, name, measure)) is not None]
    return f"{text}; {_verdicts(first, as_families(against))}." if against else f"{text}."


def in_percent(estimate: Estimate) -> str:
    """A score in a sentence.

    Example:
        >>> in_percent(Estimate(0.705, 0.69, 0.72, 5)), in_percent(Estimate(0.5, float("nan"), float("nan"), 1))
        ('70.5 % [69.0, 72.0]', '50.0 %')
    """
    interval = f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]" if estimate.has_interval else ""
    return f"{100 * estimate.mean:.1f} %{interval}"


def _pair(comparison: IntentComparison, first: str, second: str, measure: str) -> Contrast | None:
    values = {name: comparison.values(name, measure) for name in (first, second)}
    return contrast_over("against all others", {first: 1.0, second: -1.0}, measure, values)


def _verdicts(first: str, against: Sequence[Contrast]) -> str:
    """Who is above, who below, and who cannot be told from `first`."""
    if not any(contrast.estimate.has_interval for contrast in against):
        return "one seed cannot tell them apart"
    groups: dict[str, list[str]] = {"beats": [], "is beaten by": [], "cannot be told from": []}
    for contrast in against:
        other = next(name for name in contrast.weights if name != first)
        if not contrast.is_clear:
            groups["cannot be told from"].append(other)
        else:
            way = "beats" if contrast.estimate.mean > 0 else "is beaten by"
            groups[way].append(f"{other} (by {100 * abs(contrast.estimate.mean):.1f} points)")
    return f"it {'; '.join(f'{way} {listed(names)}' for way, names in groups.items() if names)}"


def limits(comparison: IntentComparison) -> str:
    """What the numbers leave open."""
    seeds = len({run.seed for run in comparison.runs if not comparison.is_floor(run.name)})
    said = (
        "how much chance in training moves a score, for that takes a second seed"
        if seeds < 2
        else "how other rows or other people would score, for the intervals are over seeds alone"
    )
    named = " A-MESS here means A-MESS as reconstructed by moiety." if _has_amess(comparison) else ""
    return f"What this does not say: {said}.{f' {comparison.limit}' if comparison.limit else ''}{named}"


def _has_amess(comparison: IntentComparison) -> bool:
    return any(comparison.recipe.method_of(name) == "amess" for name in comparison.names)


def fusion(comparison: IntentComparison, rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether all modalities are needed, by the law of the world, and whether the recipe's method learned to use them.

    Args:
        comparison: Of the demo.
        rows: As :func:`moiety.intent.demo.page.subset_rows` gives them, that of all modalities first.
    """
    own, (whole, *parts) = comparison.recipe.model.method, rows
    best = max(parts, key=lambda row: row["attainable"])
    more = whole["attainable"] > best["attainable"]
    needed = (
        f"Fusion is {'needed' if more else 'not needed'}: whoever reads all signs can know {_share(whole)} % of the "
        f"intents, whoever lacks one at most {_share(best)} % ({best['modalities'].replace('+', ' and ')})"
    )
    estimate = comparison.estimate(own, "acc")
    if estimate is None:
        return f"{needed}; {own} has no result yet."
    return f"{needed}. {_learned(own, estimate, best['attainable'])}"


def _learned(own: str, estimate: Estimate, bar: float) -> str:
    said = f"{own} reaches {in_percent(estimate)}"
    if estimate.mean <= bar:
        return f"That is not learned here: {said}, no more than two modalities allow."
    if not estimate.has_interval:
        return f"{said}, more than two modalities allow; one seed has no interval, so that is no verdict."
    if estimate.low > bar:
        return f"And it is learned: {said}, more than two modalities allow."
    return f"That it is learned is not shown: {said}, and the interval reaches down to what two modalities allow."


def luck(rows: Sequence[Mapping[str, Any]]) -> str:
    """A word on numbers above the attainable, only where there are some."""
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
        f"Above the attainable stand {', '.join(above[:3])}{more}: attainable is a mean over all clips that could be "
        "drawn, and these rows are a sample; who has to guess is lucky on some."
    )


def _share(row: Mapping[str, Any]) -> str:
    return f"{100 * row['attainable']:.1f}"
