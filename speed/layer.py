"""Speed and saved memory of the expert layer beside other implementations, in one interleaved run.

    python speed/layer.py --threads 2 --dtype bfloat16 --shape mid fine --rounds 9

Every implementation is first compared with a float64 loop (output and all gradients). One that differs prints FAIL and
is not timed. Each round then runs all implementations once in random order. The table shows the median of the ratios to
the dense layer *of the same round*, with quartiles. Dense is measured twice. If its two times differ too much, or if
the machine is busy, the table is marked INVALID. No time is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import transformers
from peers import IMPLEMENTATIONS, SHAPES, Built, Case
from torch import Tensor

SAMPLE_SECONDS = 0.020
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
OURS = "moiety"
HEAP = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE")


@dataclass
class Runner:
    """One implementation, ready to be called."""

    name: str
    built: Built
    case: Case
    error: float | None
    saved_mib: float

    @property
    def failed(self) -> bool:
        return self.error is not None and self.error > TOLERANCE[self.case.x.dtype]

    def forward(self) -> None:
        with torch.no_grad():
            self.built[0]()

    def step(self) -> None:
        torch.autograd.grad(self.built[0](), self.built[1], self.case.dout)


def prepare(name: str, case: Case, truth: list[Tensor]) -> Runner:
    """Build an implementation, measure its error and what it saves for backward."""
    built = IMPLEMENTATIONS[name](case)
    call, leaves, to_truth = built
    saved = saved_mib(call, {leaf.untyped_storage().data_ptr() for leaf in leaves})
    y = call()
    grads = to_truth(list(torch.autograd.grad(y, leaves, case.dout)))
    error = None
    if not name.startswith("dense"):
        pairs = zip([y.detach(), *grads], truth, strict=True)
        error = max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)
    return Runner(name, built, case, error, saved)


def saved_mib(call: Callable[[], Tensor], known: set[int]) -> float:
    """MiB that autograd keeps between forward and backward, without inputs and parameters."""
    found: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        kept = call()
    del kept
    return sum(found.values()) / 2**20


def sample(call: Callable[[], None], clock: Callable[[], float]) -> float:
    """Seconds for one call; the call is repeated until the sample is long enough."""
    calls, start = 0, clock()
    while True:
        call()
        calls += 1
        passed = clock() - start
        if passed >= SAMPLE_SECONDS:
            return passed / calls


def interleaved(
    calls: dict[str, Callable[[], None]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds per call of each, one entry for each round; all rounds are interleaved in random order."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in random.sample(list(calls), len(calls)):
            times[name].append(sample(calls[name], clock))
    return times


def rows_of(
    times: dict[str, list[float]], runners: list[Runner], facts: dict[str, object], flops: float
) -> list[dict[str, object]]:
    """One record for each implementation, with ratios to dense and to the best correct peer."""
    ratio = {n: [a / b for a, b in zip(t, times["dense"], strict=True)] for n, t in times.items()}
    median = {name: statistics.median(values) for name, values in ratio.items()}
    peers = [name for name in median if not name.startswith((OURS, "dense"))]
    best = min((median[name] for name in peers), default=float("nan"))
    rows = []
    for runner in runners:
        q25, _, q75 = statistics.quantiles(ratio[runner.name], n=4)
        seconds = statistics.median(times[runner.name])
        rows.append(
            facts
            | {
                "impl": runner.name,
                "ms": round(seconds * 1e3, 3),
                "gflops": round(flops / seconds / 1e9, 1),
                "x_dense": round(median[runner.name], 3),
                "q25": round(q25, 3),
                "q75": round(q75, 3),
                "x_best_peer": round(median[runner.name] / best, 3),
                "saved_mib": round(runner.saved_mib, 2),
                "rel_err": None if runner.error is None else float(f"{runner.error:.2e}"),
            }
        )
    return rows


def show(rows: list[dict[str, object]], stamp: str) -> None:
    """Print the table of one shape and mode."""
    first = rows[0]
    print(f"\n{first['shape']}  T {first['tokens']}  {first['dtype']}  vision {first['vision_share']}  {first['mode']}")
    columns = ("ms", 9), ("GFLOP/s", 10), ("x dense", 9), ("[q25, q75]", 16), ("x best peer", 13), ("saved MiB", 11)
    print(f"{'impl':26}" + "".join(f"{name:>{width}}" for name, width in columns) + f"{'rel err':>10}")
    for row in rows:
        quartiles = f"[{row['q25']:.3f}, {row['q75']:.3f}]"
        error = "" if row["rel_err"] is None else f"{row['rel_err']:.1e}"
        print(
            f"{row['impl']:26}{row['ms']:>9.2f}{row['gflops']:>10.1f}{row['x_dense']:>9.3f}{quartiles:>16}"
            f"{row['x_best_peer']:>13.3f}{row['saved_mib']:>11.1f}{error:>10}"
        )
    if stamp:
        print(f"INVALID: {stamp}")


def machine(threads: int, load: float) -> dict[str, object]:
    """The machine, as a reader needs it to judge the numbers."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    size = 2048
    a = torch.randn(size, size, dtype=torch.bfloat16)
    (a @ a).sum()
    peak = sample(lambda: (a @ a, None)[1], time.perf_counter)
    return {
        "commit": commit.stdout.strip() or "unknown",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cpu": platform.processor() or platform.machine(),
        "threads": threads,
        "heap": {name: os.environ[name] for name in HEAP if name in os.environ} or "default",
        "load": round(load, 2),
        "bf16_2048_gflops": round(2 * size**3 / peak / 1e9, 1),
    }


def busy(load: float, threads: int) -> str:
    free = (os.cpu_count() or 1) - load
    return "" if free >= threads - 0.5 else f"load average {load:.1f} leaves fewer than {threads} cores"


def tables(name: str, arguments: argparse.Namespace, load: float) -> Iterator[tuple[list[dict[str, object]], str]]:
    """The rows of each mode of one shape, and whether they are valid."""
    shape, dtype = SHAPES[name], getattr(torch, arguments.dtype)
    case = Case.draw(shape, arguments.tokens, dtype, arguments.vision_share)
    truth = case.truth()
    runners = [prepare(impl, case, truth) for impl in arguments.impl]
    for runner in runners:
        if runner.failed:
            print(f"FAIL {name} {runner.name}: relative error {runner.error:.1e}; not timed")
    runners = [runner for runner in runners if not runner.failed]
    # one thread: CPU time of this process, which other work does not stretch; more: the wall clock
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    limit = 0.03 if arguments.threads == 1 else 0.08
    for mode, passes in (("forward", 1), ("forward+backward", 3)):
        facts = {key: getattr(arguments, key) for key in ("tokens", "dtype", "vision_share")}
        flops = passes * 6.0 * arguments.tokens * shape.top_k * shape.hidden * shape.ffn
        calls = {runner.name: runner.forward if mode == "forward" else runner.step for runner in runners}
        times = interleaved(calls, arguments.rounds, clock)
        rows = rows_of(times, runners, {"shape": name, "mode": mode} | facts, flops)
        control = abs(float(str(rows[1]["x_dense"])) - 1)
        stamp = f"the two dense rows differ by {control:.0%}" if control > limit else busy(load, arguments.threads)
        yield rows, stamp


def run(arguments: argparse.Namespace) -> None:
    """Measure and print all shapes and modes on the command line."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    random.seed(0)
    load = os.getloadavg()[0]
    facts = machine(arguments.threads, load)
    print(json.dumps(facts))
    for name in arguments.shape:
        for rows, stamp in tables(name, arguments, load):
            show(rows, stamp)
            if arguments.json:
                with open(arguments.json, "a", encoding="utf-8") as sink:
                    sink.writelines(json.dumps(facts | row | {"invalid": stamp}) + "\n" for row in rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["mid", "fine"])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vision-share", type=float, default=0.72)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--impl", nargs="+", choices=list(IMPLEMENTATIONS), default=list(IMPLEMENTATIONS))
    parser.add_argument("--json", help="append one JSON line per row to this file")
    parser.add_argument(
        "--quick", action="store_true", help="three rounds of the small shape, to see that the script runs"
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.shape, arguments.rounds = ["small"], 3
    arguments.impl = ["dense", "dense again", *(n for n in arguments.impl if not n.startswith("dense"))]
    run(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
