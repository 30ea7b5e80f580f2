"""What is left of a trained language model at step 0, by scheme: receipt, loss of plain text, and one answer.

    moiety fetch-demo-weights weights
    moiety assemble weights/smollm2-135m-instruct weights/dinov2-small weights/llava --image-size 84
    python speed/language.py weights/llava

Three sentences of plain text are read without a picture; their mean loss is printed. The answer is the greedy one to
"What is the capital of France?". Nothing is trained here.
"""

from __future__ import annotations

import argparse
from typing import Any

from transformers.utils import logging

from moiety.evaluate.plain_text import read_texts, text_loss
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import load
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle

TEXTS = read_texts()[:3]
QUESTION = "What is the capital of France?"
SCHEMES: dict[str, dict[str, Any]] = {
    "vanilla": {"scheme": "vanilla"},
    "two_router": {"scheme": "two_router"},
    "modality_routed": {"scheme": "modality_routed"},
    "moiie": {"scheme": "moiie"},
    "modality": {"scheme": "modality"},
    "always_on": {"scheme": "always_on"},
    "asymoe, full": {"scheme": "asymoe", "asymoe": {"size_plan": "full"}},
    "asymoe, dense_budget": {"scheme": "asymoe", "asymoe": {"size_plan": "dense_budget"}},
    "asymoe, lean, dense_budget": {"scheme": "asymoe", "asymoe": {"preset": "lean", "size_plan": "dense_budget"}},
    "moiie, half width": {"scheme": "moiie"},
}


def answer(model: Any, processor: Any) -> str:
    turn = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}
    asked = processor.apply_chat_template(
        [[turn]], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    said = model.generate(**asked, max_new_tokens=12)
    return str(processor.tokenizer.decode(said[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="dense model folder, as moiety assemble writes it")
    parser.add_argument("--quick", action="store_true", help="the first scheme only: shows that the script runs")
    given = parser.parse_args()
    folder: str = given.folder
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    processor = load_processor(folder)
    dense = load(folder)
    half = dense.config.get_text_config().intermediate_size // 2
    print("| scheme | receipt, relative | loss of plain text | answer |\n| --- | ---: | ---: | --- |")
    print(
        f"| dense | – | {text_loss(dense, processor.tokenizer, TEXTS):.4f} | {answer(dense, processor)} |", flush=True
    )
    del dense
    for name, own in list(SCHEMES.items())[: 1 if given.quick else None]:
        settings = MoESettings(**own, expert_ffn=half if "half" in name else None)
        model = upcycle(load(folder), settings, in_place=True, processor=processor)
        off = model.config.provenance["upcycled"]["receipt"]["relative_difference"]
        said = answer(model, processor).replace("\n", " ").strip()
        print(f"| {name} | {off:.1e} | {text_loss(model, processor.tokenizer, TEXTS):.4f} | {said} |", flush=True)


if __name__ == "__main__":
    main()
