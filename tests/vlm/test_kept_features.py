"""Features of a frozen tower are computed once for each picture, and change no answer and no gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moiety.vlm import kept_features as module
from moiety.vlm.decoders import base_of
from moiety.vlm.kept_features import kept_features
from moiety.vlm.parts import freeze
from moiety.vlm.towers import called_tower
from tests.tiny import FAMILIES

LLAVA = FAMILIES["llava-qwen2"]
ONE_ROW = {"qwen2_5_vl", "qwen3_vl"}
"""Families whose tower reads all pictures of a batch as one row of patches."""
CLOSE: Any = {"rtol": 1e-5, "atol": 1e-6}


def frozen(family: str = "llava-qwen2") -> Any:
    model = FAMILIES[family].build()
    freeze(model, ["projector", "decoder"])
    return model.train()


def step(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one step."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_loss_and_gradients_are_those_of_the_tower(family: str, tmp_path: Path) -> None:
    model = frozen(family)
    batches = [FAMILIES[family].batch("tIt", "tt", labels=True), FAMILIES[family].batch("tIt", "tIt", labels=True)]
    plain = [step(model, batch) for batch in batches]
    with kept_features(model, tmp_path) as kept:
        for _ in range(2):
            for (loss, grads), batch in zip(plain, batches, strict=True):
                ours, own = step(model, batch)
                torch.testing.assert_close(ours, loss, **CLOSE)
                assert own.keys() == grads.keys()
                for name, grad in own.items():
                    torch.testing.assert_close(
                        grad, grads[name], **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
                    )
    if family in ONE_ROW:
        assert kept is None
        assert not list(tmp_path.iterdir())
    else:
        assert kept is not None
        assert kept.passed == 0
        assert kept.computed
        assert kept.read >= kept.computed


def test_each_picture_is_computed_once_and_read_by_the_next_model(tmp_path: Path) -> None:
    batch = LLAVA.batch("tIt", "It", labels=True)
    for computed, read in ((2, 0), (0, 2)):
        model = frozen()
        with kept_features(model, tmp_path, num_pictures=2) as kept:
            model(**batch)
        assert kept is not None
        assert (kept.computed, kept.read) == (computed, read)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_features_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """So a run that is resumed in the middle of an epoch reads the numbers of a run that was not."""
    batch = LLAVA.batch("tIt", "It")
    for folder, rows in (("together", [slice(0, 2)]), ("one by one", [slice(1, 2), slice(0, 1)])):
        model = frozen()
        with kept_features(model, tmp_path / folder):
            for row in rows:
                model(**{name: value[row] for name, value in batch.items()})
    first, second = (sorted((tmp_path / name).rglob("*.safetensors")) for name in ("together", "one by one"))
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def changed_pixels(model: Any, batch: dict[str, Tensor]) -> None:
    batch["pixel_values"][0, 0, 0, 0] += 1


def changed_weights(model: Any, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).add_(1.0)


def changed_layer(model: Any, batch: dict[str, Tensor]) -> None:
    model.config.vision_feature_layer = -1


@pytest.mark.parametrize("change", [changed_pixels, changed_weights, changed_layer])
def test_another_picture_tower_or_layer_meets_no_old_file(change: Callable[..., None], tmp_path: Path) -> None:
    model, batch = frozen(), LLAVA.batch("tIt", labels=True)
    with kept_features(model, tmp_path):
        model(**batch)
    change(model, batch)
    plain = model(**batch).loss
    with kept_features(model, tmp_path) as kept:
        torch.testing.assert_close(model(**batch).loss, plain, **CLOSE)
    assert kept is not None
    assert (kept.computed, kept.read) == (1, 0)


def test_bfloat16_autocast_has_features_of_its_own(tmp_path: Path) -> None:
    model, batch = frozen(), LLAVA.batch("tIt", labels=True)
    with kept_features(model, tmp_path) as kept:
        model(**batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**batch)
    assert kept is not None
    assert (kept.computed, kept.read) == (2, 0)


def test_dropout_of_a_tower_is_not_kept(tmp_path: Path) -> None:
    """The tower of a training model draws; its kept features must be those of evaluation."""
    model, batch = frozen(), LLAVA.batch("tIt", labels=True)
    for layer in model.model.vision_tower.modules():
        if hasattr(layer, "dropout") and isinstance(layer.dropout, float):
            layer.dropout = 0.9
    with kept_features(model, tmp_path):
        ours = model(**batch).loss
    torch.testing.assert_close(ours, model.eval()(**batch).loss, **CLOSE)
    assert not model.training


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    model, batch = frozen(), LLAVA.batch("tIt", labels=True)
    with kept_features(model, tmp_path):
        loss = model(**batch).loss
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with kept_features(model, tmp_path) as kept:
        torch.testing.assert_close(model(**batch).loss, loss, **CLOSE)
    assert kept is not None
    assert kept.computed == 1
    assert path.read_bytes() == whole


def test_a_tower_that_learns_keeps_nothing(tmp_path: Path) -> None:
    model = LLAVA.build()
    freeze(model, ["vision_tower", "projector"])
    with kept_features(model, tmp_path) as kept:
        assert kept is None
    assert not list(tmp_path.iterdir())
    with kept_features(frozen(), None) as kept:
        assert kept is None


def test_the_tower_is_itself_again_after_the_block_also_after_an_error(tmp_path: Path) -> None:
    model = frozen()
    tower = called_tower(base_of(model))
    assert tower is base_of(model).vision_tower
    with pytest.raises(ZeroDivisionError), kept_features(model, tmp_path):
        raise ZeroDivisionError if "forward" in vars(tower) else AssertionError
    assert "forward" not in vars(tower)


def test_an_unknown_form_of_call_goes_through_the_tower(tmp_path: Path) -> None:
    model = frozen()
    tower, pixels = called_tower(base_of(model)), LLAVA.batch("tIt")["pixel_values"]
    assert tower is not None
    with kept_features(model, tmp_path) as kept:
        ours = tower(pixels, output_hidden_states=True, novel=torch.ones(1)).hidden_states[-2]
    assert kept is not None
    assert (kept.passed, kept.computed) == (1, 0)
    torch.testing.assert_close(ours, tower(pixels, output_hidden_states=True).hidden_states[-2])


def test_too_little_room_is_said_at_the_first_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**30})())
    model, batch = frozen(), LLAVA.batch("tIt", labels=True)
    said = r"all pictures need at least [\d.]+ GiB, .* has 1.0 GiB free; name a folder"
    with kept_features(model, tmp_path, num_pictures=10**8), pytest.raises(OSError, match=said):
        model(**batch)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_disk_that_refuses_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*paths: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    model, batch = frozen(), LLAVA.batch("tIt", labels=True)
    said = "cannot be written: No space left on device; free some space, name another"
    with kept_features(model, tmp_path), pytest.raises(OSError, match=said):
        model(**batch)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = "so nothing can be written below it; name a folder"
    with pytest.raises(OSError, match=said), kept_features(frozen(), tmp_path / "file"):
        pass
