"""Run by ``test_traps.py`` in a process of its own: what transformers does before and after moiety is imported.

Prints one JSON object. Argument: a folder with a sparse model.
"""

import json
import sys

import torch
import transformers as hf
from transformers.integrations import moe as hf_moe

folder = sys.argv[1]
found: dict[str, object] = {}
torch.set_num_threads(1)


def stock_logits() -> list[float]:
    torch.manual_seed(0)
    text = hf.Qwen2Config(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                          num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    vision = hf.CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                                 image_size=8, patch_size=4)  # fmt: skip
    model = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=31)
    )
    ids = torch.tensor([[1, 31, 31, 31, 31, 2]])
    with torch.no_grad():
        return model.eval()(input_ids=ids, pixel_values=torch.ones(1, 3, 8, 8)).logits.flatten().tolist()


try:
    hf.AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    found["without_moiety"] = str(error)
before = stock_logits()

import moiety.moe.experts.ffn as ffn  # noqa: E402
import moiety.vlm  # noqa: E402

found["stock_is_bit_equal"] = stock_logits() == before
ran: list[str] = []
for route in ("grouped_mm", "batched_mm"):
    function = hf_moe.ALL_EXPERTS_FUNCTIONS[route]
    hf_moe.ALL_EXPERTS_FUNCTIONS.register(
        route, lambda *args, route=route, function=function: (ran.append(route), function(*args))[1]
    )
own_choice = ffn.choose_kernel
ffn.choose_kernel = lambda *given: (ran.append("moiety"), own_choice(*given))[1]  # our own route asks for a kernel
ids = torch.tensor([[1, 5, 60, 60, 60, 60, 9, 10], [1, 5, 6, 7, 8, 9, 0, 0]])
batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": torch.ones(1, 3, 8, 8)}
logits, routes = {}, {}
for wish in (None, "eager", "grouped_mm", "batched_mm", "moiety"):
    options = {} if wish is None else {"experts_implementation": wish}
    model = hf.AutoModelForImageTextToText.from_pretrained(folder, **options)
    ran.clear()
    with torch.no_grad():
        logits[wish] = model(**batch).logits[batch["attention_mask"].bool()]
    routes[str(wish)] = sorted(set(ran))
model.set_experts_implementation("batched_mm")
ran.clear()
model(**batch)
found["switched"] = sorted(set(ran))
found["routes"] = routes
found["largest_difference"] = max((value - logits["eager"]).abs().max().item() for value in logits.values())
found["static_table"] = hf.models.auto.modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["moiety_llava"]
found["torchvision"] = moiety.vlm.__name__ != "moiety.vlm" or "torchvision" in sys.modules
print(json.dumps(found))
