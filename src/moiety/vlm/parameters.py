"""How many parameters a model has, how many one token passes through, and what a stage needs in memory.

Counting happens on the meta device, so that a model of any size is counted from its config without its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

from moiety.moe.asymoe.budget import design_for
from moiety.moe.routers import resolve
from moiety.recipe.recipe import MoESettings, Part
from moiety.vlm.configs import MODEL_TYPE, groups_of, refuse_sparse, settings_of, sparse_config
from moiety.vlm.decoders import base_of
from moiety.vlm.loading import dense_class
from moiety.vlm.model import config_of, moe_layers, sparse_class
from moiety.vlm.parts import part_of
from moiety.vlm.quantised import quantisation_of
from moiety.vlm.shapes import decoder_shape
from moiety.vlm.towers import unread_parameters

Convention = Literal["published", "strict"]


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one model.

    Args:
        total: All of them; tied tensors count once.
        activated: Those one token passes through, for the modality group that uses most.
        activated_by_group: The same for each modality group; one entry ``all`` in a dense model.
        by_part: All parameters of each part.
        scheme: Routing scheme; ``dense`` without sparse layers.
        convention: ``published`` counts the whole vision tower, ``strict`` leaves out what the model never reads.
    """

    total: int
    activated: int
    activated_by_group: dict[str, int]
    by_part: dict[Part, int]
    scheme: str
    convention: Convention


def count_parameters(
    source: Any, settings: MoESettings | None = None, convention: Convention = "published"
) -> ParameterCount:
    """Count the parameters of a model, or of what it would become.

    Activated is what one token passes through in each sparse layer, for the largest set of experts that its modality
    group can choose, and everything outside them; embeddings, head, tower and projector count in full, and so do
    adapters. A quantised model counts as the full one.

    Args:
        source: A model, a config of Hugging Face or of ours, or a model folder.
        settings: Count the sparse model that `source`, which must be dense, would be upcycled to.
        convention: ``published`` or ``strict``.

    Raises:
        ValueError: the convention is unknown, `source` is sparse although `settings` are given, or is no model.

    Source:
        MoIIE (2508.09779): the published 5.5B and 11.3B are the convention ``published``. For AsyMoE (2606.00275) see
        ``docs/decisions/0006``.
    """
    if convention not in get_args(Convention):
        raise ValueError(f"unknown convention {convention!r}; known: {', '.join(get_args(Convention))}")
    in_memory = isinstance(source, nn.Module) and settings is None and quantisation_of(source) is None
    model = source if in_memory else on_meta(source, settings)
    left_out = unread_parameters(base_of(model)) if convention == "strict" else set()
    by_part: dict[Part, int] = {}
    for name, parameter in model.named_parameters():
        if parameter not in left_out:
            part = part_of(name)
            by_part[part] = by_part.get(part, 0) + parameter.numel()
    total = sum(by_part.values())
    groups = groups_of(model)
    names = groups.names if groups else ("all",)
    layers = moe_layers(model)
    by_group = {
        name: total - sum(layer.num_parameters - layer.activated_parameters(name) for layer in layers) for name in names
    }
    found = settings_of(model)
    scheme = found.scheme if found else "dense"
    return ParameterCount(total, max(by_group.values()), by_group, by_part, scheme, convention)


def on_meta(source: Any, settings: MoESettings | None) -> Any:
    """The model of a config, folder or model, without memory for its weights."""
    config = source.config if isinstance(source, nn.Module) else source
    if not isinstance(config, PreTrainedConfig):
        config = config_of(config)  # type: ignore[arg-type]
    sparse = type(config).model_type.startswith(MODEL_TYPE)
    if settings is not None and settings.scheme != "dense":
        refuse_sparse(config, _name(source))
        config, sparse = sparse_config(config, settings), True
    cls = sparse_class(config) if sparse else dense_class(config, _name(source))
    with torch.device("meta"), no_init_weights():
        model = cls(config)
    model.tie_weights()  # part of what is left out above
    return model


def _name(source: Any) -> str:
    """What a message calls a model, a config, or a folder."""
    if isinstance(source, str | Path):
        return str(source)
    return str(getattr(source, "name_or_path", "") or type(source).__name__)


def stage_memory(count: ParameterCount, trains: Sequence[Part], dtype: torch.dtype = torch.float32) -> float:
    """GiB that weights, gradients and AdamW moments of one stage take on one device, all in `dtype`.

    Activations come on top: they depend on batch, length and checkpointing.

    Args:
        count: Parameters of the model.
        trains: Parts that learn.
        dtype: Type of the weights.

    Example:
        >>> parts = {"decoder": 2**29, "projector": 2**29}
        >>> count = ParameterCount(2**30, 2**30, {"all": 2**30}, parts, "dense", "published")
        >>> stage_memory(count, ["projector"]), stage_memory(count, ["projector", "decoder"], torch.bfloat16)
        (10.0, 8.0)
    """
    learning = sum(number for part, number in count.by_part.items() if part in trains)
    return (count.total + 3 * learning) * dtype.itemsize / 2**30


def of_one_width(*schemes: MoESettings) -> bool:
    """Whether all experts of these schemes are plain FFNs of one width, ``expert_ffn``; a dense model has none."""
    sparse = [settings for settings in schemes if settings.scheme != "dense"]
    return all(settings.asymoe is None and resolve(settings)[1].kinds == ("ffn",) for settings in sparse)


def expert_ffn_for(settings: MoESettings, reference: MoESettings, ffn: int) -> int:
    """Inner width of an expert that makes a scheme activate as many parameters as another one.

    A token passes K experts of equal width, so K times the width has to agree. Gates are left out: they are some
    millionths of a layer.

    Args:
        settings: The scheme whose width is wanted; its ``expert_ffn`` does not matter.
        reference: The scheme it is compared with.
        ffn: Inner width of the dense FFN, the width of experts without ``expert_ffn``.

    Raises:
        ValueError: `settings` are ``dense``: a model that is not spliced has no width to choose. Or the experts of
            one of both are not plain FFNs of one width.

    Example:
        >>> expert_ffn_for(MoESettings(scheme="dense_wide"), MoESettings(scheme="moiie"), 8192)
        16384
    """
    if settings.scheme == "dense":
        raise ValueError("scheme 'dense' keeps its FFN; use 'dense_wide' for one FFN of another width")
    for one in (settings, reference):
        if not of_one_width(one):
            raise ValueError(
                f"the experts of scheme {one.scheme!r} are not plain FFNs of one width here; use equal_settings"
            )
    wanted = ffn if reference.scheme == "dense" else resolve(reference)[2] * (reference.expert_ffn or ffn)
    return max(1, round(wanted / resolve(settings)[2]))


def equal_settings(settings: MoESettings, config: Any, activated: int) -> MoESettings:
    """`settings` at the widths with which one token passes as near to `activated` parameters as whole widths allow.

    Counts are linear in ``expert_ffn``, so two of them give the width. Scheme asymoe gets a new design.

    Args:
        settings: Any scheme but ``dense``, which comes back as it is; widths that are given for asymoe stay.
        config: Config of the dense model.
        activated: As in :class:`ParameterCount`, the vision tower included.

    Raises:
        ValueError: no widths of asymoe meet it, or the size of the experts does not depend on ``expert_ffn``.
    """
    if settings.scheme == "dense":
        return settings
    if settings.scheme == "asymoe":
        return design_for(settings, decoder_shape(config), activated)
    narrow, wide = (settings.model_copy(update={"expert_ffn": width}) for width in (8, 16))
    least, more = (count_parameters(config, found).activated for found in (narrow, wide))
    if more <= least:
        raise ValueError(
            f"no width makes scheme {settings.scheme!r} activate {activated:,} parameters: its experts are of kinds "
            f"{', '.join(resolve(settings)[1].kinds)}, whose size does not grow with moe.expert_ffn"
        )
    return settings.model_copy(update={"expert_ffn": max(1, round(8 + 8 * (activated - least) / (more - least)))})
