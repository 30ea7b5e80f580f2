"""The language model of an assembly: a causal language model from a folder, a Hub id or a GGUF file."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from moiety.vlm.adapters import base_of_adapters, merge_adapters
from moiety.vlm.loading import GGUF, check_folder, local_folder, read_config, read_model, refuse_own_code
from moiety.vlm.quantised import full_width, quantised_by

_GGUF_KIND = re.compile(r"[.-]((?:I?Q\d|F16|F32|BF16)\w*)\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class Language:
    """A causal language model and its tokenizer.

    Args:
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        folder: Where both were read from; licence files lie there.
        packed: How the weights were packed in a GGUF file, such as ``Q4_1``; None for weights at full width.
        adapters: Folder of the adapters that were merged into it; None where there are none.
    """

    model: Any
    tokenizer: Any
    folder: Path
    packed: str | None = None
    adapters: Path | None = None


def read_language(source: str | Path, *, revision: str | None = None, dtype: torch.dtype = torch.float32) -> Language:
    """Read a causal language model.

    Args:
        source: A folder, a Hub id, a ``.gguf`` file, or a folder of adapters. The packed weights of a GGUF file are
            unpacked into `dtype`; adapters are merged into the model that they name.
        revision: Revision of a Hub id.
        dtype: Type of the weights.

    Raises:
        FileNotFoundError: there is no model or no tokenizer at `source`.
        ImportError: a GGUF file needs a package that is not installed.
        ValueError: `source` is no causal language model, or is quantised, damaged or pickled.
    """
    if str(source).lower().endswith(GGUF):
        return _read_gguf(Path(source), dtype)
    base = base_of_adapters(source)
    if base is not None:
        refuse_no_language_model(read_config(source), source)
        return _merged(read_language(base, revision=revision, dtype=dtype), Path(source))
    folder = local_folder(source, revision)
    check_folder(folder)
    config = read_config(folder)
    refuse_no_language_model(config, source)
    method = quantised_by(config)
    if method is not None:
        raise ValueError(
            f"{source} holds quantised weights ({method}), expected weights at full width. "
            f"{full_width(method, 'AutoModelForCausalLM')}"
        )
    model = read_model(AutoModelForCausalLM, folder, dtype=dtype)
    return Language(model.eval(), _tokenizer(folder, source), folder)


def _merged(below: Language, adapters: Path) -> Language:
    """A language model with the adapters of a folder added to its weights; their own tokenizer, if they have one."""
    own = (adapters / "tokenizer_config.json").is_file()
    tokenizer = _tokenizer(adapters, adapters) if own else below.tokenizer
    return replace(below, model=merge_adapters(below.model, adapters).eval(), tokenizer=tokenizer, adapters=adapters)


def refuse_no_language_model(config: Any, source: str | Path) -> None:
    """Raise unless a config is that of a causal language model that reads text alone.

    Raises:
        ValueError: says what it is instead, and what to do with it.
    """
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(
            f"{source} is a vision-language model already ({config.model_type}); give it to `moiety upcycle`"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"{source} is of type {config.model_type!r}, expected a causal language model such as Llama or Qwen"
        )


def _tokenizer(folder: Path, source: str | Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse_own_code(error, source)
        raise FileNotFoundError(
            f"no tokenizer in {source} ({str(error)[:120]}); copy its files beside the weights"
        ) from error


def _read_gguf(path: Path, dtype: torch.dtype) -> Language:
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file at {path}")
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        refuse_no_language_model(config, path)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, trust_remote_code=False
        )
    except ImportError as error:
        raise ImportError(f"{path.name} is a GGUF file; pip install 'moiety[gguf]' to read it") from error
    except (KeyError, IndexError, OSError, TypeError, ValueError, struct.error) as error:
        if "expected a causal language model" in str(error) or "give it to `moiety upcycle`" in str(error):
            raise
        raise ValueError(f"{path} cannot be read as a GGUF language model: {str(error)[:200]}") from error
    _unpacked(model)
    kind = _GGUF_KIND.search(path.name)
    return Language(model.eval(), tokenizer, path.parent, packed=kind[1] if kind else "GGUF")


def _unpacked(model: Any) -> None:
    """Forget that the weights came out of a GGUF file: they are plain tensors now, and can be saved as such."""
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
