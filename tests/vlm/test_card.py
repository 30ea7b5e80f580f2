"""The card beside a model says what its config says, and takes results in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from moiety.recipe.recipe import MoESettings
from moiety.vlm.card import NOT_EVALUATED, Training, add_results, write_card
from moiety.vlm.model import moe_layers
from moiety.vlm.parameters import count_parameters
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES

LLAVA = FAMILIES["llava-qwen2"]


def test_a_card_says_what_the_model_is(tmp_path: Path) -> None:
    model = upcycle(LLAVA.build(), MoESettings(scheme="moiie"))
    model.config.provenance["upcycled"]["source"] = "somebody/their-llava"
    write_card(tmp_path, model)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "somebody/their-llava"
    assert card.data.tags == ["moiety", "mixture-of-experts", "moiie"]
    count = count_parameters(model)
    for value in (count.total, count.activated, *count.activated_by_group.values()):
        assert f"{value:,}" in card.text
    assert "activated by a vision token" not in card.text, "said apart only where modalities differ"
    head, lead = card.text.strip().split("\n\n")[:2]
    assert head == "# Llava, moiie experts"
    assert f"In {len(moe_layers(model))} of its " in lead
    assert "It was not trained by moiety." in lead
    assert card.text.index("## Use") < card.text.index("## Results") < card.text.index("## Model")
    assert "vision×1 + inter×2 + text×1" in card.text
    assert re.search(r"differed from the dense model's by \d\.\de-\d\d \(relative\)\.", card.text)
    assert NOT_EVALUATED in card.text


@pytest.mark.parametrize(
    ("licences", "sources", "licence", "base"),
    [
        (("apache-2.0", "mit"), ("some/words", "other/eyes"), ["apache-2.0", "mit"], ["some/words", "other/eyes"]),
        (("mit", "mit"), ("some/words", "eyes"), "mit", "some/words"),
        (("mit", None), ("words", "eyes"), None, None),
    ],
)
def test_a_card_carries_licence_and_base_of_both_parts(
    tmp_path: Path, licences: tuple[Any, Any], sources: tuple[str, str], licence: Any, base: Any
) -> None:
    model = upcycle(LLAVA.build(), MoESettings(scheme="moiie"))
    parts = [{"source": source, "licence": given} for source, given in zip(sources, licences, strict=True)]
    receipt = {"relative_difference": 0.0}
    model.config.provenance["assembled"] = {"language": parts[0], "tower": parts[1], "receipt": receipt}
    model.config.provenance["upcycled"]["source"] = "/models/joined"
    write_card(tmp_path, model)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.base_model) == (licence, base)


def test_a_folder_of_this_machine_names_no_base_to_others(tmp_path: Path) -> None:
    model = upcycle(LLAVA.build(), MoESettings(scheme="dense"))
    model.config.provenance["upcycled"]["source"] = "/models/my-llava"
    write_card(tmp_path, model, Training({"name": "r|s"}, {"a.jsonl": "0f"}, 12, 3, 0.5, ["expert 1 starves"] * 2))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model is None
    assert card.data.tags == ["moiety", "dense"]
    assert "/models" not in card.content
    assert "| base | my-llava |" in card.text
    assert "learned from 12 rows, 3 left out" in card.text
    assert card.text.count("expert 1 starves") == 1


def test_a_card_names_no_folder_of_this_machine_and_sets_numbers_to_the_right(tmp_path: Path) -> None:
    model = upcycle(LLAVA.build(), MoESettings(scheme="moiie"))
    trained = {"name": "words", "scheme": "dense", "seed": 0, "steps": 1200, "tokens": 5, "trains": ["head"]}
    model.config.provenance |= {"origin": "scratch", "stages": [trained]}
    recipe = {"output": "/srv/somebody/runs/out", "data": {"root": "/data/world", "images": ["/data/a.tar", "b.tar"]}}
    write_card(tmp_path, model, Training(recipe, alarms=["one", "two", "one"]))
    text = (tmp_path / "README.md").read_text()
    assert "somebody" not in text
    assert "/data" not in text
    base = "| base | none: the model was built from nothing; see the stages |"
    for kept in ("output: out", "root: world", "- a.tar", "- b.tar", base):
        assert kept in text
    assert "| stage | scheme | seed | steps | tokens | what learned |\n| --- | --- | ---: | ---: | ---: | --- |" in text
    assert "It was trained in 1 stages: words." not in text
    assert "It was trained in one stage: words." in text
    assert "Warnings of the training:\n\n- one\n- two\n\n" in text


def test_results_are_added_and_replaced_by_title(tmp_path: Path) -> None:
    write_card(tmp_path, LLAVA.build())
    before = (tmp_path / "README.md").read_text()
    add_results(tmp_path, "colours", ("type", "accuracy %"), [("red|blue", "50.0")])
    add_results(tmp_path, "shapes", ("type", "accuracy %"), [("round", "60.0")])
    path = add_results(tmp_path, "colours", ("type", "accuracy %"), [("red|blue", "55.0")])
    text = path.read_text()
    assert NOT_EVALUATED not in text
    assert text.count("### colours") == text.count("### shapes") == 1
    assert r"| red\|blue | 55.0 |" in text
    assert "50.0" not in text
    assert text.startswith(before[: before.index("## Results")])


def test_where_results_cannot_go(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="moiety writes one beside each checkpoint it makes"):
        add_results(tmp_path, "x", ("a",), [("b",)])
    (tmp_path / "README.md").write_text("my own words")
    with pytest.raises(ValueError, match="put both lines where the results should stand"):
        add_results(tmp_path, "x", ("a",), [("b",)])
    assert (tmp_path / "README.md").read_text() == "my own words"
