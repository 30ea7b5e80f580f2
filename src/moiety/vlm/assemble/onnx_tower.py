"""A DINOv2 backbone out of an ONNX file: weights are found by walking the graph, and named as on the Hub.

An exporter folds each linear weight into a matrix without a name of its own, so a matrix is told by the node that reads
it: names of nodes spell the path of the module. The table of positions comes in two pieces, one for the summary token
and one for the patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from moiety.records.saving import whole_folder
from moiety.vlm.assemble.tower import FAMILIES
from moiety.vlm.loading import refuse_partial

PREFIX = "backbone"


def convert_dinov2(source: str | Path, destination: str | Path, *, side: int = 518, patch: int = 14) -> Path:
    """Write the DINOv2 backbone of an ONNX file as a Hugging Face folder.

    Args:
        source: The ONNX file; its modules are called ``backbone.…``.
        destination: Folder to write; it is written whole or not at all.
        side: Height and width in pixels of the pictures that its positions are made for.
        patch: Height and width of a patch in pixels.

    Returns:
        `destination`.

    Raises:
        ImportError: package onnx is not installed.
        ValueError: the graph holds another network; says which tensors are missing or left over.
    """
    state = read_state(source, num_patches=(side // patch) ** 2)
    hidden = state["embeddings.cls_token"].shape[-1]
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layer."))
    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        mlp_ratio=state["encoder.layer.0.mlp.fc1.weight"].shape[0] // hidden,
        image_size=side,
        patch_size=patch,
    )
    config.architectures = ["Dinov2Model"]
    family, square = FAMILIES["dinov2"], {"height": side, "width": side}
    preparation = SiglipImageProcessorPil(
        size=square, image_mean=list(family.mean), image_std=list(family.std), resample=3
    )
    with whole_folder(destination) as fresh:
        config.save_pretrained(fresh)
        save_file(state, fresh / "model.safetensors", metadata={"format": "pt"})
        preparation.save_pretrained(fresh)
        # names are those of the checkpoints on the Hub, which every release of transformers maps to its own
        loaded: Any = Dinov2Model.from_pretrained(
            fresh, output_loading_info=True, use_safetensors=True, trust_remote_code=False
        )
        refuse_partial(loaded[1], str(source))
    return Path(destination)


def read_state(source: str | Path, num_patches: int) -> dict[str, Tensor]:
    """The weights of a DINOv2 backbone in an ONNX file, under the names that its checkpoints on the Hub use.

    Args:
        source: The ONNX file.
        num_patches: Patches that its table of positions holds.

    Raises:
        ImportError: package onnx is not installed.
        ValueError: the file is no ONNX file, or its positions cannot be told.
    """
    graph, stored = _graph(source)
    state = {name.removeprefix(f"{PREFIX}."): value for name, value in stored.items() if name.startswith(f"{PREFIX}.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith(f"/{PREFIX}/encoder/") and node.input[1] in stored:
            path = node.name.removeprefix(f"/{PREFIX}/").removesuffix("/MatMul").replace("/", ".")
            state[f"{path}.weight"] = stored[node.input[1]].T
    nameless = {name: value for name, value in stored.items() if not name.startswith(f"{PREFIX}.") and value.ndim == 3}
    patches = [value for value in nameless.values() if value.shape[:2] == (1, num_patches)]
    if len(patches) != 1:
        raise ValueError(f"{source} holds {len(patches)} tables of {num_patches} positions, expected one")
    hidden = patches[0].shape[-1]
    summary = [value for value in nameless.values() if value.shape == (1, 1, hidden)]
    if len(summary) != 1:
        raise ValueError(f"{source} holds {len(summary)} positions of a summary token, expected one")
    state["embeddings.position_embeddings"] = np.concatenate([summary[0], patches[0]], axis=1)
    state.setdefault(
        "embeddings.mask_token", np.zeros((1, hidden), dtype=np.float32)
    )  # only DINOv2's own training reads it
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in state.items()}


def _graph(source: str | Path) -> tuple[Any, Mapping[str, np.ndarray]]:
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise ImportError(f"{Path(source).name} is an ONNX file; pip install 'moiety[demo]' to read it") from error
    if not Path(source).is_file():
        raise FileNotFoundError(f"no ONNX file at {source}")
    try:
        graph = onnx.load(str(source)).graph
    except Exception as error:  # what protobuf raises for bytes that are no message has no public name
        raise ValueError(f"{source} cannot be read as ONNX: {str(error)[:120] or type(error).__name__}") from error
    return graph, {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
