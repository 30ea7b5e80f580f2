"""How far a comparison is: the number of the run that begins, and the time that is left, from the finished runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from moiety.compare.records import RunRecord

Run = tuple[str, int]


def seconds_of(record: RunRecord, trains: bool = True) -> float:
    """Seconds that one run took: its answers with and without pictures and, if `trains`, its training."""
    answers = [scores.get("seconds", 0.0) for scores in (record.evaluation, record.blank) if scores is not None]
    return sum(answers) + (float(record.training.get("seconds", 0.0)) if trains else 0.0)


def seconds_left(
    runs: Sequence[Run], records: Mapping[Run, RunRecord], borrowers: Collection[str] = ()
) -> float | None:
    """Time for the `runs` that have no record: for each scheme the mean of its finished runs, else the mean of all.

    Args:
        runs: (scheme, seed) of all runs that were asked for.
        records: What is finished.
        borrowers: Schemes that answer with a model which another run trains.

    Returns:
        Seconds for one process on the same machine; None when nothing is finished yet.
    """
    if not records:
        return None
    taken: dict[str, list[float]] = {}
    for (scheme, _), record in records.items():
        taken.setdefault(scheme, []).append(seconds_of(record, scheme not in borrowers))
    every = [seconds for values in taken.values() for seconds in values]
    means = [taken.get(scheme, every) for scheme, seed in runs if (scheme, seed) not in records]
    return sum(sum(values) / len(values) for values in means)


def span(seconds: float) -> str:
    """A length of time in words.

    Example:
        >>> span(12), span(250), span(9000)
        ('12 s', '4 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def place_of(runs: Sequence[Run], records: Mapping[Run, RunRecord], borrowers: Collection[str] = ()) -> str:
    """Where the run that begins now stands: ``run 3 of 10, about 12 min of work left``.

    Args:
        runs: All runs that were asked for.
        records: What is finished, of these and of others.
        borrowers: Schemes that answer with a model which another run trains.
    """
    left = seconds_left(runs, records, borrowers)
    return f"run {sum(run in records for run in runs) + 1} of {len(runs)}" + (
        "" if left is None else f", about {span(left)} of work left"
    )
