"""Tokens without a row in the embedding table are named before anything runs, at every door."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

import moiety
from moiety.recipe.recipe import MoESettings, parse_recipe
from moiety.train import plan
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle_folder
from tests import model_folders


def with_tokens(folder: Path, add: Callable[[Any], Any]) -> Path:
    shutil.copytree(model_folders.dense_folder(), folder)
    processor = AutoProcessor.from_pretrained(folder)
    add(processor.tokenizer)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("add", "named"),
    [
        (
            lambda tokenizer: tokenizer.add_tokens(["<loc>", "</loc>"]),
            r"2 tokens .*'<loc>' \(\d+\), '</loc>' \(\d+\)\.",
        ),
        (lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "<own-pad>"}), r"1 tokens .*'<own-pad>' \(\d+\)"),
        (lambda tokenizer: tokenizer.add_tokens([f"<{n}>" for n in range(9)]), r"9 tokens .*'<4>' \(\d+\), …\."),
    ],
)
def test_every_door_names_the_tokens(add: Callable[[Any], Any], named: str, tmp_path: Path) -> None:
    folder = with_tokens(tmp_path / "model", add)
    tree = {
        **{"name": "x", "output": str(tmp_path / "out"), "model": {"source": str(folder), "template": "plain"}},
        "data": {"root": str(tmp_path)},
        "stages": [{"name": "a", "data": ["rows.jsonl"], "trains": ["projector"]}],
    }
    (tmp_path / "rows.jsonl").write_text("")
    doors: list[Callable[[], Any]] = [
        lambda: load_processor(folder),
        lambda: upcycle_folder(folder, tmp_path / "sparse", MoESettings()),
        lambda: plan(parse_recipe(tree)),
    ]
    for door in doors:
        with pytest.raises(
            ValueError, match=rf"{named}.*Resize the table once and write it down: model = moiety\.load"
        ):
            door()
    assert not (tmp_path / "sparse").exists()


def test_the_remedy_helps(tmp_path: Path) -> None:
    folder = with_tokens(tmp_path / "model", lambda tokenizer: tokenizer.add_tokens(["<loc>"]))
    with pytest.raises(ValueError, match="Resize") as caught:
        load_processor(folder)
    exec(str(caught.value).split("write it down: ")[1], {"moiety": moiety})  # as a person would type it
    processor = load_processor(folder)
    model = moiety.load(folder)
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)
    ids = processor.tokenizer("<loc>", return_tensors="pt")
    assert model(**ids).logits.isfinite().all()


def test_a_larger_table_is_sound_and_a_processor_alone_has_none(tmp_path: Path) -> None:
    model = moiety.load(shutil.copytree(model_folders.dense_folder(), tmp_path / "model"))
    model.resize_token_embeddings(400)
    model.save_pretrained(tmp_path / "model")
    load_processor(tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    load_processor(tmp_path / "model")
