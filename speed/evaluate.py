"""Time of answering several questions about each picture: prompts computed whole, and pictures computed once.

    python speed/evaluate.py MODEL QUESTIONS.jsonl --images PICTURES.tar --photos 20

Both ways answer the same questions in turn, several times; medians and the number of equal answers are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from moiety.evaluate.run import answer_rows
from moiety.evaluate.watch import Watch
from moiety.vlm.images import Images
from moiety.vlm.model import load
from moiety.vlm.rows import load_rows
from moiety.vlm.templates import load_processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder")
    parser.add_argument("questions", help="conversation file with several rows for each picture")
    parser.add_argument("--images", required=True, nargs="+", help="folders and .tar files of pictures")
    parser.add_argument("--photos", type=int, default=20, help="number of pictures")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is measured")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="two pictures, one round: does it run?")
    asked = parser.parse_args()
    photos, rounds = (2, 1) if asked.quick else (asked.photos, asked.rounds)
    model, processor = load(asked.model), load_processor(asked.model)
    rows = load_rows([asked.questions])
    shown = list(dict.fromkeys(row.images for row in rows))[:photos]
    rows = [row for row in rows if row.images in set(shown)]
    images = Images([Path(path) for path in asked.images])
    seconds: dict[str, list[float]] = {"whole": [], "shared": []}
    answers: dict[str, dict[str, str]] = {}
    for _ in range(rounds):
        for way in seconds:
            started = time.perf_counter()
            answers[way] = answer_rows(
                *(model, processor, rows, images),
                batch_size=asked.batch_size,
                max_new_tokens=asked.max_new_tokens,
                watch=Watch() if way == "whole" else None,  # a watch sees whole prompts
            )
            seconds[way].append(time.perf_counter() - started)
    equal = sum(answers["whole"][name] == said for name, said in answers["shared"].items())
    whole, shared = (statistics.median(seconds[way]) for way in ("whole", "shared"))
    print(f"{len(rows)} questions on {len(shown)} pictures, {torch.get_num_threads()} threads")
    print(
        f"whole {whole:.1f} s, shared {shared:.1f} s, ratio {shared / whole:.2f}; {equal} of {len(rows)} answers equal"
    )


if __name__ == "__main__":
    main()
