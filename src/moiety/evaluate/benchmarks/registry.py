"""All benchmarks by name. A new one is one file in ``sets`` and one line here: ``docs/adding-a-benchmark.md``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

from moiety.evaluate.benchmarks.benchmark import Benchmark
from moiety.evaluate.benchmarks.files.layouts import by_publisher
from moiety.groups import nearest_name

_SETS = (
    "mmbench",
    "pope",
    "mme",
    "gqa",
    "vqav2",
    "mmvet",
    "seed_bench",
    "hallusionbench",
    "textvqa",
    "docvqa",
    "chartqa",
    "ai2d",
    "mmmu",
    "mathvista",
    "vizwiz",
    "ocrbench",
    "nlvr2",
    "scienceqa",
    "cmmmu",
)
"""Files of the folder ``sets``, in the order of tables; each holds one benchmark, or its splits."""


def _benchmarks_in(file: str) -> list[Benchmark]:
    module = importlib.import_module(f"moiety.evaluate.benchmarks.sets.{file}")
    return [value for value in vars(module).values() if isinstance(value, Benchmark)]


BENCHMARKS: Mapping[str, Benchmark] = {found.name: found for name in _SETS for found in _benchmarks_in(name)}


def layouts_table() -> str:
    """All layouts of all benchmarks as a Markdown table, with one line for each layout."""
    lines = ["| benchmark | whose layout | files |", "|---|---|---|"]
    for name, benchmark in BENCHMARKS.items():
        for number, (whose, files) in enumerate(by_publisher(benchmark.layouts).items()):
            lines.append(f"| {name if number == 0 else ''} | {whose} | {files.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def benchmarks_named(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks called `names`, in that order.

    Raises:
        ValueError: a name is unknown or given twice, or no name is given.
    """
    if not names:
        raise ValueError(f"name at least one benchmark; known: {', '.join(BENCHMARKS)}")
    for name in names:
        if name not in BENCHMARKS:
            raise ValueError(f"no benchmark {name!r}; {nearest_name(name, BENCHMARKS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"a benchmark is named twice in {', '.join(names)}; name each once")
    return [BENCHMARKS[name] for name in names]
