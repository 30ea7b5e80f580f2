"""Pictures exchanged as embeddings do what exchanged pictures do, in every family; partners are really others."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.moe.trace import RoutingTrace, recording
from moiety.recipe.recipe import MoESettings
from moiety.train.asymoe.masked_pass import Exchange, masked_trace, partners
from moiety.vlm.decoder_calls import kept_call
from moiety.vlm.decoders import text_decoder
from tests.tiny import FAMILIES, IMAGE, sparse

WIDTHS = {"hyp_dim": 8, "inter_ffn": 16, "vision_ffn": 16, "evidence_dim": 8, "context_dim": 16, "context_heads": 2}
ASYMOE = MoESettings(scheme="asymoe", layers="all", asymoe=WIDTHS)
ONE_OF_EACH = [
    "llava-llama",
    "llava-onevision",
    "idefics3",
    "paligemma",
    "gemma3",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_exchanged_embeddings_are_exchanged_pictures(name: str) -> None:
    family = FAMILIES[name]
    model: Any = sparse(name, ASYMOE)
    batch = family.batch("tIt", "ttI", "tt")
    pictures = family.pictures(1).keys()
    swapped = {key: torch.cat(value.chunk(2)[::-1]) if key in pictures else value for key, value in batch.items()}
    if family.per_row:  # a row without pictures has a place of its own there
        swapped |= {key: batch[key][[1, 0, 2]] for key in pictures}
    decoder = text_decoder(model.base_model)
    with torch.no_grad(), kept_call(decoder) as kept:
        model(**batch)
    with torch.no_grad(), recording(RoutingTrace(keeps_inputs=True)) as expected:
        model(**swapped)
    exchange = Exchange.of(batch["input_ids"] == IMAGE, [(1, 0), (0, 1)])
    found = masked_trace(decoder, kept.kwargs or {}, exchange, learns=False)
    for layer, (routing,) in found.by_layer().items():
        wanted = expected.by_layer()[layer][0]
        tokens = routing.modality_group >= 0  # what padding computes depends on the length of the batch
        assert torch.equal(routing.modality_group, wanted.modality_group.view(3, -1)[[1, 0]].flatten())
        assert {"x", "context", "mass", "alpha", "score"} <= routing.extras.keys()
        for key, value in routing.extras.items():
            other = wanted.extras[key].unflatten(0, (3, -1))[[1, 0]].flatten(0, 1)
            assert torch.allclose(value[tokens], other[tokens], atol=1e-4, rtol=1e-4), key  # measured 1e-5 on x of 10
            assert not value.requires_grad
        assert routing.extras["mass"].any()


@pytest.mark.parametrize("name", ["llava-llama", "qwen3_vl"])
def test_the_exchange_changes_what_is_seen(name: str) -> None:
    """Without this, the equality above could be that of pictures nobody looks at."""
    model: Any = sparse(name, MoESettings(scheme="vanilla", layers="all"))
    batch, decoder = FAMILIES[name].batch("tIt", "ttI"), text_decoder(model.base_model)
    with torch.no_grad(), kept_call(decoder) as kept:
        model(**batch)
    image_mask = batch["input_ids"] == IMAGE
    own, other = (
        masked_trace(decoder, kept.kwargs or {}, Exchange.of(image_mask, [pair]), learns=False).by_layer()[1][0].logits
        for pair in ((0, 0), (0, 1))
    )
    assert (own - other).abs().max() > 1e-2


def test_mean_patch_leaves_one_embedding_for_all_image_tokens() -> None:
    image_mask = torch.tensor([[True, True, False], [False, False, False]])
    values = torch.tensor([[[1.0], [3.0], [9.0]], [[5.0], [6.0], [7.0]]])
    exchange = Exchange.of(image_mask, [(0, 0), (1, 1)], mean_patch=True)
    assert exchange.embeddings(values).flatten(1).tolist() == [[2.0, 2.0, 9.0], [5.0, 6.0, 7.0]]


def test_pictures_may_stand_in_other_places() -> None:
    image_mask = torch.tensor([[True, False, True, False], [False, True, True, False]])
    values = torch.arange(8.0).view(2, 4, 1)
    taken = Exchange.of(image_mask, [(0, 1)]).embeddings(values)
    assert taken.flatten().tolist() == [5.0, 1.0, 6.0, 3.0]


def test_a_decoder_without_embeddings_is_refused() -> None:
    exchange = Exchange.of(torch.ones(1, 2, dtype=torch.bool), [(0, 0)])
    with pytest.raises(ValueError, match=r"called with \['input_ids'\].*Set moe\.asymoe\.gate_weight to 0"):
        exchange.inputs({"input_ids": torch.zeros(1, 2)})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 4, 9]), st.integers(1, 3), st.integers(0, 2)), max_size=9), st.randoms())
def test_partners_have_another_picture_of_the_same_size(rows: list[tuple[int, int, int]], random: Any) -> None:
    images, keys, answers = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    order = random.sample(range(len(rows)), len(rows))
    found = dict(partners(images, keys, answers, order))
    for row, partner in found.items():
        assert images[row] == images[partner] > 0
        assert keys[row] != keys[partner]
        assert answers[row] > 0
    for row in set(range(len(rows))) - found.keys():  # whoever is left out had to be
        alone = all(images[other] != images[row] or keys[other] == keys[row] for other in range(len(rows)))
        assert images[row] == 0 or answers[row] == 0 or alone
    assert list(found) == [row for row in order if row in found]
