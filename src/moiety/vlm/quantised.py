"""Quantised models: how to know one, what of it stays at full width, and why none can be upcycled."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from moiety.moe.kernels import is_packed as stack_is_packed
from moiety.vlm.parts import part_of

logger = logging.getLogger(__name__)

_READ = '{{}}.from_pretrained("FOLDER", quantization_config={}(dequantize=True))'
_UNPACKED = {
    "bitsandbytes": '{}.from_pretrained("FOLDER").dequantize()',
    "fp8": _READ.format("FineGrainedFP8Config"),
    "mxfp4": _READ.format("Mxfp4Config"),
    "compressed-tensors": _READ.format("CompressedTensorsConfig"),
}
"""Method -> what transformers writes full weights with."""
_PACKED_MODULES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic", "bitsandbytes")


def quantised_by(config: Any) -> str | None:
    """What the weights of a config were quantised with, for instance ``bitsandbytes, 4 bit``; None for full weights."""
    texts = getattr(config, "text_config", None)
    found = getattr(config, "quantization_config", None) or getattr(texts, "quantization_config", None)
    if not found:
        return None
    tree = found if isinstance(found, dict) else found.to_dict()
    method = tree.get("quant_method") or "a method without a name"
    bits = tree.get("bits") or (tree.get("load_in_4bit") and 4) or (tree.get("load_in_8bit") and 8)
    return f"{getattr(method, 'value', method)}{f', {bits} bit' if bits else ''}"


def full_width(method: str, cls: str = "AutoModelForImageTextToText") -> str:
    """A sentence on how to get weights at full width.

    Args:
        method: As :func:`quantised_by` or :func:`quantisation_of` found it.
        cls: Class of transformers that reads the model.

    Example:
        >>> full_width("gptq, 4 bit")
        'Take the model that it was quantised from'
    """
    unpacked = _UNPACKED.get(method.split(",")[0])
    best = "Take the model that it was quantised from"
    if unpacked is None:
        return best
    return (
        f"{best}. If you have only this one, unpack it with transformers: `model = {unpacked.format(cls)}`, then "
        '`model.save_pretrained("NEW")`; its weights stay rounded'
    )


def is_packed(tensor: Tensor) -> bool:
    """Whether a parameter holds quantised numbers: integers, or a tensor of torchao."""
    return not tensor.is_floating_point() or stack_is_packed(tensor)


def quantisation_of(model: nn.Module) -> str | None:
    """What a model in memory was quantised with; None where every weight is a full one."""
    method = quantised_by(getattr(model, "config", None))
    if method is not None:
        return method
    if any(type(module).__module__.startswith(_PACKED_MODULES) for module in model.modules()):
        return "packed layers"
    return "packed tensors" if any(is_packed(parameter) for parameter in model.parameters()) else None


def refuse_quantised(method: str | None, what: str) -> None:
    """Refuse to make experts of rounded weights.

    Args:
        method: As :func:`quantised_by` or :func:`quantisation_of` found it.
        what: Name of the model, for the message.

    Raises:
        ValueError: the weights are quantised.
    """
    if method is not None:
        raise ValueError(
            f"{what} holds quantised weights ({method}): upcycling needs weights at full width, because every expert "
            f"starts as a copy of them. {full_width(method)}; quantise the sparse model afterwards"
        )


def say_full_width(model: Any) -> None:
    """Log what share of a quantised model, and of its experts, stays at full width; nothing for a full one."""
    method = quantised_by(model.config)
    if method is None:
        return
    with torch.device("meta"):  # packed tensors do not tell how many numbers they hold
        whole = type(model)(copy.deepcopy(model.config))
    every = _sizes(whole.named_parameters())
    full = _sizes((name, weight) for name, weight in model.named_parameters() if not is_packed(weight))
    share = 100 * sum(full.values()) / sum(every.values())
    of_experts = f", and {100 * full['experts'] / every['experts']:.0f} % of its experts" if every["experts"] else ""
    logger.warning(
        "quantised model (%s): %.0f %% of its parameters stay at full width%s. Quantisers convert linear layers, and "
        "stacked experts where they are told to; see docs/adapters.md",
        method,
        share,
        of_experts,
    )


def _sizes(weights: Iterable[tuple[str, Tensor]]) -> Counter[str]:
    """Parameters of each part."""
    sizes: Counter[str] = Counter()
    for name, weight in weights:
        sizes[part_of(name)] += weight.numel()
    return sizes
