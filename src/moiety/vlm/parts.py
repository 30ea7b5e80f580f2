"""Parts of a vision-language model: to which part a parameter belongs, and which parts are trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, get_args

from moiety.groups import nearest_name
from moiety.recipe.recipe import Part
from moiety.vlm.adapters import adapter_parameters
from moiety.vlm.decoders import DECODERS, EMBEDDINGS, HEAD, base_of, output_layer, token_embeddings
from moiety.vlm.towers import TOWERS, unread_parameters

logger = logging.getLogger(__name__)

_PROJECTORS = {"multi_modal_projector", "connector", "image_newline", "merger", "deepstack_merger_list"}


def part_of(name: str) -> Part:
    """The part that a parameter belongs to, by its name in the model.

    Prefixes of wrappers (``module.``, ``base_model.model.``) do not matter. Only sparse layers have experts and
    routers; the FFN of a dense layer belongs to the decoder. Context attention counts as experts. It is new, like the
    experts, and the text experts read what it computes, so both must learn together.

    Args:
        name: As in ``model.named_parameters()``.

    Raises:
        ValueError: no part is known for this name.

    Example:
        >>> part_of("model.language_model.layers.1.mlp.experts.down_proj"), part_of("model.visual.merger.mlp.0.weight")
        ('experts', 'projector')
    """
    words = name.split(".")
    known = set(words)
    if is_of_projector(name):
        return "projector"
    if known & set(DECODERS):
        return _part_of_decoder(words)
    if known & set(TOWERS):
        return "vision_tower"
    if HEAD in known:
        return "head"
    raise ValueError(
        f"parameter {name!r} belongs to no known part; add the name of its module to vlm/parts.py "
        f"({', '.join(sorted({*_PROJECTORS, *TOWERS, *DECODERS, HEAD}))} are known)"
    )


def is_of_projector(name: str) -> bool:
    """Whether a parameter belongs to the projector, also by its name in files of other layouts."""
    return not _PROJECTORS.isdisjoint(name.split("."))


def _part_of_decoder(words: list[str]) -> Part:
    if EMBEDDINGS in words:
        return "embeddings"
    if "mlp" in words:
        inside = words[words.index("mlp") + 1 :]
        if "experts" in inside or "context" in inside:
            return "experts"
        if "router" in inside:
            return "router"
    return "decoder"


def freeze(model: Any, trains: Sequence[Part]) -> dict[Part, int]:
    """Train the parts in `trains`, and freeze all others.

    Tied embeddings and head are one tensor, which learns if either is named. Layers of the vision tower that the model
    never reads stay frozen, because they cannot get a gradient. Parts that this model does not have (a router in a
    dense model) are ignored, so that one recipe can be used for several schemes.

    In a model with adapters of peft, the adapters of these parts learn, and the copies of ``modules_to_save``. The
    original weights stay frozen, as peft requires.

    Args:
        model: A whole model, dense or sparse, or a ``PeftModel`` around one.
        trains: Parts that learn.

    Returns:
        Part -> number of parameters that learn, for every part that the model has.

    Raises:
        ValueError: a part is unknown, or nothing would learn.
        TypeError: the adapters of a ``PeftModel`` belong to no part.

    Example:
        ``freeze(model, ["projector"])`` prepares stage 1, ``freeze(model, ["experts", "router"])`` the sparse layers.
    """
    for part in trains:
        if part not in get_args(Part):
            raise ValueError(f"unknown part {part!r}; {nearest_name(part, get_args(Part))}")
    wanted = set(trains)
    if _is_tied(model) and wanted & {"embeddings", "head"}:
        wanted |= {"embeddings", "head"}
    unread, adapters = unread_parameters(base_of(model)), adapter_parameters(model)
    counts: dict[Part, int] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name)
        learns = part in wanted and parameter not in unread and (adapters is None or name in adapters)
        parameter.requires_grad_(learns)
        counts[part] = counts.get(part, 0) + learns * parameter.numel()
    if not any(counts.values()):
        held = sorted(counts) if adapters is None else sorted({part_of(name) for name in adapters})
        what = "the model has the parts" if adapters is None else "it has adapters of the parts"
        raise ValueError(f"nothing would learn: trains={list(trains)}, but {what} {held}")
    absent = sorted(wanted - counts.keys())
    if absent:
        logger.debug("%s has no %s; ignored", type(model).__name__, ", ".join(absent))
    return counts


def _is_tied(model: Any) -> bool:
    """Whether embeddings and head are one tensor. The weights are asked: configs of some families do not say it."""
    head: Any = output_layer(model)
    return head is not None and head.weight is token_embeddings(model).weight
