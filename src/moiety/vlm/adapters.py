"""Adapters of peft: where they go in a sparse model, which parameters they are, and folders of them."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from moiety.records.json_reader import parse_json

GATES = r".*\.router\.gates\.\w+"
"""Pattern of the module names of all gates."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapter_targets(model: nn.Module) -> dict[str, Any]:
    """What ``peft.LoraConfig`` needs to put adapters on every expert and every gate of a sparse model.

    Args:
        model: A sparse model, in memory or on the meta device.

    Returns:
        ``target_modules``: a pattern of the gates, None where the scheme has none. ``target_parameters``: the names of
        the stacked matrices of the experts, ``(experts, out, in)``. peft cannot adapt a stack with one more axis.

    Raises:
        ValueError: the model is dense.

    Example:
        ``LoraConfig(r=16, **adapter_targets(model))``
    """
    names = [(name, parameter.ndim) for name, parameter in model.named_parameters()]
    stacks = {name.split(".mlp.")[1] for name, ndim in names if ".mlp.experts." in name and ndim == 3}
    if not stacks:
        raise ValueError(
            f"{type(model).__name__} has no experts: it is dense. Give a sparse model, or name the modules yourself"
        )
    has_gates = any(".mlp.router.gates." in name for name, _ in names)
    return {"target_modules": GATES if has_gates else None, "target_parameters": sorted(stacks)}


def adapter_parameters(model: Any) -> set[str] | None:
    """Names of the parameters that peft trains: those of the active adapters. None for a model without adapters.

    Raises:
        TypeError: the adapters are of a kind that does not belong to single modules, such as learned prompts.
    """
    if not hasattr(model, "get_base_model"):
        return None
    prefix = getattr(model.base_model, "prefix", None)
    if not prefix:
        raise TypeError(
            f"the adapters of {type(model).__name__} belong to no part of the model; choose what they learn in peft, "
            "or use adapters of modules, such as LoRA"
        )
    active = set(model.active_adapters)
    return {
        name
        for name, _ in model.named_parameters()
        if (words := set(name.split("."))) & active
        and ("modules_to_save" in words or any(word.startswith(prefix) for word in words))
    }


def base_of_adapters(path: str | Path) -> str | None:
    """The model that a folder of adapters belongs to; None where `path` is no such folder.

    A relative folder is looked for from here and beside the adapters.

    Raises:
        FileNotFoundError: the weights of the adapters are missing, or the model that they name.
        ValueError: they are pickled, or the folder does not name its base.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file() or (folder / "config.json").is_file():
        return None
    if not (folder / WEIGHTS).is_file():
        if any(folder.glob("adapter_model.*")):
            raise ValueError(
                f"{folder} holds pickled adapters. Unpickling can run any code, so moiety never does; save them with "
                "`save_pretrained` of peft, which writes safetensors"
            )
        raise FileNotFoundError(f"{folder} holds {CONFIG} and no {WEIGHTS}")
    try:
        base = parse_json((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is no JSON object: {error}") from error
    if not base:
        raise ValueError(
            f"{folder} holds adapters and does not say of which model; write the folder of the model into {CONFIG} as "
            "base_model_name_or_path, or merge them with `merge_and_unload` of peft and save the model"
        )
    for place in (Path(base), folder / base, folder.parent / base):
        if place.is_dir():
            return str(place)
    if Path(base).is_absolute() or base.count("/") != 1:  # no id of the Hub
        raise FileNotFoundError(
            f"{folder} holds adapters of {base}, and there is no such model; write the folder of the model into "
            f"{CONFIG} as base_model_name_or_path"
        )
    return str(base)


def merge_adapters(model: Any, path: str | Path) -> Any:
    """`model` with the adapters of a folder added to its weights.

    Args:
        model: The base, as it is loaded.
        path: Folder of adapters.

    Raises:
        ImportError: peft is not installed.
        ValueError: the adapters do not fit the model.
    """
    if importlib.util.find_spec("peft") is None:
        raise ImportError(f'{path} holds adapters: pip install "moiety[lora]" to merge them into their model')
    from peft import PeftModel, get_peft_model_state_dict

    with safe_open(Path(path) / WEIGHTS, framework="pt") as file:
        stored = {name for name in file.keys() if ".lora_" in name}  # noqa: SIM118
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is missing is told below, and raised
        try:
            adapted = PeftModel.from_pretrained(model, str(path))
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ValueError(f"the adapters in {path} do not fit their model: {error}") from error
        expected = {name for name in get_peft_model_state_dict(adapted) if ".lora_" in name}
        if stored != expected:
            odd = sorted(stored ^ expected)
            raise ValueError(
                f"the adapters in {path} do not fit their model: {len(expected - stored)} are missing and "
                f"{len(stored - expected)} left over ({', '.join(odd[:3])}{', …' * (len(odd) > 3)})"
            )
        return adapted.merge_and_unload()
