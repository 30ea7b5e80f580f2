"""Speed and saved memory of AsyMoE beside MoIIE at equal activated parameters, in one interleaved run.

    python speed/asymoe.py --threads 1 --shape d256 d512 --rounds 9

Three things are timed: the sparse layer forward; the layer forward and backward; and a whole training step (loss,
load balancing, backward, clipping, AdamW) of a decoder with the layer in every decoder layer. MoIIE gets the expert
width that makes its activated parameters equal to the larger count of AsyMoE's text and image tokens.

Each round runs all variants once in random order. The table shows the median over rounds of the ratio to MoIIE *of the
same round*, with quartiles. MoIIE is measured twice. If its two times differ too much, or if the machine is busy, the
table is marked INVALID. The table also holds AsyMoE without one of its parts (Euclidean twin, plain text experts, or
both), which shows what each part costs. No time is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from layer import busy, interleaved, machine, saved_mib
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from moiety.moe.asymoe.context import Evidence
from moiety.moe.layer import ModalityMoE
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import adopt, moe_layers

BASE, AGAIN = "moiie", "moiie again"
VARIANTS: dict[str, dict[str, Any] | None] = {
    BASE: None,
    AGAIN: None,
    "asymoe": {},
    "asymoe euclidean": {"inter_kind": "euclidean"},
    "asymoe plain text": {"text_kind": "ffn"},
    "asymoe plain": {"text_kind": "ffn", "inter_kind": "ffn"},
    "asymoe context": {"text_kind": "context"},
}
IMAGE, IMAGE_TOKENS = 4, 16


@dataclass(frozen=True)
class Shape:
    hidden: int
    ffn: int
    layers: int
    vocab: int


SHAPES = {
    "tiny": Shape(64, 176, 2, 512),
    "d256": Shape(256, 704, 6, 4096),
    "d512": Shape(512, 1408, 8, 8192),
    "d768": Shape(768, 2048, 12, 32000),
}


@dataclass
class Runner:
    """One variant: a call for each mode, its activated parameters, and the memory that it keeps for backward."""

    name: str
    calls: dict[str, Callable[[], None]]
    activated: dict[str, int]
    saved_mib: float


def settings_of(name: str, shape: Shape) -> MoESettings:
    """The designed widths for AsyMoE and its parts; for MoIIE the expert width with equal activated parameters."""
    own = VARIANTS[name]
    if own is not None:
        return MoESettings(scheme="asymoe", asymoe=own)
    target = max(activated(ModalityMoE(shape.hidden, shape.ffn, settings_of("asymoe", shape))).values())
    width = (target - 3 * shape.hidden) // (6 * shape.hidden)  # gate of 3 experts, two experts of three matrices
    return MoESettings(scheme="moiie", layers="all", expert_ffn=int(width) // 8 * 8)


def activated(layer: ModalityMoE) -> dict[str, int]:
    return {name: layer.activated_parameters(name) for name in layer.groups.names}


def draw(shape: Shape, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Modality ids with the image first, and the evidence mask: the image and the first half of the text."""
    batch, seq = arguments.batch, arguments.seq
    images = int(arguments.vision_share * seq) // IMAGE_TOKENS * IMAGE_TOKENS
    position = torch.arange(seq).expand(batch, seq)
    return (position < images).long(), position < (seq + images) // 2


def layer_calls(name: str, shape: Shape, arguments: argparse.Namespace) -> Runner:
    """The sparse layer alone."""
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    settings = settings_of(name, shape)
    layer = ModalityMoE(shape.hidden, settings.expert_ffn or shape.ffn, settings).to(dtype)
    with torch.no_grad():  # gates of the size of trained ones, so that routing is neither even nor a coin
        for gate in layer.router.parameters():
            gate.normal_(std=shape.hidden**-0.5) if gate.dim() > 1 else None
    ids, evidence = draw(shape, arguments)
    x = torch.randn(*ids.shape, shape.hidden).to(dtype).requires_grad_()
    upstream, leaves = torch.randn_like(x), [x, *layer.parameters()]

    def forward() -> Tensor:
        return layer(x, ids, Evidence(evidence) if layer.context is not None else None)

    def no_grad() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        torch.autograd.grad(forward(), leaves, upstream, allow_unused=True)

    known = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    calls = {"layer forward": no_grad, "layer forward+backward": both}
    return Runner(name, calls, activated(layer), saved_mib(forward, known))


def step_call(name: str, shape: Shape, arguments: argparse.Namespace) -> Callable[[], None]:
    """A training step of a small vision-language model with the layer in every decoder layer."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=arguments.layers or shape.layers,
        num_attention_heads=shape.hidden // 32,
        tie_word_embeddings=True,
    )
    tower = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    config = LlavaConfig(text_config=text, vision_config=tower, image_token_id=IMAGE, image_seq_length=IMAGE_TOKENS)
    model = adopt(LlavaForConditionalGeneration(config), settings_of(name, shape), copy=False).train()
    ids, evidence = draw(shape, arguments)
    tokens = torch.randint(10, shape.vocab, ids.shape).masked_fill(ids == 1, IMAGE)
    batch: dict[str, Tensor] = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "labels": tokens.masked_fill(evidence, -100),
        "pixel_values": torch.randn(int((ids == 1).sum()) // IMAGE_TOKENS, 3, 32, 32),
        "evidence_mask": evidence,
    }
    model.to(getattr(torch, arguments.dtype))
    batch["pixel_values"] = batch["pixel_values"].to(model.dtype)
    if not any(layer.context is not None for layer in moe_layers(model)):
        del batch["evidence_mask"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def rows_of(runners: list[Runner], times: dict[str, list[float]], mode: str) -> list[dict[str, Any]]:
    """One record for each variant."""
    rows = []
    for runner in runners:
        ratio = [a / b for a, b in zip(times[runner.name], times[BASE], strict=True)]
        q25, middle, q75 = statistics.quantiles(ratio, n=4)
        row = {"impl": runner.name, "mode": mode, "ms": round(statistics.median(times[runner.name]) * 1e3, 2)}
        row |= {"x_moiie": round(middle, 3), "q25": round(q25, 3), "q75": round(q75, 3)}
        rows.append(row | {"saved_mib": round(runner.saved_mib, 2), "activated": runner.activated})
    return rows


def show(rows: list[dict[str, Any]], title: str, stamp: str) -> None:
    print(f"\n{title}  {rows[0]['mode']}")
    print(f"{'':20}{'ms':>10}{'x moiie':>9}{'[q25, q75]':>16}{'saved MiB':>11}  activated a layer")
    for row in rows:
        quartiles = f"[{row['q25']:.3f}, {row['q75']:.3f}]"
        counts = "  ".join(f"{name} {count:,}" for name, count in row["activated"].items())
        counts = f"{row['saved_mib']:>11.1f}  {counts}"
        print(f"{row['impl']:20}{row['ms']:>10.2f}{row['x_moiie']:>9.3f}{quartiles:>16}{counts}")
    if stamp:
        print(f"INVALID: {stamp}")


def run(arguments: argparse.Namespace) -> None:
    """Measure and print all shapes and modes on the command line."""
    torch.set_num_threads(arguments.threads)
    random.seed(0)
    load = os.getloadavg()[0]
    facts = machine(arguments.threads, load)
    print(json.dumps(facts))
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    for name in arguments.shape:
        shape = SHAPES[name]
        runners = [layer_calls(variant, shape, arguments) for variant in arguments.variant]
        if arguments.steps:
            for runner in runners:
                runner.calls["training step"] = step_call(runner.name, shape, arguments)
        for mode in runners[0].calls:
            times = interleaved({runner.name: runner.calls[mode] for runner in runners}, arguments.rounds, clock)
            rows = rows_of(runners, times, mode)
            control = abs(next(row["x_moiie"] for row in rows if row["impl"] == AGAIN) - 1)
            limit = 0.03 if arguments.threads == 1 else 0.08
            stamp = f"the two moiie rows differ by {control:.0%}" if control > limit else busy(load, arguments.threads)
            show(rows, f"{name}  {arguments.batch} x {arguments.seq}  {arguments.dtype}", stamp)
            if arguments.json:
                with open(arguments.json, "a", encoding="utf-8") as sink:
                    sink.writelines(
                        json.dumps(facts | {"shape": name} | row | {"invalid": stamp}) + "\n" for row in rows
                    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=["d256", "d512"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--layers", type=int, help="decoder layers of the training step (default: those of the shape)")
    parser.add_argument("--vision-share", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-steps", dest="steps", action="store_false", help="the layer alone")
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--json", help="append one JSON line per row to this file")
    parser.add_argument(
        "--quick", action="store_true", help="three rounds of the tiny shape, to see that the script runs"
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.shape, arguments.rounds, arguments.seq = ["tiny"], 3, 64
    arguments.variant = [BASE, AGAIN, *(name for name in arguments.variant if name not in (BASE, AGAIN))]
    run(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
