"""Parts: every parameter of every family belongs to one, and freezing trains exactly the named ones."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from moiety.recipe.recipe import PARTS, MoESettings
from moiety.vlm.parts import freeze, part_of
from moiety.vlm.towers import unread_parameters
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES, sparse


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_parameter_has_a_part(name: str) -> None:
    model = sparse(name)
    parts: dict[str, set[str]] = {part: set() for part in PARTS}
    for key, _ in model.named_parameters(remove_duplicate=False):
        parts[part_of(key)].add(key)
    assert all(parts.values()), {part for part in PARTS if not parts[part]}
    tower = {key for key in parts["vision_tower"] if not key.startswith(("model.vision", "model.visual"))}
    assert not tower
    assert all("embed_tokens" in key for key in parts["embeddings"])
    assert all(".layers." in key or ".norm." in key for key in parts["decoder"])
    assert part_of("module.base_model.model." + next(iter(parts["experts"]))) == "experts"


def test_context_attention_learns_with_the_experts_that_read_it() -> None:
    model = sparse("llava-qwen2", MoESettings(scheme="asymoe"))
    layer = {
        key.split(".mlp.")[1]: part_of(key)
        for key, _ in model.named_parameters()
        if "language_model.layers.0.mlp." in key
    }
    assert {part for key, part in layer.items() if key.startswith(("context.", "experts."))} == {"experts"}
    assert {part for key, part in layer.items() if key.startswith("router.")} == {"router"}
    assert {key.split(".")[0] for key in layer} == {"context", "experts", "router"}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"'model.audio_tower.weight' belongs to no known part; add the name of its module to vlm/parts.py",
    ):
        part_of("model.audio_tower.weight")


def learning(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("part", PARTS)
def test_freeze_trains_exactly_one_part(part: Any) -> None:
    model = sparse("llava-llama")
    counts = freeze(model, [part])
    unread = {n for n, p in model.named_parameters() if p in unread_parameters(model.model)}
    assert learning(model) == {n for n, _ in model.named_parameters() if part_of(n) == part} - unread
    assert counts[part] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert set(counts) == set(PARTS)
    assert sum(counts.values()) == counts[part]


def test_experts_and_router_leave_dense_ffns_alone() -> None:
    # D21
    model = sparse("llava-llama", MoESettings(layers="odd"))
    freeze(model, ["experts", "router"])
    assert learning(model)
    assert all(".layers.1.mlp." in name for name in learning(model))


@pytest.mark.parametrize("made", [lambda name: FAMILIES[name].build(), sparse], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_can_train_its_head_alone(name: str, made: Any) -> None:
    """The text config of Qwen's families does not say whether embeddings and head are tied."""
    model = made(name)
    freeze(model, ["head"])
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert {part_of(key) for key in learning(model)} == {"embeddings" if tied else "head"}


def test_tied_embeddings_and_head_learn_together() -> None:
    model = sparse("gemma3")
    freeze(model, ["head"])
    assert learning(model) == {"model.language_model.embed_tokens.weight"}


def test_frozen_parts_do_not_move() -> None:
    import torch

    model = sparse("llava-llama").train()
    freeze(model, ["projector"])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**FAMILIES["llava-llama"].batch("tIt", labels=True)).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name in before if part_of(name) == "projector"}


def test_what_cannot_be_frozen_is_said(caplog: pytest.LogCaptureFixture) -> None:
    dense = upcycle(FAMILIES["llava-llama"].build(), MoESettings(scheme="dense"), in_place=True)
    with pytest.raises(ValueError, match=r"unknown part 'projectors'; known: .*did you mean 'projector'"):
        freeze(dense, ["projectors"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"nothing would learn: trains=\['router'\], but the model has the parts"):
        freeze(dense, ["router"])
    with caplog.at_level(logging.DEBUG, logger="moiety"):
        freeze(dense, ["projector", "router", "experts"])
    assert "has no experts, router; ignored" in caplog.text
