"""How evenly the gates of a fresh sparse model use its experts, as drawn and centred, on other rows.

    moiety fetch-demo-weights weights
    moiety assemble weights/smollm2-135m-instruct weights/dinov2-small weights/llava --image-size 84
    python speed/gates.py weights/llava grocery/conversations-train.jsonl --images grocery/images

Gates are centred on some rows and counted on others. For each modality the table holds the smallest load of an expert
in any layer, relative to an even load, the mean of that smallest load over layers, and the smallest load over all
layers together. The last is what a loss or a log sees that averages over layers. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from rows import encoded, parser_over_rows

from moiety.moe.statistics import Tally, least_load, tally
from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.centring import centre_gates
from moiety.vlm.model import groups_of, load
from moiety.vlm.upcycle import upcycle

SCHEMES: dict[str, dict[str, Any]] = {
    "moiie": {"scheme": "moiie"},
    "vanilla": {"scheme": "vanilla"},
    "modality_routed": {"scheme": "modality_routed"},
    "two_router": {"scheme": "two_router"},
    "asymoe, full": {"scheme": "asymoe", "asymoe": {"size_plan": "full"}},
}


@torch.no_grad()
def loads(model: Any, batch: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Modality group -> least load of any layer, its mean over layers, least load over all layers together."""
    groups = groups_of(model)
    assert groups is not None
    with recording() as trace:
        model(**batch, use_cache=False)
    tallies = [tally(routings, groups) for routings in trace.by_layer().values()]
    by_layer = torch.stack([least_load(count, groups)[0] for count in tallies])  # (layers, groups)
    whole = Tally(*(sum(getattr(count, field.name) for count in tallies) for field in fields(Tally)))  # type: ignore[arg-type]
    together = least_load(whole, groups)[0]
    return {
        name: (by_layer[:, place].min().item(), by_layer[:, place].mean().item(), together[place].item())
        for place, name in enumerate(groups.names)
    }


def main() -> None:
    parser = parser_over_rows(__doc__)
    parser.add_argument("--calibration", type=int, default=16, help="rows that gates are centred on")
    parser.add_argument("--held-out", type=int, default=48, help="other rows, which are counted")
    parser.add_argument("--quick", action="store_true", help="the first scheme only")
    given = parser.parse_args()
    wanted = given.calibration + given.held_out
    processor, seen, collator = encoded(given, wanted)
    every = wanted // given.calibration
    places = range(0, wanted, every)[: given.calibration]
    calibration = collator([seen[place] for place in places])
    held_out = collator([row for place, row in enumerate(seen) if place not in places])
    for batch in (calibration, held_out):
        del batch["labels"]
    print("| scheme | gate | vision: least of any layer | mean | layers together | text: least | mean | together |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, own in list(SCHEMES.items())[: 1 if given.quick else None]:
        model = upcycle(load(given.folder), MoESettings(**own), in_place=True, processor=processor).eval()
        for start in ("as drawn", "centred"):
            if start == "centred":
                centre_gates(model, calibration)
            found = loads(model, held_out)
            cells = [f"{value:.2f}" for group in ("vision", "text") for value in found[group]]
            print(f"| {name} | {start} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
