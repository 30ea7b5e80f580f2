"""Vision towers: how they are found, which of their layers a model never reads, and a blank picture.

Most families read a hidden state before the end of the tower. The later layers never get a gradient. Distributed
training waits for the gradient of every parameter that learns, and crashes in its second step if one does not come. So
exactly these layers are frozen when a model is built.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TOWERS = ("vision_tower", "vision_model", "visual")
"""Names under which families keep their vision tower."""


def vision_tower(base: nn.Module) -> nn.Module:
    """The tower inside a multimodal base model.

    Raises:
        TypeError: the model has no tower under a known name.
    """
    for name in TOWERS:
        tower = getattr(base, name, None)
        if tower is not None:
            return getattr(tower, "vision_model", tower)
    raise TypeError(f"{type(base).__name__} has no vision tower under {', '.join(TOWERS)}")


def called_tower(base: nn.Module) -> nn.Module | None:
    """The tower as a base model calls it, if it takes one entry for each picture; None for all others (Qwen)."""
    found = (getattr(base, name, None) for name in TOWERS if name != "visual")
    return next((tower for tower in found if isinstance(tower, nn.Module)), None)


def tower_layers(tower: nn.Module) -> nn.ModuleList | None:
    """The blocks of a tower, or None if they have an unknown name."""
    encoder = getattr(tower, "encoder", getattr(tower, "transformer", tower))
    for name in ("layers", "layer", "blocks"):
        layers = getattr(encoder, name, None)
        if isinstance(layers, nn.ModuleList):
            return layers
    return None


def feature_layers(base: nn.Module) -> tuple[int, ...]:
    """The hidden states of the tower that a base model reads, by index; empty if it reads the last one after its norm.

    Hidden state 0 is the embedding, hidden state i the output of block i-1. InternVL means the last one after its norm
    when it says -1.
    """
    config: Any = base.config
    chosen = getattr(config, "vision_feature_layer", getattr(config, "vision_feature_layers", None))
    if chosen is None or (chosen == -1 and type(base).__name__.startswith("InternVL")):
        return ()
    return (chosen,) if isinstance(chosen, int) else tuple(chosen)


def unread_modules(base: nn.Module) -> list[nn.Module]:
    """Modules of the tower whose output `base` never uses: blocks after the feature layer, last norm and pooling."""
    tower = vision_tower(base)
    unread = [getattr(tower, name, None) for name in ("head", "pooler")]
    chosen = feature_layers(base)
    if chosen:
        unread += [getattr(tower, name, None) for name in ("post_layernorm", "layernorm")]
        layers = tower_layers(tower)
        if layers is not None:
            last = max(index if index >= 0 else len(layers) + 1 + index for index in chosen)
            unread += list(layers[last:])
    return [module for module in unread if isinstance(module, nn.Module)]


def unread_parameters(base: nn.Module) -> set[nn.Parameter]:
    """Parameters of :func:`unread_modules`."""
    return {parameter for module in unread_modules(base) for parameter in module.parameters()}


def freeze_unread(base: nn.Module) -> None:
    """Freeze the parameters that can get no gradient."""
    for parameter in unread_parameters(base):
        parameter.requires_grad_(False)


def blank_picture(base: nn.Module) -> dict[str, Tensor]:
    """A picture of ones, in the form that ``get_image_features`` of this family takes. Idefics3 drops zeros."""
    config: Any = base.config
    name = type(base).__name__
    where: Any = {"device": next(base.parameters()).device, "dtype": next(base.parameters()).dtype}
    if name.startswith("Qwen"):
        vision = config.vision_config
        merge = vision.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        grid = torch.tensor([[1, merge, merge]], device=where["device"])
        return {"pixel_values": torch.ones(merge * merge, width, **where), "image_grid_thw": grid}
    if name.startswith("LlavaNext"):  # the whole picture and its tiles; the grid with the fewest tiles
        side = config.vision_config.image_size
        grid = min(config.image_grid_pinpoints, key=lambda grid: grid[0] * grid[1])
        tiles = 1 + (grid[0] // side) * (grid[1] // side)
        sizes = torch.tensor([grid], device=where["device"])
        return {"pixel_values": torch.ones(1, tiles, 3, side, side, **where), "image_sizes": sizes}
    if name == "Mistral3Model":  # takes any size; two by two patches, because it loses the dimension of a single patch
        side = 2 * config.vision_config.patch_size * config.spatial_merge_size
        sizes = torch.tensor([[side, side]], device=where["device"])
        return {"pixel_values": torch.ones(1, 3, side, side, **where), "image_sizes": sizes}
    size = config.vision_config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if name == "LlavaOnevisionModel":  # it cuts a single picture into tiles, but not two pictures of one row
        sizes = torch.tensor([[height, width]] * 2, device=where["device"])
        pictures = torch.ones(2, 3, height, width, **where)
        return {"pixel_values": pictures, "image_sizes": sizes, "batch_num_images": sizes.new_tensor([2])}
    lead = (1, 1) if name in ("Idefics3Model", "SmolVLMModel") else (1,)
    return {"pixel_values": torch.ones(*lead, 3, height, width, **where)}


def touch_tower(base: Any) -> Tensor:
    """A zero that depends on tower and projector. In the loss of a step without pictures, it gives them gradients.

    Args:
        base: The multimodal base model. It encodes one blank picture.

    Returns:
        A scalar, 0. The gradients that it gives are zeros.
    """
    output = base.get_image_features(**blank_picture(base))
    levels = getattr(output, "deepstack_features", None) or ()  # Qwen3-VL: features of several depths
    parts = [*output.pooler_output, *(part for level in levels for part in level)]
    return torch.stack([part.sum() for part in parts]).sum() * 0.0
