"""A projector as transformers drew it is told from one that learned, also by the smallest step."""

from pathlib import Path
from typing import Any

import pytest
import torch

from moiety.vlm.projector import is_as_drawn, projector_in, projector_of
from tests.tiny import tiny_llava


def fresh(model: Any) -> bool:
    return is_as_drawn(projector_of(model), model.config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(5))
def test_a_fresh_projector_is_as_drawn(seed: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    model = tiny_llava()
    _redraw(model, model.config.get_text_config().initializer_range)
    assert fresh(model.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_step_of_the_smallest_rate_is_seen(dtype: torch.dtype) -> None:
    model = tiny_llava().to(dtype)
    _redraw(model, model.config.get_text_config().initializer_range)
    learning = list(model.model.multi_modal_projector.parameters())
    optimizer = torch.optim.AdamW(learning, lr=1e-7)
    for parameter in learning:
        parameter.grad = torch.full_like(parameter, 1e-6)
    optimizer.step()
    assert not fresh(model)


def test_zero_biases_alone_are_no_evidence() -> None:
    """A projector that was trained without biases and converted has zeros there."""
    model = tiny_llava()
    _redraw(model, 0.05)
    assert not fresh(model)


def test_without_biases_nothing_is_known() -> None:
    model = tiny_llava()
    _redraw(model, model.config.get_text_config().initializer_range)
    for name in ("linear_1", "linear_2"):
        model.model.multi_modal_projector.get_submodule(name).bias = None
    assert not fresh(model)


def test_a_folder_tells_the_same(tmp_path: Path) -> None:
    model = tiny_llava()
    _redraw(model, model.config.get_text_config().initializer_range)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = projector_in(tmp_path)
    assert len(found) == len(projector_of(model)) == 4
    assert is_as_drawn(found, model.config)


def _redraw(model: torch.nn.Module, spread: float) -> None:
    """The draw of transformers; the toys of the tests have larger weights than it gives."""
    for name, tensor in model.model.multi_modal_projector.named_parameters():
        torch.nn.init.zeros_(tensor) if name.endswith("bias") else torch.nn.init.normal_(tensor, 0, spread)
