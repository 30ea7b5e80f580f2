"""Which run of how many, and how much work is left, from the runs that are finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moiety.compare.records import RunRecord

Run = tuple[str, int]


def seconds_of(record: RunRecord) -> float:
    """Time one record took: training, and answers with and without pictures."""
    answers = [scores.get("seconds", 0.0) for scores in (record.evaluation, record.blank) if scores is not None]
    return float(record.training.get("seconds", 0.0)) + sum(answers)


def seconds_left(runs: Sequence[Run], records: Mapping[Run, RunRecord]) -> float | None:
    """Work of the `runs` that have no record: of each scheme as long as its finished runs took, else as all did.

    Args:
        runs: (scheme, seed) of a whole comparison.
        records: What is finished.

    Returns:
        Seconds of one process like those before it; None when nothing is finished yet.
    """
    if not records:
        return None
    taken: dict[str, list[float]] = {}
    for (scheme, _), record in records.items():
        taken.setdefault(scheme, []).append(seconds_of(record))
    every = [seconds for values in taken.values() for seconds in values]
    means = [taken.get(scheme, every) for scheme, seed in runs if (scheme, seed) not in records]
    return sum(sum(values) / len(values) for values in means)


def span(seconds: float) -> str:
    """A time for a person.

    Example:
        >>> span(12), span(250), span(9000)
        ('12 s', '4 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def place_of(runs: Sequence[Run], records: Mapping[Run, RunRecord]) -> str:
    """Where the run that begins now stands: ``run 3 of 10, about 12 min of work left``.

    Args:
        runs: All runs of the comparison.
        records: What is finished.
    """
    left = seconds_left(runs, records)
    return f"run {len(records) + 1} of {len(runs)}" + ("" if left is None else f", about {span(left)} of work left")
