"""A limit for the size of the model that a config describes, checked before the model is built and fills the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

MOST_LAYERS, MOST_EXPERTS, MOST_WIDTH, MOST_WORDS, MOST_SIDE = 10_000, 2**14, 2**20, 2**24, 2**16
"""At least ten times what any published model has."""
LIMITS = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "depth"), MOST_LAYERS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "experts", "plain_text"), MOST_EXPERTS),
    **dict.fromkeys(("hidden_size", "intermediate_size", "embed_dim", "moe_intermediate_size"), MOST_WIDTH),
    **dict.fromkeys(("expert_ffn", "inter_ffn", "vision_ffn", "residual_ffn", "hyp_dim", "context_dim"), MOST_WIDTH),
    **dict.fromkeys(("num_attention_heads", "num_heads", "num_key_value_heads", "head_dim"), MOST_WIDTH),
    "vocab_size": MOST_WORDS,
    "image_size": MOST_SIDE,
}
"""Field of a config, at any depth -> its largest value."""
MOST_BEYOND = 16
"""Times the numbers in the weights beside it that a config may describe; packed weights hold an eighth of them."""


def check_size(config: Any, path: str | Path) -> None:
    """Refuse a config that describes a model too large to build, or far more parameters than its folder holds.

    Args:
        config: Of transformers.
        path: Folder or id that it was read from.

    Raises:
        ValueError: with the field, or with both counts.
    """
    check_numbers(config.to_dict(), path)
    held = _held(Path(path)) if Path(path).is_dir() else None
    described = _least_parameters(config)
    if held is not None and described > MOST_BEYOND * max(1, held):
        raise ValueError(
            f"the config of {path} describes a model of more than {described:,} parameters, and the weights beside it "
            f"hold {held:,}; the folder is damaged, or config.json belongs to another model"
        )


def check_numbers(tree: Mapping[str, Any], path: str | Path) -> None:
    """Refuse numbers beyond :data:`LIMITS`, in a config as it lies on the disk: to read it can take all memory, too.

    Args:
        tree: The config.
        path: Folder or id that it was read from.

    Raises:
        ValueError: with the first such field.
    """
    for name, value, most in _numbers(tree):
        if value > most:
            raise ValueError(f"the config of {path} says {name} {value:,}; at most {most:,} can be built")


def _numbers(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, int, int]]:
    """Dotted name, value and limit of every number that has one; counts of expert groups are limited one by one."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool):
            most = MOST_EXPERTS if path.endswith("experts.") else LIMITS.get(name)
            if most is not None:
                yield f"{path}{name}", value, most


def _held(folder: Path) -> int | None:
    """Numbers in the weights of a folder, from their headers; None where one cannot be read."""
    total = 0
    try:
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except (SafetensorError, OSError):  # the code that loads the weights reports what is wrong
        return None
    return total


def _least_parameters(config: Any) -> int:
    """Matrices of words, blocks and picture positions that any family has; what it has beside them is left out."""
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    moe = getattr(config, "moe", None) or {}
    groups = moe.get("experts")
    experts = sum(groups.values()) if isinstance(groups, Mapping) and groups else 1
    width, ffn = _number(text, "hidden_size"), _number(text, "intermediate_size")
    per_layer = ffn + experts * (moe.get("expert_ffn") or ffn if moe else 0)
    layers = max(1, _number(text, "num_hidden_layers") // 2)  # every other one may be sparse
    total = width * _number(text, "vocab_size") + 2 * width * per_layer * layers
    if vision is not None:
        width = _number(vision, "hidden_size", "embed_dim")
        total += 2 * width * _number(vision, "intermediate_size") * _number(vision, "num_hidden_layers", "depth")
        side, patch = _number(vision, "image_size"), _number(vision, "patch_size")
        total += width * (side // patch) ** 2 if patch else 0
    return total


def _number(config: Any, *names: str) -> int:
    """The first of these fields that holds a whole number; 0 where none does."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), 0)
