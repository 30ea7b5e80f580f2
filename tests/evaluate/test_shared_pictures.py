"""Questions about one picture share its computation, and every answer is that of the whole prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from moiety.evaluate.decoding import keywords_of_generate
from moiety.evaluate.shared_pictures import Opened, Question, opening_length, split_prompts
from moiety.recipe.recipe import MoESettings
from moiety.vlm.data import Collator
from moiety.vlm.decoders import text_decoder
from moiety.vlm.placeholders import ids_from_placeholders
from moiety.vlm.upcycle import upcycle
from tests.tiny import EOS, FAMILIES, IMAGE, PAD, Family

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


SCHEMES = ["dense", "vanilla", "modality", "always_on", "moiie", "asymoe"]


def sparse(family: Family, scheme: str) -> Any:
    model: Any = family.build()
    if scheme == "dense":
        return model
    return upcycle(model, MoESettings(scheme=scheme, router_init_std=0.5, layers="all"), in_place=True)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(BOTH_DIRECTIONS)))
def test_shared_answers_and_likelihoods_equal_those_of_whole_prompts(name: str, scheme: str) -> None:
    """The openings are computed once for two batches, which mix pictures."""
    family = FAMILIES[name]
    model, prompts = sparse(family, scheme), prompts_of(family)
    split = split_prompts(prompts, PICTURES)
    assert not split.whole
    assert len(split.openings) == 2
    assert sorted(one.number for one in split.questions) == list(range(len(prompts)))
    opened, tokens = Opened(model, split.openings, collate), []
    for part in (split.questions[:2], split.questions[2:]):
        for number, said, scores in _made(opened.answer(part, 5, **_ASKED), part):
            (_, whole, whole_scores) = _made(_whole(model, [prompts[number]]), [Question(0, 0, {})])[0]
            assert torch.equal(said, whole)
            # relative to the largest log-likelihood; 1.9e-7 was measured for dense models alone
            torch.testing.assert_close(scores, whole_scores, rtol=0, atol=2e-5 * float(whole_scores.abs().max()))
            tokens.append(tuple(said.tolist()))
    assert len(set(tokens)) > 1, "answers that are all equal would show nothing"


_ASKED: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True}


def _whole(model: Any, prompts: list[dict[str, Tensor]]) -> Any:
    with torch.inference_mode():
        asked = keywords_of_generate(model, collate(prompts))
        return model.generate(**asked, do_sample=False, max_new_tokens=5, **_ASKED)


def _made(made: Any, part: Sequence[Question]) -> list[tuple[int, Tensor, Tensor]]:
    """Number, new tokens up to the end of the text, and their log-likelihoods over the vocabulary."""
    scores = torch.stack(made.scores, 1).log_softmax(-1)  # (questions, new tokens, vocab)
    found = []
    for row, question in enumerate(part):
        said = made.sequences[row, -scores.shape[1] :]
        ends = (said == EOS).nonzero()
        length = int(ends[0]) + 1 if len(ends) else len(said)
        found.append((question.number, said[:length], scores[row, :length]))
    return found


@pytest.mark.parametrize("name", BOTH_DIRECTIONS)
def test_a_family_that_sees_pictures_in_both_directions_is_asked_whole(name: str) -> None:
    split = split_prompts(prompts_of(FAMILIES[name]), PICTURES)
    assert not split.openings
    assert not split.questions
    assert sorted(split.whole) == list(range(len(QUESTIONS)))


def test_a_picture_is_computed_once() -> None:
    family = FAMILIES["llava-qwen2"]
    model, prompts, seen = family.build(), prompts_of(family), []
    hook = text_decoder(model.base_model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    split = split_prompts(prompts, PICTURES)
    opened = Opened(model, split.openings, collate)
    opened.answer(split.questions[:2], 1)
    opened.answer(split.questions[2:], 1)
    hook.remove()
    ends = [opening_length(prompt) for prompt in prompts]
    assert [one.opening for one in split.questions] == [0, 0, 0, 1, 1]
    assert [one.number for one in split.questions] == [0, 1, 3, 2, 4]
    assert seen == [(2, max(ends)), (2, 3), (3, 4)], "two pictures, then the questions without them"
    assert opened.prompts(split.questions)[0]["input_ids"].shape[1] == max(ends) + 4


def test_what_cannot_be_shared_is_asked_whole_and_the_rest_is_shared() -> None:
    family = FAMILIES["llava-qwen2"]
    one, two, text = prompt(family, "tI", [4]), prompt(family, "tI", [5]), prompt(family, "t", [5])
    other = {**two, "input_ids": two["input_ids"].clone()}
    other["input_ids"][0] += 1
    more = {**two, "token_type_ids": two["modality_ids"]}
    for prompts, pictures, whole in (
        ([one, two], ["a", "b"], [0, 1]),  # each picture has one question
        ([one, two, text], ["a", "a", ""], [2]),  # a prompt without a picture
        ([one, other, two], ["a", "a", "a"], [1]),  # other text before the picture
        ([one, more, two], ["a", "a", "a"], [1]),  # more is said of each token
        ([one, two], ["a", "a"], []),
    ):
        split = split_prompts(prompts, pictures)
        assert sorted(split.whole) == whole
        assert sorted(question.number for question in split.questions) == sorted(set(range(len(prompts))) - set(whole))
        assert all("pixel_values" not in question.rest for question in split.questions)


def test_a_count_of_pictures_does_not_keep_questions_from_sharing() -> None:
    """LLaVA-OneVision's processor says with each prompt how many pictures it has; that is said of no token."""
    family = FAMILIES["llava-onevision"]
    prompts = [given | {"batch_num_images": torch.tensor([1])} for given in prompts_of(family)]
    split = split_prompts(prompts, PICTURES)
    assert not split.whole
    assert [opening["batch_num_images"].tolist() for opening in split.openings] == [[1], [1]]
    model = sparse(family, "moiie")
    opened = Opened(model, split.openings, collate)
    for question in split.questions:
        said = opened.answer([question], 4)[0]
        whole = keywords_of_generate(model, collate([prompts[question.number]]))
        plain = model.generate(**whole, max_new_tokens=4, do_sample=False)[0]
        length = len(prompts[question.number]["input_ids"])
        assert said[-(len(plain) - length) :].tolist() == plain[length:].tolist()
