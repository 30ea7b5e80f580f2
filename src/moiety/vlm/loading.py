"""Reading model folders. Pickles are never read, and a missing tensor is an error, never random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from moiety.records.json_reader import parse_json
from moiety.vlm.adapters import base_of_adapters
from moiety.vlm.quantised import full_width, quantised_by
from moiety.vlm.sizes import check_numbers, check_size

GGUF = ".gguf"
"""End of the name of a GGUF file."""


def check_folder(path: str | Path) -> None:
    """Refuse a local folder that is no model or whose weights are pickled; a Hub id passes.

    Raises:
        FileNotFoundError: `path` looks like a folder but does not exist, or it has no config.json or no weights.
        ValueError: the weights are pickled or lie in a GGUF file, or the folder has LLaVA's original layout.
    """
    folder = Path(path)
    refuse_gguf(path)
    if not folder.is_dir():
        if folder.is_absolute() or str(path).startswith(".") or str(path).count("/") != 1:
            raise FileNotFoundError(f"no model folder at {path}")
        return
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is no Hugging Face model folder")
    _refuse_original_llava(path)  # before its weights, which are pickled, are told to be converted
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if pickled:
            raise ValueError(
                f"{folder} holds pickled weights ({', '.join(pickled[:3])}). Unpickling can run any code, so moiety "
                "never does; convert the folder to safetensors first"
            )
        raise FileNotFoundError(f"{folder} holds no *.safetensors weights")


def refuse_gguf(path: str | Path) -> None:
    """Refuse a GGUF file, and a folder that holds such files and no config: they hold a language model alone.

    Raises:
        ValueError: it is one; says how to make a vision-language model of it.
    """
    folder = Path(path)
    if folder.suffix.lower() == GGUF:
        found = [folder]
    else:
        found = [] if (folder / "config.json").is_file() else sorted(folder.glob(f"*{GGUF}"))
    if found:
        raise ValueError(
            f"{found[0]} is a GGUF file, expected the folder of a vision-language model; a GGUF file holds a language "
            f"model alone: `moiety assemble {found[0]} TOWER NEW` joins it with a vision tower, then give NEW"
        )


def local_folder(source: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model: `source` itself, or the folder with the downloaded files of a Hub id.

    Raises:
        FileNotFoundError: `source` is neither a folder nor an id that can be fetched.
        ValueError: it is a GGUF file.
    """
    refuse_gguf(source)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        kinds = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=kinds))
    except Exception as error:
        raise FileNotFoundError(
            f"no model at {source}: it is no folder, and cannot be fetched ({type(error).__name__})"
        ) from error


def model_type_of(path: str | Path) -> str | None:
    """The model type that the config of a local folder names; None where there is none to read."""
    found = _as_written(base_of_adapters(path) or path).get("model_type")
    return found if isinstance(found, str) else None


def _as_written(path: str | Path) -> dict[str, Any]:
    """The config of a local folder, nothing of it read but the JSON; empty where there is none to read."""
    try:
        tree = parse_json((Path(path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def read_config(path: str | Path) -> Any:
    """The config of a model folder or id; of adapters, that of their model.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: its type is unknown, or the config is damaged.
    """
    path = base_of_adapters(path) or path
    check_folder(path)
    check_numbers(_as_written(path), path)
    _refuse_original_llava(path)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except OSError as error:
        raise FileNotFoundError(f"no model at {path}: neither a folder nor a model that can be fetched") from error
    except Exception as error:
        refuse_own_code(error, path)
        raise ValueError(f"the config of {path} cannot be read: {error}") from error
    check_size(config, path)
    return config


def refuse_own_code(error: Exception, path: str | Path) -> None:
    """Raise in plain words where transformers stopped at Python code that a folder brings along.

    Every door gives ``trust_remote_code=False``: without it transformers asks on standard input, and in a pipe the
    first line of a conversation would be the answer.

    Raises:
        ValueError: `error` is about such code.
    """
    if "trust_remote_code" in str(error):
        raise ValueError(
            f"{path} can only be read with Python code that comes with it (auto_map), and moiety never runs code of a "
            "model folder; take a model that transformers knows by itself, or convert the folder to such a one"
        ) from error


def _refuse_original_llava(path: str | Path) -> None:
    """Raise where a config is that of LLaVA's own code, which transformers reads wrongly or not at all.

    Raises:
        ValueError: it is; says where the converted models are.
    """
    try:
        tree, _ = PreTrainedConfig.get_config_dict(path)
    except (OSError, ValueError, RecursionError):  # the code that reads the config reports what is wrong with it
        return
    kind = str(tree.get("model_type"))
    if "mm_vision_tower" in tree or (kind.startswith("llava_") and kind not in CONFIG_MAPPING):
        raise ValueError(
            f"{path} has the original LLaVA layout (model type {kind!r}); take the converted folder, for instance "
            "llava-hf/llava-1.5-7b-hf"
        )


def dense_class(config: Any, path: str | Path) -> Any:
    """The outermost Hugging Face class of a dense vision-language config.

    Raises:
        ValueError: it is no vision-language model.
    """
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        remedy = "give a vision-language model such as LLaVA or Qwen2.5-VL"
        if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
            remedy = (
                f"it is a language model alone: `moiety assemble {path} TOWER NEW` joins it with a vision tower, then "
                "give NEW"
            )
        raise ValueError(f"{path} is of type {config.model_type!r}, which is no image-text-to-text model; {remedy}")
    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]


def read_model(cls: Any, path: str | Path, **options: Any) -> Any:
    """``cls.from_pretrained`` that accepts nothing but whole, undamaged weights.

    Raises:
        ImportError: they are quantised, and what reads them is not installed.
        ValueError: the weights are damaged, or some are missing, left over or of another shape.
    """
    try:
        model, report = cls.from_pretrained(
            path,
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **options,
        )
    except (ImportError, ValueError, RuntimeError) as error:
        method = quantised_by(read_config(path))
        if method is not None:
            kind = ImportError if isinstance(error, ImportError) else ValueError
            why = str(error).strip().partition("\n")[0]
            raise kind(
                f"{path} holds quantised weights ({method}), which cannot be read here: {why}. {full_width(method)}"
            ) from error
        if not isinstance(error, RuntimeError):
            raise
        raise _damaged(path, error) from error
    except (SafetensorError, OSError, EOFError, KeyError) as error:
        raise _damaged(path, error) from error
    refuse_partial(report, str(path))
    return model


def _damaged(path: str | Path, error: Exception) -> ValueError:
    return ValueError(
        f"the weights in {path} cannot be read ({type(error).__name__}: {error}); "
        "the folder is damaged, copy or make it again"
    )


def refuse_partial(report: Any, where: str) -> None:
    """Raise unless a checkpoint gave every tensor of the model and no other."""
    report = report if isinstance(report, dict) else vars(report)
    found = {kind: sorted(map(str, report.get(kind) or ())) for kind in ("missing_keys", "unexpected_keys")}
    found["mismatched_keys"] = sorted(str(key) for key in report.get("mismatched_keys") or ())
    problems = [
        f"{len(keys)} {kind.replace('_keys', '')} ({', '.join(keys[:3])}{', …' * (len(keys) > 3)})"
        for kind, keys in found.items()
        if keys
    ]
    if problems:
        raise ValueError(
            f"{where} does not hold exactly this model: {'; '.join(problems)} tensors. "
            "The folder is damaged or belongs to another model; experts are never filled in at random"
        )
