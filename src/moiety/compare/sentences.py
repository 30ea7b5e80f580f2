"""The first sentences of a report: what was trained, what came out, and what that does not say."""

from __future__ import annotations

from collections.abc import Sequence

from moiety.compare.caveats import language
from moiety.compare.summary import MEAN_OF_TYPES, Comparison
from moiety.compare.verdicts import EQUAL, Difference, points
from moiety.records.pages import counted, listed, spread
from moiety.stats.intervals import Estimate

FEW = 6
"""Largest number of names that are listed in one sentence."""


def title_of(comparison: Comparison) -> str:
    """The title that the recipe gives, else one made from the number of schemes."""
    return comparison.title or f"{counted(len(comparison.rows), 'scheme').capitalize()} side by side: {comparison.name}"


def made(comparison: Comparison) -> str:
    """What was trained, from which base, and how many questions it was asked."""
    if not comparison.records:
        return f"{counted(len(comparison.planned), 'run').capitalize()} to come; none has a result yet."
    names = [row.scheme for row in comparison.rows]
    shown = f" ({', '.join(names)})" if len(names) <= FEW else ""
    steps = sorted({record.training["steps"] for record in comparison.records if "steps" in record.training})
    how = [counted(len({record.seed for record in comparison.records}), "seed")]
    how += [f"{spread(steps, ',.0f')} steps a run"] if steps else []
    questions = max(int(record.evaluation.get("overall", {}).get("num_values", 0)) for record in comparison.records)
    base = "one given dense model" if comparison.base.given else "one dense base"
    asked = f", then asked {questions:,} questions about pictures" if questions else ""
    return (
        f"{counted(len(names), 'scheme').capitalize()}{shown} were trained from {base} on the same rows in the same "
        f"order, {', '.join(how)}{asked}. {_activated(comparison)}"
    )


def _activated(comparison: Comparison) -> str:
    """How many parameters one token passes through, and whether this is equal for all schemes."""
    equal = [row for row in comparison.rows if row.has_equal_budget]
    unequal = [row for row in comparison.rows if not row.has_equal_budget]
    others = [f"{row.scheme} {100 * row.relative_difference:+.1f} %" for row in unequal]
    parts = []
    if equal:
        most = max(abs(row.relative_difference) for row in equal)
        values = spread([row.activated for row in equal], ",.0f")
        within = f", equal within {100 * most:.2g} %" if len(equal) > 1 and most else ""
        parts.append(f"Of {'its' if len(equal) == 1 else 'their'} parameters one token passes through {values} (these "
                     f"are called activated{within})")  # fmt: skip
    if others:
        parts.append(f"not equal to the reference: {', '.join(others)}".replace("-", "−"))
    return "; ".join(parts) + "."


def result(comparison: Comparison) -> str:
    """Mean over types of every scheme, what may be said about their order, and the score with blank pictures."""
    scored = [row.scheme for row in comparison.rows if comparison.values(row.scheme, MEAN_OF_TYPES)]
    if not scored:
        return ""
    means = [_mean(comparison, name) for name in scored]
    kinds = counted(len(comparison.types), "type") + " of question"
    if len(scored) == 1:
        text = f"{scored[0]} answers {spread(means)} % right, on average over {kinds}"
    else:
        text = f"{counted(len(scored), 'scheme').capitalize()} answer {spread(means)} % right, on average over {kinds}"
        text += f"; {_order(comparison, scored)}"
    blanks = [_mean(comparison, name, True) for name in scored if comparison.values(name, MEAN_OF_TYPES, True)]
    text += f". With blank pictures: {spread(blanks)} %." if blanks else "."
    return f"{text} {language(comparison)}".rstrip()


def _mean(comparison: Comparison, scheme: str, blank: bool = False) -> float:
    """Mean over seeds of the mean over types, in percent."""
    values = comparison.values(scheme, MEAN_OF_TYPES, blank)
    return 100 * sum(values.values()) / len(values)


def _order(comparison: Comparison, scored: Sequence[str]) -> str:
    """Whether any scheme may be called better than the reference."""
    every = [one for one in comparison.reference_minus_others() if one.question_type == MEAN_OF_TYPES]
    found = [one for one in every if not one.withheld]
    if not every:
        return f"{comparison.reference}, which they are measured against, has no result yet"
    parts = [_found(comparison, found, scored)] if found else []
    return "; ".join([*parts, *dict.fromkeys(f"no verdict where {one.withheld}" for one in every if one.withheld)])


def _found(comparison: Comparison, found: Sequence[Difference], scored: Sequence[str]) -> str:
    """What may be said about schemes between which a verdict is given."""
    tested = [one for one in found if one.is_tested]
    if not tested:
        alike = [name for name in scored if not comparison.withheld((comparison.reference, name))]
        return _one_seed(comparison, alike)
    clear = [one for one in tested if one.is_clear]
    if not clear:
        seeds = counted(max(one.estimate.num_values for one in tested), "seed")
        return f"{seeds} cannot tell {_objects(tested)} from {comparison.reference}"
    parts = [_clear(one) for one in clear[:FEW]]
    parts += [f"{len(clear) - FEW} more differ, see below"] * (len(clear) > FEW)
    rest = len(tested) - len(clear)
    parts += [f"{counted(rest, 'other')} cannot be told from it"] * bool(rest)
    return ", ".join(parts)


def _objects(found: Sequence[Difference]) -> str:
    return listed([one.second for one in found]) if len(found) <= FEW else counted(len(found), "other")


def _clear(one: Difference) -> str:
    interval = f"[{points(one.estimate.low)}, {points(one.estimate.high)}]"
    size = "" if one.budget_remark == EQUAL else f" ({one.second} has {one.budget_remark})"
    return f"{one.verdict} than {one.second} by {points(abs(one.estimate.mean)).lstrip('+')} points {interval}{size}"


def _one_seed(comparison: Comparison, scored: Sequence[str]) -> str:
    """For one seed: whether the intervals over questions separate the highest score from the lowest."""
    ends = {name: overall for name in scored if (overall := _overall(comparison, name)) is not None}
    if len(ends) == len(scored):
        best, worst = (pick(ends, key=lambda name: ends[name].mean) for pick in (max, min))
        if ends[best].low > ends[worst].high:
            return f"{best} is above {worst} by more than the choice of questions explains, but one seed is no verdict"
    return f"one seed cannot tell {'them' if len(scored) > 2 else 'the two'} apart"


def _overall(comparison: Comparison, scheme: str) -> Estimate | None:
    found = [record.evaluation.get("overall") for record in comparison.records if record.scheme == scheme]
    return Estimate(**found[0]) if len(found) == 1 and found[0] else None


def limits(comparison: Comparison) -> str:
    """What the numbers do not say."""
    if not comparison.records:
        return ""
    seeds = len({record.seed for record in comparison.records})
    largest = max(row.total for row in comparison.rows)
    said = (
        "What this does not say: how much a second seed would change"
        if seeds == 1
        else "What this does not say: how much another dense base would change, for all seeds share one"
    )
    said += f", nor what holds for models larger than these of {in_short(largest)} parameters, or for other data."
    waiting = len(comparison.missing)
    return said + f" {counted(waiting, 'run').capitalize()} of {len(comparison.planned)} have no result yet." * bool(
        waiting
    )


def in_short(count: int) -> str:
    """A count of parameters for a sentence.

    Example:
        >>> in_short(335936), in_short(1710000), in_short(7060000000), in_short(90)
        ('336 K', '1.71 M', '7.06 B', '90')
    """
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def sight(comparison: Comparison) -> str:
    """How many scores are above everything that can be reached without the picture, and which are not."""
    found = comparison.standings()
    blind = [f"{one.scheme} on {one.question_type}" for one in found if not one.sees]
    if not found:
        return "Nothing is scored yet."
    text = (
        f"{len(found) - len(blind)} of {len(found)} scores are above every floor and the blank-image control with "
        "their whole interval"
    )
    if not blind:
        return f"{text}."
    return f"{text}; not shown for {', '.join(blind[:FEW])}{f' and {len(blind) - FEW} more' * (len(blind) > FEW)}."


def told_apart(comparison: Comparison) -> str:
    """How many paired differences have a verdict, in one sentence."""
    found = comparison.reference_minus_others()
    if not found:
        return f"Nothing to compare with {comparison.reference} yet."
    clear, withheld = sum(one.is_clear for one in found), sum(bool(one.withheld) for one in found)
    single = sum(not one.estimate.has_interval for one in found)
    text = f"{counted(len(found), 'difference').capitalize()}, {comparison.reference} minus another scheme, by type of "
    text += "question: "
    if single == len(found):
        return text + "one seed each, so none has a verdict."
    if withheld == len(found):
        return text + "no verdict, because the schemes start differently."
    text += f"{clear} with an interval that excludes 0, {len(found) - clear - withheld} without"
    return text + (f", {withheld} without a verdict because the schemes start differently." if withheld else ".")
