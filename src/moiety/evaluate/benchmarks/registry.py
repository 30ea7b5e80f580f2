"""All benchmarks by name: a new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moiety.evaluate.benchmarks.benchmark import Benchmark
from moiety.evaluate.benchmarks.mme import MME
from moiety.evaluate.benchmarks.pope import POPE
from moiety.groups import nearest_name

_ALL = (
    POPE,
    MME,
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def benchmarks_named(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks called `names`, in that order.

    Raises:
        ValueError: a name is unknown, or given twice, or there is none.
    """
    if not names:
        raise ValueError(f"name at least one benchmark; known: {', '.join(BENCHMARKS)}")
    for name in names:
        if name not in BENCHMARKS:
            raise ValueError(f"no benchmark {name!r}; {nearest_name(name, BENCHMARKS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"a benchmark is named twice in {', '.join(names)}; name each once")
    return [BENCHMARKS[name] for name in names]
