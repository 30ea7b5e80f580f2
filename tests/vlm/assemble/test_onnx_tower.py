"""An exporter's file gives the same tower back."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from moiety.vlm.assemble.onnx_tower import convert_dinov2
from moiety.vlm.assemble.tower import read_tower

SIDE, PATCH = 28, 14


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dinov2Model]:
    """A tower as a folder whose tensors have the names of the Hub, and as a model."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=1, mlp_ratio=2, image_size=SIDE, patch_size=PATCH
    )
    folder = tmp_path_factory.mktemp("dinov2")
    model = Dinov2Model(config).eval()
    model.save_pretrained(folder)
    return folder, model


def exported(folder: Path, path: Path, leave_out: str = "nothing") -> Path:
    """What an exporter makes of it: nameless matrices behind named nodes, positions in two pieces."""
    state = {name: value.numpy() for name, value in load_file(folder / "model.safetensors").items()}
    stored, nodes = [], []
    for name, value in state.items():
        if leave_out in name or "mask_token" in name:
            continue
        if "position_embeddings" in name:
            pieces = {"piece_0": value[:, :1], "piece_1": value[:, 1:]}
            stored += [numpy_helper.from_array(np.ascontiguousarray(one), key) for key, one in pieces.items()]
        elif name.startswith("encoder.") and name.endswith(".weight") and value.ndim == 2:
            matrix = f"onnx::MatMul_{len(nodes)}"
            stored.append(numpy_helper.from_array(np.ascontiguousarray(value.T), matrix))
            path_of = "/backbone/" + name.removesuffix(".weight").replace(".", "/") + "/MatMul"
            nodes.append(helper.make_node("MatMul", ["x", matrix], [f"y{len(nodes)}"], name=path_of))
        else:
            stored.append(numpy_helper.from_array(value, f"backbone.{name}"))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])
    onnx.save(helper.make_model(helper.make_graph(nodes, "tower", [given], [], stored)), path)
    return path


def test_the_same_tower_comes_back(tower: tuple[Path, Dinov2Model], tmp_path: Path) -> None:
    folder, model = tower
    convert_dinov2(exported(folder, tmp_path / "tower.onnx"), tmp_path / "converted", side=SIDE, patch=PATCH)
    again = read_tower(tmp_path / "converted")
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected, found = model(pixels).last_hidden_state, again.model(pixels).last_hidden_state
    assert torch.equal(found, expected)
    assert again.image_processor.size["height"] == SIDE


def test_another_network_is_refused(tower: tuple[Path, Dinov2Model], tmp_path: Path) -> None:
    path = exported(tower[0], tmp_path / "tower.onnx", leave_out="layer.1.norm2")
    with pytest.raises(ValueError, match=r"does not hold exactly this model: .* missing .*norm2"):
        convert_dinov2(path, tmp_path / "converted", side=SIDE, patch=PATCH)
    assert not (tmp_path / "converted").exists()
    with pytest.raises(ValueError, match="holds 0 tables of 9 positions, expected one"):
        convert_dinov2(path, tmp_path / "converted", side=42, patch=PATCH)


def test_files_that_are_no_onnx(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no ONNX file at"):
        convert_dinov2(tmp_path / "absent.onnx", tmp_path / "converted")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph at all")
    with pytest.raises(ValueError, match="cannot be read as ONNX"):
        convert_dinov2(tmp_path / "bad.onnx", tmp_path / "converted")
