"""All benchmarks by name: a new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moiety.evaluate.benchmarks.benchmark import Benchmark
from moiety.evaluate.benchmarks.files.layouts import by_publisher
from moiety.evaluate.benchmarks.sets.ai2d import AI2D
from moiety.evaluate.benchmarks.sets.chartqa import CHARTQA
from moiety.evaluate.benchmarks.sets.cmmmu import CMMMU
from moiety.evaluate.benchmarks.sets.docvqa import DOCVQA, DOCVQA_TEST
from moiety.evaluate.benchmarks.sets.gqa import GQA
from moiety.evaluate.benchmarks.sets.hallusionbench import HALLUSIONBENCH
from moiety.evaluate.benchmarks.sets.mathvista import MATHVISTA
from moiety.evaluate.benchmarks.sets.mmbench import MMBENCH, MMBENCH_TEST
from moiety.evaluate.benchmarks.sets.mme import MME
from moiety.evaluate.benchmarks.sets.mmmu import MMMU
from moiety.evaluate.benchmarks.sets.mmvet import MMVET
from moiety.evaluate.benchmarks.sets.nlvr2 import NLVR2
from moiety.evaluate.benchmarks.sets.ocrbench import OCRBENCH
from moiety.evaluate.benchmarks.sets.pope import POPE
from moiety.evaluate.benchmarks.sets.scienceqa import SCIENCEQA
from moiety.evaluate.benchmarks.sets.seed_bench import SEED
from moiety.evaluate.benchmarks.sets.textvqa import TEXTVQA
from moiety.evaluate.benchmarks.sets.vizwiz import VIZWIZ, VIZWIZ_TEST
from moiety.evaluate.benchmarks.sets.vqav2 import VQAV2, VQAV2_TESTDEV
from moiety.groups import nearest_name

_ALL = (
    MMBENCH,
    MMBENCH_TEST,
    POPE,
    MME,
    GQA,
    VQAV2,
    VQAV2_TESTDEV,
    MMVET,
    SEED,
    HALLUSIONBENCH,
    TEXTVQA,
    DOCVQA,
    DOCVQA_TEST,
    CHARTQA,
    AI2D,
    MMMU,
    MATHVISTA,
    VIZWIZ,
    VIZWIZ_TEST,
    OCRBENCH,
    NLVR2,
    SCIENCEQA,
    CMMMU,
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def layouts_table() -> str:
    """All layouts of all benchmarks as a table in Markdown, one line a layout; equal ones of one publisher are one."""
    lines = ["| benchmark | whose layout | files |", "|---|---|---|"]
    for name, benchmark in BENCHMARKS.items():
        for number, (whose, files) in enumerate(by_publisher(benchmark.layouts).items()):
            lines.append(f"| {name if number == 0 else ''} | {whose} | {files.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


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
