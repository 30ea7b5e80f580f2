"""Questions about one picture share its computation, and every answer is that of the whole prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moiety.evaluate.run import answer_ids, answer_shared
from moiety.evaluate.shared_pictures import opening_length, shared_prompts
from moiety.recipe.recipe import MoESettings
from moiety.vlm.data import Collator
from moiety.vlm.decoders import text_decoder
from moiety.vlm.placeholders import ids_from_placeholders
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES, IMAGE, PAD, Family

QUESTIONS = (("tI", [4, 5, 6]), ("tI", [7]), ("ttI", [8, 9, 10, 11]), ("tI", [12, 13]), ("ttI", [9]))
"""What stands up to the picture, and the tokens of the question: three about one picture, two about another."""
PICTURES = [row for row, _ in QUESTIONS]
BOTH_DIRECTIONS = ("gemma3", "paligemma")
"""Families whose picture tokens see each other in both directions, and say so with token_type_ids."""
collate = Collator(PAD, padding_side="left")


def prompt(family: Family, row: str, question: list[int]) -> dict[str, Tensor]:
    """One prompt as an encoder makes it: no padding, one axis for what is said of each token."""
    batch = family.batch(row)
    shape = batch["input_ids"].shape
    found = {name: value[0] if value.shape == shape else value for name, value in batch.items()}
    del found["attention_mask"]
    for name, value in found.items():
        if value.ndim == 1:
            rest = question if name == "input_ids" else [0] * len(question)
            found[name] = torch.cat([value, torch.tensor(rest, dtype=value.dtype)])
    found["modality_ids"] = ids_from_placeholders(found["input_ids"][None], {IMAGE: 1})[0]
    found["evidence_mask"] = found["input_ids"] > 2
    return found


def prompts_of(family: Family) -> list[dict[str, Tensor]]:
    return [prompt(family, row, question) for row, question in QUESTIONS]


@pytest.mark.parametrize("scheme", ["dense", "moiie", "asymoe"])
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(BOTH_DIRECTIONS)))
def test_shared_answers_equal_those_of_whole_prompts(name: str, scheme: str) -> None:
    family = FAMILIES[name]
    model: Any = family.build()
    if scheme != "dense":
        model = upcycle(model, MoESettings(scheme=scheme, router_init_std=0.5, layers="all"), in_place=True)
    prompts = prompts_of(family)
    shared = shared_prompts(prompts, PICTURES, collate)
    assert shared is not None
    whole = answer_ids(model, collate(prompts), 5)
    assert torch.equal(answer_shared(model, shared, 5), whole)
    assert len({tuple(answer) for answer in whole.tolist()}) > 1, "answers that are all equal would show nothing"


@pytest.mark.parametrize("name", BOTH_DIRECTIONS)
def test_a_family_that_sees_pictures_in_both_directions_is_asked_whole(name: str) -> None:
    assert shared_prompts(prompts_of(FAMILIES[name]), PICTURES, collate) is None


def test_a_picture_is_computed_once() -> None:
    family = FAMILIES["llava-qwen2"]
    model, prompts, seen = family.build(), prompts_of(family), []
    hook = text_decoder(model.base_model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    shared = shared_prompts(prompts, PICTURES, collate)
    assert shared is not None
    answer_shared(model, shared, 1)
    hook.remove()
    ends = [opening_length(prompt) for prompt in prompts]
    assert shared.opening_of.tolist() == [0, 0, 1, 0, 1]
    assert seen == [(2, max(ends)), (5, 4)], "two pictures, then five questions without them"
    assert shared.questions["input_ids"].shape[1] == max(ends) + 4


def test_what_cannot_be_shared_is_asked_whole() -> None:
    family = FAMILIES["llava-qwen2"]
    one, two, text = prompt(family, "tI", [4]), prompt(family, "tI", [5]), prompt(family, "t", [5])
    assert shared_prompts([one, two], ["a", "b"], collate) is None, "each picture has one question"
    assert shared_prompts([one, two, text], ["a", "a", ""], collate) is None, "a prompt without a picture"
    other = {**two, "input_ids": two["input_ids"].clone()}
    other["input_ids"][0] += 1
    assert shared_prompts([one, other], ["a", "a"], collate) is None, "other text before the picture"
    assert shared_prompts([one, {**two, "token_type_ids": two["modality_ids"]}], ["a", "a"], collate) is None
    assert shared_prompts([one, two], ["a", "a"], collate) is not None
