"""Tiny language models and vision towers, as folders and as files."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from moiety.vlm.scratch import train_tokenizer

TEXTS = ("The capital of France is Paris.", "an apple is red and a banana is yellow", "what is in the picture?")
CHATML = ("<|im_start|>", "<|im_end|>")
HIDDEN, SIDE, PATCH = 32, 28, 14
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION: dict[str, Any] = {**SIZES, "hidden_size": 24, "image_size": SIDE, "patch_size": PATCH}


def language_folder(
    folder: Path,
    *,
    tied: bool = True,
    special: tuple[str, ...] = CHATML,
    end: str | None = CHATML[1],
    cls: Any = None,
    **more: Any,
) -> Path:
    """A causal language model whose tokenizer knows the tokens of chatml."""
    tokenizer = train_tokenizer(TEXTS, 300, special, end=end or "</s>")
    config_cls, model_cls = cls or (LlamaConfig, LlamaForCausalLM)
    config = config_cls(
        **SIZES,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )
    torch.manual_seed(0)
    model = model_cls(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tower_folder(folder: Path, kind: str) -> Path:
    """A vision tower: ``clip``, ``whole clip`` with its text model, ``siglip`` or ``dinov2``."""
    torch.manual_seed(1)
    model: Any
    if kind == "clip":
        model = CLIPVisionModel(CLIPVisionConfig(**VISION))
    elif kind == "whole clip":
        text = {**SIZES, "vocab_size": 99, "max_position_embeddings": 16}
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16))
    elif kind == "siglip":
        model = SiglipVisionModel(SiglipVisionConfig(**VISION, vision_use_head=False))
    else:
        given = {name: value for name, value in VISION.items() if name != "intermediate_size"}
        model = Dinov2Model(Dinov2Config(**given, mlp_ratio=2))
    model.save_pretrained(folder)
    return folder
