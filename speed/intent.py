"""Speed and memory of A-MESS beside MulT, in one interleaved run.

    python speed/intent.py --threads 1 --rounds 7

Both are built through ``moiety.intent`` at equal width and trained with their own losses (A-MESS with semantic
synchronisation), on random utterances: text of 30 frames with audio and video of 128 to 2048 frames, and the longest
lengths of MIntRec (30, 230, 480). Each round runs every method once in random order. The table shows the median over
rounds of the ratio to A-MESS *of the same round*, with quartiles. A-MESS is measured twice. If its two times differ too
much, or if the machine is busy, the table is marked INVALID. No time is asserted.

``mult`` has the depth of the settings for MIntRec2.0: 2 cross-modal layers for each ordered pair and 3 self-attention
layers for each modality, 5 attention layers deep. ``mult 8`` has the depth of the settings for MIntRec, 8 and 8. A-MESS
is 3 deep (one layer for each modality, 2 of fusion); ``amess 4`` is as deep as ``mult``. ``amess all`` makes every
frame an anchor, which shows what the choice of a few anchors saves. The widths of MulT in its specification (80, 120)
and its doubled width in self-attention are not used: all layers of all methods have the same width, which favours MulT.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from layer import busy, interleaved, machine, saved_mib
from torch import Tensor

from moiety.intent.data.samples import IntentBatch
from moiety.intent.network.baselines import METHODS
from moiety.intent.network.model import IntentNetwork
from moiety.intent.settings import IntentSettings
from moiety.intent.training import losses_of

BASE, AGAIN = "amess", "amess again"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    AGAIN: {},
    "amess 4": {"fusion_layers": 4},
    "amess all": {"anchor_score": "all", "anchor_weighting": False},
    "mult": {"method": "mult"},
    "mult 8": {"method": "mult", "fusion_layers": 8},
}
DIMS = {"text": 768, "video": 256, "audio": 768}
CLASSES, LABEL_DIM = 20, 768
LENGTHS = {"mintrec": (30, 230, 480), **{str(n): (30, n, n) for n in (128, 256, 512, 1024, 2048)}}
MODES = ("forward", "forward+backward")


@dataclass
class Runner:
    """One method: a call for each mode, its size, the memory kept for backward, and the peak memory of a step."""

    name: str
    calls: dict[str, Callable[[], None]]
    parameters: int
    memory: dict[str, float]


def draw(lengths: tuple[int, int, int], batch: int, device: str) -> IntentBatch:
    """Random utterances of full length without padding, so that every method processes every frame."""
    x = {name: torch.randn(batch, n, DIMS[name], device=device) for name, n in zip(DIMS, lengths, strict=True)}
    masks = {name: torch.ones(value.shape[:2], dtype=torch.bool, device=device) for name, value in x.items()}
    return IntentBatch(x, masks, masks, torch.zeros(batch, dtype=torch.bool, device=device))


def build(name: str, batch: IntentBatch, arguments: argparse.Namespace) -> Runner:
    """A method with its calls and its measured memory."""
    torch.manual_seed(0)
    widths = {"hidden": arguments.hidden, "num_heads": arguments.heads, "dropout": arguments.dropout}
    settings = IntentSettings(**widths | VARIANTS[name])
    described = torch.randn(CLASSES, LABEL_DIM) if settings.method == "amess" else None
    network = IntentNetwork(METHODS[settings.method](DIMS, settings), CLASSES, settings, described)
    network = network.to(arguments.device)
    y = torch.arange(len(batch), device=arguments.device) % CLASSES

    def loss() -> Tensor:
        return torch.stack(list(losses_of(network, batch, y, settings).values())).sum()

    def forward() -> None:
        network.eval()
        with torch.no_grad():
            network(batch)
        settle(arguments.device)

    def step() -> None:
        network.train()
        network.zero_grad()
        loss().backward()
        settle(arguments.device)

    step()
    known = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *batch.x.values())}
    memory = {"saved": saved_mib(loss, known), "peak": peak_mib(step, arguments.device)}
    size = sum(parameter.numel() for parameter in network.parameters())
    return Runner(name, dict(zip(MODES, (forward, step), strict=True)), size, memory)


def settle(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_mib(call: Callable[[], None], device: str) -> float:
    """Peak MiB that a call adds: of the device, or of the process on Linux; NaN on other systems."""
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, so that it counts when it is taken again
    reset.write_text("5")  # the highest resident size starts again
    before = resident("VmRSS")
    call()
    return (resident("VmHWM") - before) / 2**10


def resident(name: str) -> int:
    """One memory size of this process in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def gib_of(name: str, lengths: tuple[int, int, int], arguments: argparse.Namespace) -> float:
    """Estimated memory of a step of one method with one sample.

    With dropout torch writes attention weights out, 9 bytes each (weight, dropped weight, mask); a block keeps about 20
    numbers of 4 bytes for each frame and unit of width; and the heap grows to 2.5 times of what autograd keeps.
    """
    own, frames, settings = sum(n * n for n in lengths), sum(lengths), VARIANTS[name]
    depth = settings.get("fusion_layers", 2)
    if settings.get("method") == "mult":
        entries, blocks = depth * (frames**2 - own) + max(3, depth) * own, 2 * depth + max(3, depth)
    else:  # anchors attend to every frame, then to each other
        anchors = frames if settings.get("anchor_score") == "all" else 27
        entries, blocks = own + depth * (anchors * frames + anchors**2), 1 + 2 * depth
    weights = 9 * arguments.heads * entries * (arguments.dropout > 0)
    return 2.5 * (weights + 80 * arguments.hidden * blocks * frames) / 2**30


def that_fit(lengths: tuple[int, int, int], arguments: argparse.Namespace) -> tuple[list[str], int]:
    """The methods that fit into memory with one sample, and the batch size, halved until all of them fit."""
    if arguments.device != "cpu":
        return arguments.variant, arguments.batch
    needs = {name: gib_of(name, lengths, arguments) for name in arguments.variant}
    names = [name for name, need in needs.items() if need <= arguments.memory_gib]
    batch = arguments.batch
    while batch > 1 and batch * max((needs[name] for name in names), default=0) > arguments.memory_gib:
        batch //= 2
    return names, batch


def rows_of(
    runners: list[Runner], times: dict[str, list[float]], mode: str, facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """One record for each method."""
    rows = []
    for runner in runners:
        ratio = [a / b for a, b in zip(times[runner.name], times[BASE], strict=True)]
        q25, middle, q75 = statistics.quantiles(ratio, n=4)
        row = {"impl": runner.name, "mode": mode, "ms": round(statistics.median(times[runner.name]) * 1e3, 2)}
        row |= {"x_amess": round(middle, 3), "q25": round(q25, 3), "q75": round(q75, 3)}
        row |= {f"{kind}_mib": round(value, 1) for kind, value in runner.memory.items()}
        rows.append(facts | row | {"parameters": runner.parameters})
    return rows


def show(rows: list[dict[str, Any]], stamp: str) -> None:
    first = rows[0]
    title = f"{first['length']}: text, video, audio {first['lengths']}  batch {first['batch']}  {first['mode']}"
    print(f"\n{title}\n{'':14}{'ms':>11}{'x amess':>9}{'[q25, q75]':>18}", end="")
    print(f"{'saved MiB':>11}{'peak MiB':>10}{'parameters':>12}")
    for row in rows:
        quartiles = f"[{row['q25']:.2f}, {row['q75']:.2f}]"
        sizes = f"{row['saved_mib']:>11.1f}{row['peak_mib']:>10.1f}{row['parameters']:>12,}"
        print(f"{row['impl']:14}{row['ms']:>11.1f}{row['x_amess']:>9.2f}{quartiles:>18}{sizes}")
    if stamp:
        print(f"INVALID: {stamp}", flush=True)


def run(arguments: argparse.Namespace) -> None:
    """Measure and print all lengths and modes on the command line."""
    torch.set_num_threads(arguments.threads)
    random.seed(0)
    load = os.getloadavg()[0]
    asked = {name: getattr(arguments, name) for name in ("hidden", "heads", "dropout", "device")}
    known = machine(arguments.threads, load)
    print(json.dumps(known | asked))
    # one thread on a CPU: CPU time of this process, which other work does not stretch; otherwise the wall clock
    alone = arguments.threads == 1 and arguments.device == "cpu"
    clock, limit = (time.process_time, 0.03) if alone else (time.perf_counter, 0.08)
    for name in arguments.length:
        names, size = that_fit(LENGTHS[name], arguments)
        for variant in sorted({*arguments.variant} - {*names}):
            print(f"\n{name}: {variant} is left out, a step needs more than {arguments.memory_gib:g} GiB", flush=True)
        if BASE not in names:
            continue
        batch = draw(LENGTHS[name], size, arguments.device)
        runners = [build(variant, batch, arguments) for variant in names]
        for mode in arguments.mode:
            times = interleaved({runner.name: runner.calls[mode] for runner in runners}, arguments.rounds, clock)
            facts = known | asked | {"length": name, "lengths": LENGTHS[name], "batch": size}
            rows = rows_of(runners, times, mode, facts)
            control = abs(next(row["x_amess"] for row in rows if row["impl"] == AGAIN) - 1)
            stamp = f"the two amess rows differ by {control:.0%}" if control > limit else busy(load, arguments.threads)
            show(rows, stamp)
            if arguments.json:
                with open(arguments.json, "a", encoding="utf-8") as sink:
                    sink.writelines(json.dumps(row | {"invalid": stamp}) + "\n" for row in rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--length", nargs="+", choices=list(LENGTHS), default=list(LENGTHS))
    parser.add_argument("--batch", type=int, default=16, help="halved until every method fits into --memory-gib")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1, help="0: torch keeps no attention weights")
    parser.add_argument("--memory-gib", type=float, default=6.0, help="methods that need more are left out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mode", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=[n for n in VARIANTS if n != "mult 8"])
    parser.add_argument("--json", help="append one JSON line per row to this file")
    parser.add_argument(
        "--quick", action="store_true", help="three rounds of the MIntRec lengths, to see that the script runs"
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.length, arguments.rounds = ["mintrec"], 3
    arguments.variant = [BASE, AGAIN, *(name for name in arguments.variant if name not in (BASE, AGAIN))]
    run(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
