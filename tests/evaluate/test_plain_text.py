"""The loss of plain text: the mean of what the library itself computes, and clear words where nothing can be read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moiety.evaluate.plain_text import read_texts, text_loss
from moiety.recipe.recipe import MoESettings
from tests.tiny import sparse, tiny_llava

IDS = {"a": [1, 5, 9, 12], "b": [1, 7, 3], "one": [1], "long": [1, *range(3, 50)] * 8}


def tokenizer(text: str) -> Any:
    return {"input_ids": IDS[text]}


def loss_of(model: Any, ids: list[int]) -> float:
    tensor = torch.tensor([ids])
    with torch.no_grad():
        return float(model.eval()(input_ids=tensor, labels=tensor).loss)  # the library's own loss of a text


@pytest.mark.parametrize("scheme", ["dense", "moiie", "asymoe"])
def test_it_is_the_mean_of_the_losses_of_the_texts(scheme: str) -> None:
    model = tiny_llava() if scheme == "dense" else sparse("llava-qwen2", MoESettings(scheme=scheme, layers="all"))
    model.train()
    wanted = (loss_of(model, IDS["a"]) + loss_of(model, IDS["b"])) / 2
    model.train()
    assert text_loss(model, tokenizer, ["a", "one", "b"]) == pytest.approx(wanted, rel=1e-5)
    assert model.training


def test_a_text_is_cut_where_the_model_has_no_more_positions() -> None:
    model = tiny_llava()
    assert len(IDS["long"]) > model.config.get_text_config().max_position_embeddings == 256
    assert text_loss(model, tokenizer, ["long"]) == pytest.approx(loss_of(model, IDS["long"][:256]), rel=1e-5)


def test_messages(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of 1 texts has two tokens, so no token can be predicted"):
        text_loss(SimpleNamespace(training=False, eval=lambda: None, train=lambda _: None, config=tiny_llava().config),
                  tokenizer, ["one"])  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"no file of plain texts at .*absent.txt; give one text a line"):
        read_texts(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty.txt holds no text; write one text a line"):
        read_texts(tmp_path / "empty.txt")
    (tmp_path / "other.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(ValueError, match=r"other\.txt is not text in UTF-8"):
        read_texts(tmp_path / "other.txt")
    assert len(read_texts()) == 12
