"""A small vision-language model built from nothing: vision tower, projector, decoder, and a tokenizer from the data.

The result is an ordinary dense Hugging Face LLaVA folder. It can be used without moiety.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from moiety.recipe.recipe import ScratchSettings
from moiety.vlm.damage import SCRATCH
from moiety.vlm.decoders import token_embeddings
from moiety.vlm.rows import IMAGE_MARK
from moiety.vlm.templates import template_named, use_template

PAD, END = "<pad>", "</s>"
_LONGEST_SEQUENCE = 4096


def build_scratch(
    settings: ScratchSettings, texts: Iterable[str], folder: str | Path, *, template: str = "plain", seed: int = 0
) -> Path:
    """Build a LLaVA model with random weights and save it as an ordinary Hugging Face folder.

    Args:
        settings: Sizes of decoder and vision tower.
        texts: Texts that the tokenizer is trained on. Image marks and special tokens in them are not learned.
        folder: Where the model is written.
        template: Chat template of the processor, a name of :data:`moiety.vlm.templates.TEMPLATES`.
        seed: Seed of the weights. The same seed, settings and texts give the same folder.

    Returns:
        `folder`.
    """
    folder = Path(folder)
    processor = scratch_processor(settings, texts, template)
    model = scratch_model(settings, processor, seed)
    model.config.provenance = {"origin": SCRATCH, "stages": []}
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def train_tokenizer(
    texts: Iterable[str], vocab: int, special: Iterable[str], end: str = END
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer. Frequent words of the data become one token each, and any text can be written.

    Args:
        texts: Training texts.
        vocab: Largest number of tokens, including the 256 bytes and all special tokens.
        special: Further tokens that are never split; padding and end are always such tokens.
        end: The end-of-sequence token.

    Raises:
        ValueError: `vocab` has no room for the bytes and the special tokens.
    """
    names = list(dict.fromkeys([PAD, END, end, *special]))
    least = 256 + len(names)
    if vocab < least:
        raise ValueError(f"vocab={vocab} is too small: 256 bytes and {len(names)} special tokens need {least}")
    tokenizer = Tokenizer(models.BPE())
    # no byte-level post-processor: it would remove blanks from the offsets, and label spans are found by offsets
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=names,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.replace(IMAGE_MARK, "") for text in texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=end,
        extra_special_tokens=[name for name in names if name not in (PAD, end)],
        model_max_length=_LONGEST_SEQUENCE,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def scratch_processor(settings: ScratchSettings, texts: Iterable[str], template: str) -> LlavaProcessor:
    """The processor: tokenizer, chat template, and pictures resized to a square and normalised with mean and spread."""
    chosen = template_named(template)
    opening = chosen.assistant[1]
    if opening:  # " yes" should become one token too, not a blank and a word
        texts = (variant for text in texts for variant in (text, opening + text))
    # a tokenizer made here has no begin-of-sequence token, so the opening of the template llama3 is empty
    tokenizer = train_tokenizer(texts, settings.vocab, (*chosen.tokens, IMAGE_MARK), chosen.end or END)
    side = {"height": settings.image_size, "width": settings.image_size}
    mean, std = [settings.image_mean] * 3, [settings.image_std] * 3
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size=side, image_mean=mean, image_std=std),
        tokenizer=tokenizer,
        patch_size=settings.patch_size,
        vision_feature_select_strategy="full",
        image_token=IMAGE_MARK,
    )
    use_template(processor, template)
    return processor


def scratch_model(settings: ScratchSettings, processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """The model with random weights from `seed`. The random state of the caller does not change."""
    tokenizer = processor.tokenizer
    decoder: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.hidden,
        "intermediate_size": settings.ffn,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.heads,
        "head_dim": settings.hidden // settings.heads,
        "max_position_embeddings": _LONGEST_SEQUENCE,
        "tie_word_embeddings": False,
        "initializer_range": settings.hidden**-0.5 / 2,  # twice as large learns faster and generalises worse
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    tower = SiglipVisionConfig(
        hidden_size=settings.vision_hidden,
        intermediate_size=settings.vision_ffn,
        num_hidden_layers=settings.vision_layers,
        num_attention_heads=settings.vision_heads,
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        vision_use_head=False,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=CONFIG_MAPPING[settings.decoder](**decoder),
        image_token_index=processor.image_token_id,
        image_seq_length=(settings.image_size // settings.patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for weight in (token_embeddings(model).weight, model.model.multi_modal_projector.linear_2.weight):
            weight.mul_(settings.embedding_gain)
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, do_sample=False
    )
    return model
