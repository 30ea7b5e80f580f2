"""Public benchmarks. They read the official files and compute the official scores; each benchmark has one file."""

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore
from moiety.evaluate.benchmarks.files.answers import read_answers
from moiety.evaluate.benchmarks.registry import BENCHMARKS, benchmarks_named
from moiety.evaluate.benchmarks.run import Asking, BenchmarkRun, evaluate_benchmarks, score_answers

__all__ = [
    "BENCHMARKS",
    "Asking",
    "Benchmark",
    "BenchmarkRun",
    "BenchmarkScore",
    "benchmarks_named",
    "evaluate_benchmarks",
    "read_answers",
    "score_answers",
]
