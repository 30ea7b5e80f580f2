"""The real processor of every family, with a tokenizer from nothing, and a tiny model that fits it.

Some families bring a video processor, which needs torchvision, or words for numbers. Where a package is absent, the
builder says so with :func:`pytest.skip`.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from transformers import PreTrainedTokenizerFast

from moiety.vlm.rows import Row, parse_row
from moiety.vlm.scratch import train_tokenizer
from moiety.vlm.templates import use_template
from tests.tiny import FAMILIES, PATCH, SIDE

TEXTS = ["Which colour? red green blue white", "Describe it. all red all green all blue"] * 5
SPECIAL = [
    *("<image>", "<video>", "<start>", "<end>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),
    *("<IMG_CONTEXT>", "<img>", "</img>", "<bos>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>"),
    *("<|vision_end|>", "<image_soft_token>", "<start_of_image>", "<end_of_image>"),
]
_QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
NAMED: dict[str, dict[str, str]] = {
    "gemma3": {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
}
"""Tokens that the tokenizer of a family names."""
_PLACEHOLDER = {"gemma3": "<image_soft_token>", "internvl": "<IMG_CONTEXT>"} | dict.fromkeys(
    ("qwen2_5_vl", "qwen3_vl"), "<|image_pad|>"
)
WITH_PROCESSOR = [name for name in FAMILIES if "-" not in name or name in ("llava-onevision", "llava-llama")]
"""One family of each kind of processor."""
_SIZE = {"height": SIDE, "width": SIDE}
_LONGEST = {"longest_edge": SIDE}


def family_processor(name: str) -> Any:
    """The processor of a family, with template ``plain``."""
    made = _processor(name, _tokenizer(name))
    use_template(made, "plain")
    return made


def model_for(name: str, processor: Any) -> Any:
    """A tiny dense model whose vocabulary and placeholders are those of `processor`."""
    family, tokenizer = FAMILIES[name], processor.tokenizer
    config = family.config()
    config.text_config.vocab_size = len(tokenizer)
    config.text_config.pad_token_id, config.text_config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    config.text_config.bos_token_id = None
    ids = {"image_token_id": _PLACEHOLDER.get(name, "<image>"), "video_token_id": "<video>"}
    ids |= {"image_token_index": ids["image_token_id"], "video_token_index": "<video>"}
    ids |= {"boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>"}
    if name in ("qwen2_5_vl", "qwen3_vl"):
        ids |= {"video_token_id": "<|video_pad|>"}
        ids |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    for key, token in ids.items():
        if hasattr(config, key):
            setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    torch.manual_seed(0)
    return getattr(hf, family.model)(config).eval()


def conversation(name: str, colour: str, question: str = "Which colour?") -> Row:
    """A row about one picture of one colour."""
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": colour}]
    return parse_row({"id": name, "image": f"{colour}.png", "conversations": turns}, "rows.jsonl", 1)


PICTURES = {f"{colour}.png": Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")}


def _tokenizer(name: str) -> Any:
    # vLLM looks up the line ends that Gemma's tokenizer has as tokens
    lines = ["\n" * count for count in range(1, 5)] if name == "gemma3" else []
    trained = train_tokenizer(TEXTS, 512, [*SPECIAL, *lines])
    start = {"bos_token": "<bos>"} if name == "paligemma" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer,
        pad_token=trained.pad_token,
        eos_token=trained.eos_token,
        extra_special_tokens=NAMED.get(name, {}),
        clean_up_tokenization_spaces=False,
        **start,
    )


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)


def _video(family: str, name: str, **options: Any) -> Any:
    pytest.importorskip("torchvision", exc_type=ImportError)
    return _class(f"{family}.video_processing_{family}", name)(**options)


def _processor(name: str, tokenizer: Any) -> Any:
    if name == "llava-onevision":
        images = _class("llava_onevision.image_processing_pil_llava_onevision", "LlavaOnevisionImageProcessorPil")
        return hf.LlavaOnevisionProcessor(
            image_processor=images(size=_SIZE, image_grid_pinpoints=[[SIDE, SIDE]], do_pad=True),
            tokenizer=tokenizer,
            video_processor=_video("llava_onevision", "LlavaOnevisionVideoProcessor", size=_SIZE),
            num_image_tokens=4,
            vision_feature_select_strategy="full",
        )
    if name == "idefics3":
        images = _class("idefics3.image_processing_pil_idefics3", "Idefics3ImageProcessorPil")
        made = images(size=_LONGEST, max_image_size=_LONGEST, do_image_splitting=False)
        return hf.Idefics3Processor(made, tokenizer, image_seq_len=4)
    if name == "smolvlm":
        pytest.importorskip("num2words")
        images = _class("smolvlm.image_processing_pil_smolvlm", "SmolVLMImageProcessorPil")
        return hf.SmolVLMProcessor(
            image_processor=images(size=_LONGEST, max_image_size=_LONGEST, do_image_splitting=False),
            tokenizer=tokenizer,
            video_processor=_video("smolvlm", "SmolVLMVideoProcessor", size=_LONGEST),
            image_seq_len=4,
        )
    if name == "paligemma":
        images = _class("siglip.image_processing_pil_siglip", "SiglipImageProcessorPil")(size=_SIZE)
        images.image_seq_length = 4
        return hf.PaliGemmaProcessor(images, tokenizer)
    if name == "gemma3":
        images = _class("gemma3.image_processing_pil_gemma3", "Gemma3ImageProcessorPil")(size=_SIZE)
        for key in ("boi_token", "image_token"):
            setattr(tokenizer, f"{key}_id", tokenizer.convert_tokens_to_ids(getattr(tokenizer, key)))
        return hf.Gemma3Processor(images, tokenizer, image_seq_length=4)
    if name == "internvl":
        images = _class("got_ocr2.image_processing_pil_got_ocr2", "GotOcr2ImageProcessorPil")
        return hf.InternVLProcessor(
            image_processor=images(size=_SIZE, crop_to_patches=False),
            tokenizer=tokenizer,
            video_processor=_video("internvl", "InternVLVideoProcessor", size=_SIZE),
            image_seq_length=1,
        )
    if name == "llava-llama":
        images = _class("clip.image_processing_pil_clip", "CLIPImageProcessorPil")
        made = images(size={"shortest_edge": SIDE}, crop_size=_SIZE)
        return hf.LlavaProcessor(
            made, tokenizer, PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
    images = _class("qwen2_vl.image_processing_pil_qwen2_vl", "Qwen2VLImageProcessorPil")(
        patch_size=PATCH, temporal_patch_size=2, merge_size=2, min_pixels=SIDE**2, max_pixels=SIDE**2
    )
    outer, video = ("Qwen2_5_VLProcessor", ("qwen2_vl", "Qwen2VLVideoProcessor"))
    if name == "qwen3_vl":
        outer, video = ("Qwen3VLProcessor", ("qwen3_vl", "Qwen3VLVideoProcessor"))
    return getattr(hf, outer)(image_processor=images, tokenizer=tokenizer, video_processor=_video(*video))
