"""Tiny random vision-language models of every supported family, and batches for them.

Two decoder layers, hidden 32, vocabulary 64: forward and backward take milliseconds. Token 60 stands for a picture
feature, 0 is padding, 1 begins and 2 ends a text.
"""

from __future__ import annotations

import contextlib
import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from moiety.vlm.contracts import cache_keyword

CACHE = cache_keyword()
"""Name of the key-value cache in calls of the installed transformers."""
VOCAB, PAD, BOS, EOS = 64, 0, 1, 2
IMAGE, VIDEO, START, END = 60, 61, 62, 63
SIDE, PATCH = 8, 4
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}


@dataclass(frozen=True)
class Family:
    """One family: how to build it, and how its processor would hand over pictures.

    Args:
        name: Name of the family in test ids.
        model: Outermost Hugging Face class.
        config: Makes the config.
        tokens: Placeholder tokens of one picture.
        pictures: Number of pictures -> keywords of the forward.
        extra: ``input_ids`` -> further keywords that need the tokens.
        marked: Whether a start and an end token stand around each picture.
        per_row: Whether pictures come as ``(batch, pictures of the longest row, …)`` instead of one flat list.
    """

    name: str
    model: str
    config: Callable[[], Any]
    tokens: int
    pictures: Callable[[int], dict[str, Tensor]]
    extra: Callable[[Tensor], dict[str, Tensor]] = lambda ids: {}
    marked: bool = False
    per_row: bool = False

    def build(self, seed: int = 0, **changes: Any) -> Any:
        """A dense model in eval mode with weights large enough that routing and pictures matter."""
        return made_once(f"{self.name} {seed} {changes}", lambda: self._build(seed, changes))

    def _build(self, seed: int, changes: dict[str, Any]) -> Any:
        torch.default_generator.manual_seed(seed)
        config = self.config()
        for name, value in changes.items():
            setattr(config, name, value)
        model = getattr(hf, self.model)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4.0)
        return model

    def batch(self, *rows: str, side: str = "right", labels: bool = False, seed: int = 0) -> dict[str, Tensor]:
        """Rows as texts of ``t`` (three text tokens) and ``I`` (one picture): ``batch("tIt", "tt")``.

        A row has the same tokens and pictures in every batch that holds it.
        """
        texts, pictures = [], []
        for row in rows:
            torch.default_generator.manual_seed(zlib.crc32(f"{seed} {row}".encode()))
            texts.append([BOS, *(token for part in row for token in self._part(part))])
            pictures.append(self.pictures(row.count("I")))
        longest = max(map(len, texts))
        lead = [longest - len(text) if side == "left" else 0 for text in texts]
        ids, mask = torch.full((len(rows), longest), PAD), torch.zeros(len(rows), longest, dtype=torch.long)
        for row, (text, start) in enumerate(zip(texts, lead, strict=True)):
            ids[row, start : start + len(text)] = torch.tensor(text)
            mask[row, start : start + len(text)] = 1
        out = {"input_ids": ids, "attention_mask": mask, **self.extra(ids)}
        if any("I" in row for row in rows):
            out |= {name: self._joined([row[name] for row in pictures]) for name in pictures[0]}
        if labels:
            out["labels"] = ids.masked_fill((mask == 0) | (ids == IMAGE), -100)
        return out

    def _joined(self, rows: list[Tensor]) -> Tensor:
        return pad_sequence(rows, batch_first=True) if self.per_row else torch.cat(rows)

    def _part(self, part: str) -> list[int]:
        if part == "t":
            return torch.randint(3, 50, (3,)).tolist()
        picture = [IMAGE] * self.tokens
        return [START, *picture, END] if self.marked else picture


_MADE: dict[str, tuple[Any, Tensor]] = {}


def made_once(name: str, make: Callable[[], Any]) -> Any:
    """A copy of what `make` made at the first call; what is drawn next is what was drawn next then."""
    if name not in _MADE:
        _MADE[name] = make(), torch.get_rng_state()
    made, state = _MADE[name]
    torch.set_rng_state(state)
    return copy.deepcopy(made)


def tiny_llava(decoder: str = "qwen2", **changes: Any) -> Any:
    """LLaVA over one of the decoders of :data:`DECODERS`, with a CLIP tower."""
    return FAMILIES[f"llava-{decoder}"].build(**changes)


def _flat(number: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(number, 3, SIDE, SIDE)}


def _tiled(number: int) -> dict[str, Tensor]:
    sizes = torch.full((number, 2), SIDE)
    return {"pixel_values": torch.randn(number, 2, 3, SIDE, SIDE), "image_sizes": sizes}


def _patched(number: int) -> dict[str, Tensor]:
    """Qwen: 4 x 4 patches of a picture, flattened; merged 2 x 2."""
    grid = torch.tensor([[1, 4, 4]]).expand(number, 3)
    return {"pixel_values": torch.randn(number * 16, 3 * 2 * PATCH * PATCH), "image_grid_thw": grid}


def _multimodal_types(ids: Tensor) -> dict[str, Tensor]:
    return {"mm_token_type_ids": (ids == IMAGE).int()}


def _token_types(ids: Tensor) -> dict[str, Tensor]:
    return {"token_type_ids": (ids == IMAGE).long()}


def _prefix_types(ids: Tensor) -> dict[str, Tensor]:
    return {"token_type_ids": torch.zeros_like(ids)}


DECODERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**TEXT),
    "qwen2": lambda: hf.Qwen2Config(**TEXT),
    "qwen3": lambda: hf.Qwen3Config(**TEXT, head_dim=8),
    "mistral": lambda: hf.MistralConfig(**TEXT),
    "smollm3": lambda: hf.SmolLM3Config(**TEXT),
    "phi3": lambda: hf.Phi3Config(**TEXT),
}


def _llava(decoder: str) -> Any:
    return hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER, projection_dim=16),
        text_config=DECODERS[decoder](),
        image_token_index=IMAGE,
        image_seq_length=4,
    )


def _onevision() -> Any:
    return hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=DECODERS["qwen2"](),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[SIDE, SIDE]],
    )


def _idefics3() -> Any:
    return hf.Idefics3Config(
        vision_config=TOWER, text_config=hf.LlamaConfig(**TEXT), image_token_id=IMAGE, scale_factor=1
    )


def _smolvlm() -> Any:
    return hf.SmolVLMConfig(
        vision_config=TOWER, text_config=hf.LlamaConfig(**TEXT), image_token_id=IMAGE, scale_factor=1
    )


def _paligemma() -> Any:
    return hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, projection_dim=32, vision_use_head=False),
        text_config=hf.GemmaConfig(**TEXT, head_dim=8),
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )


def _gemma3() -> Any:
    text = hf.Gemma3TextConfig(
        **TEXT, head_dim=8, sliding_window=64, layer_types=["sliding_attention", "full_attention"]
    )
    return hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=text,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        mm_tokens_per_image=4,
    )


def _qwen25() -> Any:
    return hf.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": PATCH,
            "out_hidden_size": 32, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **TEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
    )  # fmt: skip


def _qwen3() -> Any:
    return hf.Qwen3VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": PATCH,
            "out_hidden_size": 32, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        text_config={
            **TEXT, "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END,
    )  # fmt: skip


def _internvl() -> Any:
    return hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**{**TOWER, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}),
        text_config=DECODERS["qwen2"](),
        image_token_id=IMAGE,
        image_seq_length=1,
        downsample_ratio=0.5,
    )


_CLASS = "ForConditionalGeneration"
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(Family(f"llava-{name}", "Llava" + _CLASS, lambda name=name: _llava(name), 4, _flat) for name in DECODERS),
        Family("llava-onevision", "LlavaOnevision" + _CLASS, _onevision, 10, _tiled),
        Family("idefics3", "Idefics3" + _CLASS, _idefics3, 4, _flat, per_row=True),
        Family("smolvlm", "SmolVLM" + _CLASS, _smolvlm, 4, _flat, per_row=True),
        Family("paligemma", "PaliGemma" + _CLASS, _paligemma, 4, _flat, _prefix_types),
        Family("gemma3", "Gemma3" + _CLASS, _gemma3, 4, _flat, _token_types, marked=True),
        Family("qwen2_5_vl", "Qwen2_5_VL" + _CLASS, _qwen25, 4, _patched, _multimodal_types, marked=True),
        Family("qwen3_vl", "Qwen3VL" + _CLASS, _qwen3, 4, _patched, _multimodal_types, marked=True),
        Family("internvl", "InternVL" + _CLASS, _internvl, 1, _flat),
    )
}


def _clip() -> Any:
    return hf.CLIPVisionConfig(**TOWER, projection_dim=16)


def _llava_next() -> Any:
    return hf.LlavaNextConfig(
        vision_config=_clip(),
        text_config=DECODERS["llama"](),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[2 * SIDE, SIDE], [SIDE, SIDE]],
    )


def _vipllava() -> Any:
    return hf.VipLlavaConfig(
        vision_config=_clip(),
        text_config=DECODERS["llama"](),
        image_token_index=IMAGE,
        image_seq_length=4,
        vision_feature_layers=[-2, 0],
    )


def _mistral3() -> Any:
    return hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**TOWER, head_dim=16),
        text_config=DECODERS["mistral"](),
        image_token_index=IMAGE,
        spatial_merge_size=1,
    )


def _aya() -> Any:
    return hf.AyaVisionConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=hf.Cohere2Config(**TEXT),
        image_token_index=IMAGE,
        downsample_factor=1,
    )


def _sized(number: int) -> dict[str, Tensor]:
    return {**_flat(number), "image_sizes": torch.full((number, 2), SIDE)}


RELATIVES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("llava_next", "LlavaNext" + _CLASS, _llava_next, 10, _tiled),
        Family("vipllava", "VipLlava" + _CLASS, _vipllava, 4, _flat),
        Family("mistral3", "Mistral3" + _CLASS, _mistral3, 4, _sized),
        Family("aya_vision", "AyaVision" + _CLASS, _aya, 4, _flat),
    )
}
"""Families that nothing registers beforehand; they pass a few laws in ``tests/vlm/test_relatives.py``."""


def spread_experts(model: Any, seed: int = 0) -> Any:
    """Make experts, gates and context of a freshly upcycled model differ, so that all of them show in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(f".mlp.{part}." in name for part in ("experts", "router", "context")):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter.dtype))
    return model


def sparse(family: str, settings: Any = None, **changes: Any) -> Any:
    """The upcycled tiny model of `family`, experts spread; without `settings` every decoder layer is sparse."""
    from moiety.recipe.recipe import MoESettings
    from moiety.vlm.upcycle import upcycle

    settings = settings or MoESettings(layers="all")

    def make() -> Any:
        return spread_experts(upcycle(FAMILIES[family].build(**changes), settings, in_place=True))

    return made_once(f"{family} {settings!r} {changes}", make)


def asymmetric(**own: Any) -> Any:
    """Scheme asymoe in every decoder layer, with widths that fit the tiny decoders; `own` goes to its section."""
    from moiety.recipe.recipe import MoESettings

    widths = {
        "hyp_dim": 8,
        "inter_ffn": 16,
        "vision_ffn": 24,
        "evidence_dim": 12,
        "context_dim": 32,
        "context_heads": 2,
    }
    return MoESettings(scheme="asymoe", layers="all", asymoe={**widths, **own})


@contextlib.contextmanager
def two_ranks() -> Iterator[None]:
    """A process group of two ranks whose other rank is imaginary: collectives do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
