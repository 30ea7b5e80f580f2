"""A device is tried when it is named, not when gigabytes are to go there."""

from __future__ import annotations

import pytest
import torch

from moiety.devices import device_named


def test_what_is_there_is_taken() -> None:
    assert device_named("cpu") == "cpu"
    assert device_named(None) == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:97", "gpu", "", "cuda:x", "meta", "xla", "x" * 500, "privateuseone"])
def test_what_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be used here \(.*\); this machine has cpu") as caught:
        device_named(name)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"^device 'cuda' cannot be used here \(.*\); this machine has cpu$"):
        device_named("cuda")
