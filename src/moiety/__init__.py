"""Sparse vision-language models whose router knows which tokens are picture and which are text.

``import moiety`` is light: a public name loads its module when it is first used.

Example:
    >>> import moiety
    >>> moiety.MoESettings(scheme="moiie").top_k is None
    True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from moiety.compare import run_compare
    from moiety.evaluate import evaluate_model
    from moiety.groups import ExpertGroups, Modality
    from moiety.lens import inspect_image
    from moiety.moe.layer import ModalityMoE
    from moiety.moe.trace import recording
    from moiety.recipe.recipe import MoESettings, Recipe, load_recipe
    from moiety.train import MoietyTrainer, run_recipe
    from moiety.vlm.model import load, with_moe
    from moiety.vlm.parameters import count_parameters
    from moiety.vlm.templates import load_processor
    from moiety.vlm.upcycle import upcycle, upcycle_folder

# Public name -> the module that defines it; the block above says the same to type checkers.
_HOME = {
    "ExpertGroups": "moiety.groups",
    "MoESettings": "moiety.recipe.recipe",
    "Modality": "moiety.groups",
    "ModalityMoE": "moiety.moe.layer",
    "MoietyTrainer": "moiety.train",
    "Recipe": "moiety.recipe.recipe",
    "count_parameters": "moiety.vlm.parameters",
    "evaluate_model": "moiety.evaluate",
    "inspect_image": "moiety.lens",
    "load": "moiety.vlm.model",
    "load_processor": "moiety.vlm.templates",
    "load_recipe": "moiety.recipe.recipe",
    "recording": "moiety.moe.trace",
    "run_compare": "moiety.compare",
    "run_recipe": "moiety.train",
    "upcycle": "moiety.vlm.upcycle",
    "upcycle_folder": "moiety.vlm.upcycle",
    "with_moe": "moiety.vlm.model",
}

__all__ = [
    "ExpertGroups",
    "MoESettings",
    "Modality",
    "ModalityMoE",
    "MoietyTrainer",
    "Recipe",
    "__version__",
    "count_parameters",
    "evaluate_model",
    "inspect_image",
    "load",
    "load_processor",
    "load_recipe",
    "recording",
    "run_compare",
    "run_recipe",
    "upcycle",
    "upcycle_folder",
    "with_moe",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOME:
        from moiety.groups import nearest_name

        raise AttributeError(f"moiety has no {name!r}; {nearest_name(name, _HOME)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted({*globals(), *__all__})
