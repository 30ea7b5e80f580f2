"""Every way in which transformers stretches rotary positions survives upcycling, saving and long prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import load
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES

ORIGINAL = 32
"""Positions that the decoder was trained for; prompts here are longer."""
FACTORS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "longrope": {
        "factor": 4.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 1.5, 2.0, 4.0],
        "original_max_position_embeddings": ORIGINAL,
    },
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "proportional": {"factor": 4.0, "partial_rotary_factor": 0.5},
}


def dense_model(kind: str, decoder: str) -> Any:
    """A tiny LLaVA whose decoder knows 32 positions and is stretched to 128."""
    family = FAMILIES[f"llava-{decoder}"]
    config = family.config()
    config.text_config.rope_parameters = {"rope_type": kind, "rope_theta": 1e4, **FACTORS[kind]}
    config.text_config.max_position_embeddings = ORIGINAL if kind == "dynamic" else 4 * ORIGINAL
    torch.manual_seed(0)
    model = type(family.build())(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model


def test_every_kind_of_this_transformers_is_tried() -> None:
    assert set(ROPE_INIT_FUNCTIONS) <= set(FACTORS)


@pytest.mark.parametrize("decoder", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", sorted(FACTORS))
def test_a_stretched_decoder_answers_as_before_also_beyond_its_length(kind: str, decoder: str, tmp_path: Path) -> None:
    dense = dense_model(kind, decoder)
    batch = FAMILIES[f"llava-{decoder}"].batch("tI" + "t" * 14, "I" + "t" * 9, side="left")
    assert batch["input_ids"].shape[1] > ORIGINAL
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [60]}
    with torch.no_grad():
        logits = dense(**batch).logits
        said = dense.generate(**batch, **options)  # last: kind dynamic keeps the frequencies of the longest text so far
    sparse = upcycle(dense_model(kind, decoder), MoESettings(layers="all")).eval()
    sparse.save_pretrained(tmp_path)
    for model in (sparse, load(tmp_path).eval()):
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, logits, rtol=1e-4, atol=1e-4)
            assert model.generate(**batch, **options).tolist() == said.tolist()
    kept = load(tmp_path).config.get_text_config().rope_parameters
    assert {name: kept[name] for name in ("rope_type", *FACTORS[kind])} == {"rope_type": kind, **FACTORS[kind]}


def test_the_kinds_differ_from_one_another() -> None:
    """So the test above would see a kind that is lost."""
    batch = FAMILIES["llava-llama"].batch("tI" + "t" * 14)
    with torch.no_grad():
        found = {kind: dense_model(kind, "llama")(**batch).logits for kind in sorted(FACTORS)}
    for kind, logits in found.items():
        if kind != "default":
            assert not torch.allclose(logits, found["default"], atol=1e-3), kind
