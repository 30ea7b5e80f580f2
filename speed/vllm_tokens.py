"""Are the greedy answers of vLLM those of moiety? And how many tokens a second do both write?

    make vllm

Runs in an environment with vLLM; ``make vllm`` builds one. Models are tiny and random, with experts and gates spread so
that routing decides the answers. Every folder is asked twelve questions, with and without a picture, by
``model.generate`` one after another and by vLLM in several ways. "control" is the same engine that takes every token
for text: if its answers were equal too, the comparison would say nothing. Each engine has a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCHEMES = ("dense", "moiie", "vanilla", "modality_routed", "two_router", "modality", "always_on")
FAMILIES = (*("llava-onevision", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3", "paligemma", "idefics3", "smolvlm"),)
WAYS = ("single", "batched", "turns", "chunked", "process", "compiled", "control")
NUM_QUESTIONS, NUM_TOKENS = 12, 12
QUESTIONS = ("Which colour?", "Describe it.", "red green blue", "all white")
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def make(family: str, scheme: str, folder: Path) -> None:
    """A tiny random model in a form that vLLM's kernels take: heads of 32, inner widths that 32 divides."""
    import torch
    from tests import family_processors, tiny

    tiny.TEXT.update(hidden_size=128, intermediate_size=64, max_position_embeddings=512)
    entry = tiny.FAMILIES[family]

    def config() -> Any:
        made = entry.config()
        text = made.text_config
        if getattr(text, "head_dim", None):
            text.head_dim = 32
        if family == "paligemma":
            made.projection_dim = made.hidden_size = made.vision_config.projection_dim = 128
        if family.startswith("qwen"):
            made.vision_config.out_hidden_size = 128
            text.rope_parameters = {**text.rope_parameters, "mrope_section": [8, 4, 4]}
        return made

    tiny.FAMILIES[family] = dataclasses.replace(entry, config=config)
    from moiety.recipe.recipe import MoESettings
    from moiety.vlm.upcycle import upcycle

    processor = family_processors.family_processor(family)
    model = family_processors.model_for(family, processor)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3.0)
    settings = MoESettings(scheme=scheme, layers="all", router_init_std=1.0)
    if scheme == "dense":
        from moiety.vlm.model import adopt

        model = adopt(model, settings, copy=True)
    else:
        model = upcycle(model, settings, in_place=True, processor=processor)
        for seed in range(3):  # far apart, so that a wrong expert changes an answer
            tiny.spread_experts(model, seed)
        for name, parameter in model.named_parameters():  # and text that listens to pictures
            if "vis" not in name and name.endswith(("v_proj.weight", "o_proj.weight")):
                parameter.data.mul_(3.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def questions(folder: Path, processor: Any) -> list[tuple[str, Any]]:
    """Prompts of the chat template, each with a picture of noise or without."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    found = []
    for number in range(NUM_QUESTIONS):
        alone = number % 3 == 0 and "PaliGemma" not in type(processor).__name__  # it refuses a text alone
        picture = None if alone else Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        content = [{"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]}]
        if picture is not None:
            content.insert(0, {"type": "image"})
        message = [{"role": "user", "content": content}]
        found.append((processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False), picture))
    return found


def ours(folder: Path) -> list[list[int]]:
    """The answers of ``model.generate``, one question at a time."""
    import torch

    from moiety.vlm.model import load
    from moiety.vlm.templates import load_processor

    model, processor = load(folder).eval(), load_processor(folder)
    found = []
    for text, picture in questions(folder, processor):
        batch = processor(text=[text], images=None if picture is None else [picture], return_tensors="pt")
        with torch.no_grad():
            made = model.generate(**batch, max_new_tokens=NUM_TOKENS, do_sample=False)
        found.append(made[0, batch["input_ids"].shape[1] :].tolist())
    return found


def engine_answers(folder: Path, way: str) -> list[list[int]]:
    """The answers of vLLM in one of :data:`WAYS`."""
    from vllm import LLM, SamplingParams

    from moiety.vlm.templates import load_processor

    if way == "control":
        import torch

        import moiety.vllm.models as models

        models.ids_from_placeholders = lambda ids, tokens: torch.zeros_like(ids)
    chunks: dict[str, Any] = {"max_num_batched_tokens": 16, "enable_chunked_prefill": True} if way == "chunked" else {}
    engine = LLM(
        str(folder), dtype="float32", max_model_len=256, max_num_seqs=12, enforce_eager=way != "compiled", **chunks
    )
    asked = [
        {"prompt": text, **({} if picture is None else {"multi_modal_data": {"image": picture}})}
        for text, picture in questions(folder, load_processor(folder))
    ]
    greedy = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)

    def answer(prompts: list[Any]) -> list[list[int]]:
        return [list(found.outputs[0].token_ids) for found in engine.generate(prompts, greedy, use_tqdm=False)]

    if way == "single":
        return [answer([prompt])[0] for prompt in asked]
    if way == "turns":  # the second time every block of keys and values is there already
        answer(asked)
    return answer(asked)


def engine_speed(folder: Path, sizes: tuple[int, ...] = (1, 8, 32), length: int = 64) -> dict[str, float]:
    """Tokens a second of vLLM and of ``model.generate``, in turn, for several numbers of questions at once."""
    import torch
    from vllm import LLM, SamplingParams

    from moiety.vlm.model import load
    from moiety.vlm.templates import load_processor

    model, processor = load(folder).eval(), load_processor(folder)
    processor.tokenizer.padding_side = "left"
    seen = [question for question in questions(folder, processor) if question[1] is not None]
    engine = LLM(str(folder), dtype="float32", max_model_len=256, max_num_seqs=32, enforce_eager=True)
    greedy = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
    found: dict[str, float] = {}
    for size in sizes:
        chosen = [seen[number % len(seen)] for number in range(size)]
        batch = processor(text=[text for text, _ in chosen], images=[[p] for _, p in chosen], return_tensors="pt")
        prompts: list[Any] = [{"prompt": text, "multi_modal_data": {"image": p}} for text, p in chosen]
        times: dict[str, list[float]] = {"vLLM": [], "generate": []}
        for number in range(4):
            start = time.perf_counter()
            engine.generate(prompts, greedy, use_tqdm=False)
            middle = time.perf_counter()
            with torch.no_grad():
                model.generate(**batch, max_new_tokens=length, min_new_tokens=length, do_sample=False)
            end = time.perf_counter()
            if number:  # the first round warms up
                times["vLLM"].append(middle - start)
                times["generate"].append(end - middle)
        found |= {f"{name} {size}": size * length / sorted(took)[1] for name, took in times.items()}
    return found


def apart(*given: str, process: bool = False) -> Any:
    """One call of this script in a process of its own; its last line is the answer as JSON."""
    environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(process))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, __file__, *given], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:160] if done.stderr.strip() else f"exit {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1])


def equal(mine: list[list[int]], theirs: list[list[int]]) -> int:
    """How many answers of vLLM are those of ``generate``, up to where ``generate`` stopped."""
    return sum(other[: len(own)] == own for own, other in zip(mine, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=["make", "ours", "engine", "speed"], help="one step, in this process")
    parser.add_argument("--folder", type=Path, help="model folder of the step")
    parser.add_argument("--way", choices=WAYS, help="way of step engine")
    parser.add_argument("--only", help="families and schemes, as in llava-llama:moiie,qwen3_vl:moiie")
    parser.add_argument("--ways", default=",".join(WAYS), help="ways of the table, with commas")
    parser.add_argument("--no-speed", action="store_true", help="leave the table of tokens a second out")
    given = parser.parse_args()
    if given.step:
        family, scheme = given.folder.name.split(":")
        steps: dict[str, Any] = {
            "make": lambda: make(family, scheme, given.folder),
            "ours": lambda: ours(given.folder),
            "engine": lambda: engine_answers(given.folder, given.way),
            "speed": lambda: engine_speed(given.folder),
        }
        print(json.dumps(steps[given.step]()))
        return
    chosen = [f"llava-llama:{scheme}" for scheme in SCHEMES] + [f"{family}:moiie" for family in FAMILIES]
    chosen = given.only.split(",") if given.only else chosen
    ways = given.ways.split(",")
    print(f"Equal greedy answers of {NUM_QUESTIONS}, vLLM against `model.generate`:\n")
    print(f"| family:scheme | {' | '.join(ways)} |\n| --- |{' ---: |' * len(ways)}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for name in chosen:
            folder = str(Path(place) / name)
            made = apart("--step", "make", "--folder", folder)
            mine = apart("--step", "ours", "--folder", folder) if made is None else made
            cells = []
            for way in ways:
                found = mine
                if isinstance(mine, list):
                    found = apart("--step", "engine", "--folder", folder, "--way", way, process=way == "process")
                cells.append(str(equal(mine, found)) if isinstance(found, list) else f"failed: {found}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if not given.no_speed:
            folder = str(Path(place) / "llava-llama:moiie")
            if not Path(folder).exists():
                apart("--step", "make", "--folder", folder)
            print("\nTokens a second, questions at once:\n\n| | 1 | 8 | 32 |\n| --- | ---: | ---: | ---: |")
            found = apart("--step", "speed", "--folder", folder)
            for who in ("vLLM", "generate"):
                cells = [f"{found[f'{who} {size}']:.0f}" for size in (1, 8, 32)]
                print(f"| {who} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
