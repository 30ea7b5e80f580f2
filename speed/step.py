"""Tokens a second of a training step on a real model, in three ways.

"all" computes logits of every position, "labelled" only those that predict a label, and "kept" reads the features of
the frozen vision tower from files as well (``data.cache_features``).

    moiety fetch-demo-weights weights
    moiety assemble weights/smollm2-135m-instruct weights/dinov2-small weights/llava --image-size 84
    python speed/step.py weights/llava grocery/conversations-caption-train.jsonl --images grocery/images

One batch is trained on several times: the projector of the dense model alone, then all parts but the vision tower, then
experts and routers of scheme moiie. The ways take turns in each round. The table shows the median over rounds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from rows import encoded, parser_over_rows

from moiety.recipe.recipe import MoESettings, Part
from moiety.train.labelled import only_labelled
from moiety.vlm.kept_features import kept_features
from moiety.vlm.model import load
from moiety.vlm.parts import freeze
from moiety.vlm.upcycle import upcycle

TRAINS: dict[str, tuple[str, list[Part]]] = {
    "projector": ("dense", ["projector"]),
    "all but the tower": ("dense", ["projector", "embeddings", "decoder", "head"]),
    "experts and routers": ("moiie", ["router", "experts"]),
}


def seconds(model: Any, batch: Mapping[str, Any]) -> tuple[float, float]:
    """Time of one forward and backward, and the loss."""
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return time.perf_counter() - start, loss.item()


def main() -> None:
    parser = parser_over_rows(__doc__)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    processor, seen, collator = encoded(given, given.batch_size)
    batch = collator(seen)
    tokens = int(batch["attention_mask"].sum())
    print("| what is trained | logits: all | labelled | kept | labelled / all | kept / labelled | loss: all | kept |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (scheme, parts) in TRAINS.items():
        model = load(given.folder)
        if scheme != "dense":
            model = upcycle(model, MoESettings(scheme=scheme), in_place=True, processor=processor)
        freeze(model.train(), parts)
        labelled = only_labelled(model, batch)
        ways = {"all": batch, "labelled": labelled, "kept": labelled}
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(given.rounds + 1):
                for way, keywords in ways.items():
                    with kept_features(model, folder if way == "kept" else None):
                        done = seconds(model, keywords)
                    if number:  # the first round warms up, and computes the features that are kept
                        found[way].append(done)
        cells = [f"{tokens / statistics.median(time for time, _ in times):.0f} tokens/s" for times in found.values()]
        cells += [f"{ratio(found, *pair):.2f}" for pair in (("labelled", "all"), ("kept", "labelled"))]
        print(f"| {name} | {' | '.join(cells)} | {found['all'][0][1]:.4f} | {found['kept'][0][1]:.4f} |", flush=True)


def ratio(found: Mapping[str, list[tuple[float, float]]], way: str, other: str) -> float:
    """Median over rounds of the time of one way divided by that of another."""
    pairs = zip(found[way], found[other], strict=True)
    return statistics.median(mine / theirs for (mine, _), (theirs, _) in pairs)


if __name__ == "__main__":
    main()
