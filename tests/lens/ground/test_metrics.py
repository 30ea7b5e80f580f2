"""Metrics of grounding on small models: right positions, right sums, and nothing that depends on how they are read."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from moiety.lens.ground.forced import force, patches_in, read, said_in
from moiety.lens.ground.metrics import Grounding, answer_of, ground, partner_of, read_row
from moiety.vlm.data import Encoder
from moiety.vlm.model import load
from moiety.vlm.rows import Row, Turn, parse_row
from moiety.vlm.templates import load_processor
from tests import model_folders

Both = tuple[Any, Any]


class Pictures(dict[str, Image.Image]):
    """A square at a place that the name tells."""

    def __missing__(self, name: str) -> Image.Image:
        image = Image.new("RGB", (32, 32), "white")
        start = 3 * int(name)
        ImageDraw.Draw(image).rectangle((start, start, start + 8, start + 8), fill=("red", "blue")[int(name) % 2])
        return image


def row_of(number: int, **extra: Any) -> Row:
    said = (Turn("user", "<image>\nIs there a blue square?"), Turn("assistant", "top left"))
    kind = ("conflict", "absent")[number % 2]
    return Row(id=f"r{number}", turns=said, images=(str(number),), type=kind, extra=extra)


def both(scheme: str) -> Both:
    folder = model_folders.dense_folder() if scheme == "dense" else model_folders.sparse_folder(scheme)
    return load(folder), load_processor(folder, marks=False)


@pytest.fixture(scope="module")
def moiie() -> Both:
    return both("moiie")


@pytest.fixture(scope="module")
def encoder(moiie: Both) -> Encoder:
    return Encoder(moiie[1], Pictures(), max_length=0)


@pytest.fixture(scope="module")
def found(moiie: Both) -> Grounding:
    return ground(*moiie, [row_of(number) for number in range(4)], Pictures())


def test_the_answer_stands_behind_the_prompt_and_is_memory(moiie: Both, encoder: Encoder) -> None:
    forced = force(encoder, row_of(0), "top left")
    answer = moiie[1].tokenizer("top left", add_special_tokens=False)["input_ids"]
    ids = forced.keywords["input_ids"][0].tolist()
    assert ids[forced.prompt_length :] == answer
    assert forced.predicting == slice(forced.prompt_length - 1, len(ids) - 1)
    assert not forced.evidence[forced.prompt_length :].any()
    control = torch.isin(forced.keywords["input_ids"][0], torch.tensor(sorted(encoder.control)))
    wanted = (forced.modality_ids > 0) | (forced.is_text & ~control)
    assert torch.equal(forced.evidence[: forced.prompt_length], wanted[: forced.prompt_length])
    assert forced.evidence.any()


def test_an_empty_answer_leaves_the_prompt(encoder: Encoder) -> None:
    forced = force(encoder, row_of(0), "")
    assert forced.predicting == slice(forced.prompt_length - 1, forced.prompt_length)
    assert len(forced.modality_ids) == forced.prompt_length


def test_words_of_the_answer_are_found_where_they_were_given(encoder: Encoder) -> None:
    forced = force(encoder, row_of(0), "blue square")
    held = "".join(word for word, bears in zip(forced.words, forced.bearing.tolist(), strict=True) if bears)
    assert held.strip() == "blue square"
    assert not forced.bearing[forced.prompt_length :].any(), "not in the answer itself"
    assert not force(encoder, row_of(0), "squ").bearing.any(), "part of a word is no answer"
    assert said_in(["Blue", " blues"], "blue").tolist() == [True, False]


def test_patches_of_the_box_are_found() -> None:
    ids = torch.tensor([0] + [1] * 16 + [0])
    box = patches_in(row_of(0, answer_box=[0.5, 0.0, 1.0, 0.25]), ids)
    assert box.nonzero().flatten().tolist() == [3, 4]  # first row of a 4 x 4 grid, right half
    assert not patches_in(row_of(0), ids).any()
    assert not patches_in(row_of(0, answer_box=[0, 0, 1, 1]), ids[:16]).any(), "15 patches are no square"
    with pytest.raises(ValueError, match=r"row 'r0': answer_box .0, 0, 2, 1. is not left, top, right, bottom in 0..1"):
        patches_in(row_of(0, answer_box=[0, 0, 2, 1]), ids)


def test_attention_is_that_of_every_layer_and_position(moiie: Both, encoder: Encoder) -> None:
    model, forced = moiie[0], force(encoder, row_of(0), "top left")
    before = model.base_model.language_model.config._attn_implementation
    reading = read(model, forced, attention=True)
    seq = len(forced.modality_ids)
    assert reading.attention is not None
    assert reading.attention.shape == (4, seq, seq)
    torch.testing.assert_close(reading.attention.sum(-1), torch.ones(4, seq))
    assert (reading.attention.triu(1) == 0).all()
    assert model.base_model.language_model.config._attn_implementation == before != "eager"
    plain = read(model, forced)
    assert plain.attention is None
    for layer, routing in plain.routing.items():  # eager attention routes alike
        torch.testing.assert_close(routing.logits, reading.routing[layer].logits, rtol=1e-4, atol=1e-5)


def test_the_switch_is_told(moiie: Both, encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "moiety.vlm.decoders"):
        read(moiie[0], force(encoder, row_of(0), "x"), attention=True)
    assert "the decoder runs with eager attention instead of sdpa meanwhile" in caplog.text


def test_it_is_told_once_for_a_file(moiie: Both, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "moiety.vlm.decoders"):
        ground(*moiie, [row_of(0), row_of(1)], Pictures())
    assert caplog.text.count("eager") == 1


def test_numbers_agree_with_slow_sums(moiie: Both, encoder: Encoder, found: Grounding) -> None:
    forced = force(encoder, row_of(1), "top left")
    reading = read(moiie[0], forced, attention=True)
    assert reading.attention is not None
    seq = len(forced.modality_ids)
    for place, (layer, routing) in enumerate(reading.routing.items()):
        wanted = np.zeros((2, 4))
        for token in range(seq):
            for expert in routing.index[token].tolist():
                if forced.modality_ids[token] == 0:
                    for column in range(seq):
                        wanted[int(not forced.evidence[column]), expert] += reading.attention[layer, token, column]
        np.testing.assert_allclose(found.samples["on_evidence"][1, place], wanted[0], atol=1e-4)
        np.testing.assert_allclose(found.samples["on_memory"][1, place], wanted[1], atol=1e-4)
    row = reading.attention[:, forced.prompt_length - 1]
    np.testing.assert_allclose(found.samples["picture"][1], row[:, forced.modality_ids == 1].sum(-1), rtol=1e-5)
    np.testing.assert_allclose(found.samples["context"][1], row[:, forced.evidence].sum(-1), rtol=1e-5)


def test_shapes_and_ranges(found: Grounding) -> None:
    assert (found.layers, found.sparse_layers, found.types) == ([0, 1, 2, 3], [1, 3], ["conflict", "absent"] * 2)
    for modality in ("text", "image"):
        assert ((found.entropy(modality) > 0) & (found.entropy(modality) <= 1)).all()
    ratio = found.grounding_ratio()
    assert ratio.shape == (2, 4)
    assert np.isnan(ratio[:, 0]).all(), "text never reaches the private vision expert"
    assert ((ratio[:, 1:] > 0) & (ratio[:, 1:] < 1)).any()
    for taken_away in ("exchanged", "mean_patch"):
        dependence = found.dependence(taken_away)
        assert dependence.shape == (2, 4)
        assert (np.abs(dependence) <= 1).all()
    assert np.isnan(found.attention("answer")).all(), "no row says where its answer is"
    np.testing.assert_allclose(found.attention("context"), 1, rtol=1e-5)  # this template has no control tokens
    assert found.entropy_slope is not None
    assert found.entropy_slope.low <= found.entropy_slope.value <= found.entropy_slope.high
    assert not found.has_gates
    assert np.isnan(found.gate_area("alpha")).all()


def test_mean_patches_say_nothing_about_the_picture(moiie: Both, encoder: Encoder) -> None:
    """Routing of all tokens depends on the picture, and on its mean alone once its patches are averaged."""
    model, forced = moiie[0], force(encoder, row_of(1), "top left")
    blank = read(model, forced, mean_patch=True)
    embeddings = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        embeddings.append(kwargs["inputs_embeds"])

    hook = model.base_model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        plain = read(model, forced)
        read(model, forced, mean_patch=True)
    finally:
        hook.remove()
    image, (clear, averaged) = forced.modality_ids == 1, embeddings
    torch.testing.assert_close(clear, averaged.where(~image[:, None], clear))  # hooks run in order: averaged is second
    assert not torch.equal(plain.routing[3].logits, blank.routing[3].logits)
    assert len(model.base_model.language_model._forward_pre_hooks) == 0


def test_two_pictures_keep_their_own_means(moiie: Both, encoder: Encoder) -> None:
    said = (Turn("user", "<image> and <image>\nSame?"), Turn("assistant", "no"))
    forced = force(encoder, Row(id="two", turns=said, images=("1", "4")), "no")
    seen = []
    layer = moiie[0].base_model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        read(moiie[0], forced, mean_patch=True)
    finally:
        hook.remove()
    image = (forced.modality_ids == 1).nonzero().flatten()
    first, second = seen[0][0, image[:16]], seen[0][0, image[16:]]
    assert (first == first[0]).all()
    assert (second == second[0]).all()
    assert not torch.equal(first[0], second[0])


def test_partners_have_other_pictures() -> None:
    rows = [row_of(0), row_of(0), row_of(2), parse_row({"id": "t", "messages": [{"role": "user", "content": "x"}]})]
    assert partner_of(rows, 0) is rows[2]
    assert partner_of(rows, 2) is rows[0]
    assert partner_of(rows, 3) is None
    assert partner_of(rows[:2], 0) is None


def test_a_row_without_partner_counts_without_exchange(moiie: Both, encoder: Encoder) -> None:
    alone, clouds = read_row(moiie[0], encoder, row_of(0), None)
    assert clouds == []
    assert np.isnan(alone["routed_exchanged"]).all()
    assert not np.isnan(alone["routed_mean_patch"]).any()
    found = ground(*moiie, [row_of(0)], Pictures())
    assert np.isnan(found.dependence("exchanged")).all()


def test_a_dense_model_has_attention_alone() -> None:
    found = ground(*both("dense"), [row_of(0), row_of(1)], Pictures())
    assert (found.scheme, found.groups, found.sparse_layers) == ("dense", None, [])
    assert found.grounding_ratio().shape == (0, 0)
    assert (found.attention("context") > 0).all()


def test_the_model_keeps_its_mode_and_rows_tell_their_progress(moiie: Both) -> None:
    told: list[tuple[int, int]] = []
    moiie[0].train()
    try:
        ground(*moiie, [row_of(0), row_of(1)], Pictures(), progress=lambda *done: told.append(done))
        assert moiie[0].training
    finally:
        moiie[0].eval()
    assert told == [(1, 2), (2, 2)]


def test_messages(moiie: Both) -> None:
    with pytest.raises(ValueError, match="no rows to read; give at least one question with its answer"):
        ground(*moiie, [], Pictures())
    asked = Row(id="q", turns=(Turn("user", "x"),))
    with pytest.raises(ValueError, match="row 'q': no answer to read; give 'answers' or a last turn"):
        answer_of(asked)
