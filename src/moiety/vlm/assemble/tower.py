"""The vision tower of an assembly: CLIP, SigLIP or DINOv2, with the picture preparation that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoImageProcessor
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from moiety.groups import nearest_name
from moiety.vlm.loading import check_folder, local_folder, read_config


@dataclass(frozen=True)
class TowerFamily:
    """What a LLaVA has to know of a family of towers.

    Args:
        feature_layer: Hidden state that the projector reads, counted from the end.
        strategy: ``default`` drops the summary token that stands before the patches, ``full`` keeps everything.
        extra_tokens: Number of such tokens.
        mean: Mean of each colour channel that pictures are normalised with, for folders that do not say it.
        std: Spread of each colour channel.
        resizes: Whether the tower takes pictures of other sizes than it was trained on, by stretching its positions.
    """

    feature_layer: int
    strategy: Literal["default", "full"]
    extra_tokens: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resizes: bool


_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FAMILIES = {
    "clip_vision_model": TowerFamily(-2, "default", 1, *_CLIP, resizes=False),
    "siglip_vision_model": TowerFamily(-1, "full", 0, *_HALF, resizes=False),
    "dinov2": TowerFamily(-1, "default", 1, *_IMAGENET, resizes=True),
}
"""Model type of a tower's config -> what LLaVA has to know of it. CLIP is read as LLaVA 1.5 reads it (2310.03744)."""


@dataclass(frozen=True)
class Tower:
    """A vision tower and how pictures are made ready for it.

    Args:
        model: The tower, in eval mode.
        image_processor: Makes ``pixel_values (images, 3, side, side)``.
        family: What LLaVA has to know of it.
        side: Height and width of a picture in pixels.
        folder: Where it was read from; licence files lie there.
    """

    model: Any
    image_processor: Any
    family: TowerFamily
    side: int
    folder: Path

    @property
    def patch(self) -> int:
        """Height and width of a patch in pixels."""
        return int(self.model.config.patch_size)

    @property
    def num_patches(self) -> int:
        """Picture tokens that the decoder sees of one picture."""
        return (self.side // self.patch) ** 2


def read_tower(
    source: str | Path, *, side: int | None = None, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> Tower:
    """Read a vision tower.

    Args:
        source: A folder or Hub id of CLIP, SigLIP or DINOv2; of CLIP and SigLIP the whole model or the tower alone.
        side: Height and width of pictures in pixels, a multiple of the patch; None: as the tower was trained.
        revision: Revision of a Hub id.
        dtype: Type of the weights.

    Raises:
        FileNotFoundError: there is no model at `source`.
        ValueError: it is no such tower, its weights are damaged or pickled, or `side` does not fit it.
    """
    folder = local_folder(source, revision)
    check_folder(folder)
    whole = read_config(folder)
    config = getattr(whole, "vision_config", whole)
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"{source} is of type {whole.model_type!r}, expected a vision tower of CLIP, SigLIP or DINOv2; "
            f"{nearest_name(config.model_type, FAMILIES)}"
        )
    family = FAMILIES[config.model_type]
    side = _side(config, family, side, source)
    model = _weights(MODEL_MAPPING[type(config)], folder, config, dtype)
    return Tower(model.eval(), _image_processor(folder, family, side), family, side, folder)


def _side(config: Any, family: TowerFamily, side: int | None, source: str | Path) -> int:
    trained, patch = int(config.image_size), int(config.patch_size)
    if side is None or side == trained:
        return trained
    if not family.resizes:
        raise ValueError(
            f"image_size={side}, but the tower of {source} reads pictures of {trained} pixels only; leave image_size "
            "out, or take a DINOv2 tower, which reads other sizes too"
        )
    if side < patch or side % patch:
        raise ValueError(
            f"image_size={side} is no multiple of the patch of {patch} pixels; give {max(1, side // patch) * patch}"
        )
    return side


def _weights(cls: Any, folder: Path, config: Any, dtype: torch.dtype) -> Any:
    """The tower alone, out of a folder that may hold a text model beside it.

    Raises:
        ValueError: tensors of the tower are missing or have another shape.
    """
    model, report = cls.from_pretrained(
        folder, config=config, dtype=dtype, output_loading_info=True, use_safetensors=True, trust_remote_code=False
    )
    report = report if isinstance(report, dict) else vars(report)
    missing = sorted({*map(str, report.get("missing_keys") or ()), *map(str, report.get("mismatched_keys") or ())})
    unread = [key for key in missing if "mask_token" in key or "head." in key or "pooler" in key]
    if len(missing) > len(unread):
        named = ", ".join(key for key in missing if key not in unread)
        raise ValueError(
            f"{folder} lacks tensors of its vision tower ({named[:200]}); the folder is damaged, copy it again"
        )
    return model


def _image_processor(folder: Path, family: TowerFamily, side: int) -> Any:
    """Pictures of `side` pixels, normalised as the folder says, or as the family does where it says nothing."""
    mean, std = family.mean, family.std
    if (folder / "preprocessor_config.json").is_file():
        given = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, backend="pil")
        mean, std = tuple(given.image_mean), tuple(given.image_std)
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    square = {"height": side, "width": side}
    return SiglipImageProcessorPil(size=square, image_mean=list(mean), image_std=list(std), resample=3)
