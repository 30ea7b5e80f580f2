"""Planned memory of training stages beside the peak of real runs of a few steps, each in a process of its own.

    moiety fetch-demo-weights weights
    moiety assemble weights/smollm2-135m-instruct weights/dinov2-small weights/llava --image-size 84
    python speed/memory.py weights/llava grocery/conversations-caption-train.jsonl --images grocery/images

The rows are the longest of the file, so that a short run meets the batch that the plan is made for. The peak is the
resident memory of the training, less that of the same process before it loads the model. Every case runs twice: as
moiety trains, and with freed memory kept by glibc, as it does by default.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import parser_over_rows
from transformers.utils import logging

from moiety.recipe.recipe import Recipe, parse_recipe
from moiety.train import plan, run_recipe, stage
from moiety.vlm.model import register_families

DENSE = ["projector", "embeddings", "decoder", "head"]
ALL = [*DENSE, "router", "experts"]
FAMILY = {
    "vocab": 8000, "hidden": 512, "ffn": 1536, "layers": 8, "heads": 8, "vision_hidden": 256, "vision_ffn": 1024,
    "vision_layers": 6, "vision_heads": 4, "image_size": 84, "patch_size": 14,
}  # fmt: skip
CASES: dict[str, tuple[str, list[str], int, dict[str, Any]]] = {
    "dense, projector": ("dense", ["projector"], 4, {}),
    "dense, projector, batch 8": ("dense", ["projector"], 8, {}),
    "dense, all but the tower": ("dense", DENSE, 4, {}),
    "dense, all but the tower, batch 8": ("dense", DENSE, 8, {}),
    "moiie, all but the tower": ("moiie", ALL, 4, {}),
    "moiie, all but the tower, batch 8": ("moiie", ALL, 8, {}),
    "moiie, experts alone": ("moiie", ["router", "experts"], 4, {}),
    "moiie, experts alone, batch 8": ("moiie", ["router", "experts"], 8, {}),
    "moiie, all but the tower, checkpointing": ("moiie", ALL, 8, {"gradient_checkpointing": True}),
    "from nothing, moiie, everything": ("moiie", ["vision_tower", *ALL], 8, {}),
    "from nothing, asymoe, everything": ("asymoe", ["vision_tower", *ALL], 8, {}),
}


def longest(given: argparse.Namespace, number: int, target: Path) -> None:
    """Write the rows with the longest text."""
    lines = Path(given.rows).read_text(encoding="utf-8").splitlines()
    target.write_text("\n".join(sorted(lines, key=len)[-number:]) + "\n", encoding="utf-8")


def recipe_of(given: argparse.Namespace, name: str, folder: Path) -> Recipe:
    """The recipe of a case: one stage."""
    scheme, trains, batch, more = CASES[name]
    longest(given, batch * given.steps, folder / "rows.jsonl")
    train = {"per_device_train_batch_size": batch, "max_steps": given.steps, "logging_steps": 1, **more}
    stage = {"name": "stage", "data": ["rows.jsonl"], "trains": trains, "train": train, "sparse": scheme != "dense"}
    model: dict[str, Any] = {"source": given.folder, "trained_projector": True}
    if name.startswith("from nothing"):
        model = {"scratch": FAMILY, "trained_projector": True}
    sparse = {} if scheme == "dense" else {"moe": {"scheme": scheme}}
    tree = {
        "name": "memory",
        "output": str(folder / "out"),
        "model": model,
        "data": {"root": str(folder), "images": [str(Path(given.images).resolve())]},
        "stages": [stage],
        **sparse,
    }
    return parse_recipe(tree)


def resident() -> float:
    """Resident memory of this process in GiB."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 2**20


def run_one(given: argparse.Namespace) -> None:
    """Plan and train one case, and print GiB by part, the peak above the process, and CPU seconds of the training."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if given.keep_freed:
        stage.return_freed_memory = lambda: False
    with tempfile.TemporaryDirectory() as aside:
        recipe = recipe_of(given, given.case, Path(aside))
        found: dict[str, Any] = {}
        if given.plan:
            planned = plan(recipe).stages[0].memory
            found = {name: getattr(planned, name) for name in (*planned.PARTS, "rows", "length")}
        else:
            register_families()
            before, start = resident(), time.process_time()
            (result,) = run_recipe(recipe)
            found["peak"] = result.metrics["peak_memory_gib"] - before
            found |= {"seconds": time.process_time() - start, "loss": result.metrics["last_cross_entropy"]}
    print(json.dumps(found))


def child(given: argparse.Namespace, name: str, *flags: str) -> dict[str, Any]:
    """The numbers of one case from a process of its own."""
    command = [sys.executable, __file__, given.folder, given.rows, "--images", given.images, "--case", name]
    done = subprocess.run([*command, "--steps", str(given.steps), *flags], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    numbers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def main() -> None:
    parser = parser_over_rows(__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", nargs="*", default=list(CASES), help="cases of the table")
    parser.add_argument("--case", choices=sorted(CASES), help="this case alone, in this process")
    parser.add_argument("--plan", action="store_true", help="with --case: the plan")
    parser.add_argument("--keep-freed", action="store_true", help="with --case: as glibc does it by default")
    given = parser.parse_args()
    if given.case:
        run_one(given)
        return
    heads = ["stage", "rows x tokens", "parameters", "gradients", "optimizer", "activations", "planned", "peak"]
    heads += ["planned / peak", "peak, freed memory kept", "CPU time / kept", "loss equal"]
    print(f"| {' | '.join(heads)} |")
    print("| --- " + "| ---: " * 11 + "|")
    for name in given.only:
        planned, real, kept = child(given, name, "--plan"), child(given, name), child(given, name, "--keep-freed")
        parts = [f"{planned[part]:.2f}" for part in ("parameters", "gradients", "optimizer", "activations", "total")]
        ratios = [f"{planned['total'] / real['peak']:.2f}", f"{kept['peak']:.2f}"]
        cells = [name, f"{planned['rows']} x {planned['length']}", *parts, f"{real['peak']:.2f}", *ratios]
        cells += [f"{real['seconds'] / kept['seconds']:.2f}", "yes" if real["loss"] == kept["loss"] else "no"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
