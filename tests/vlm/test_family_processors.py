"""Every family with its own processor: rows become batches that its dense and its sparse form can learn from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moiety.recipe.recipe import MoESettings
from moiety.vlm.data import Collator, Encoder
from moiety.vlm.model import load
from moiety.vlm.parts import freeze
from moiety.vlm.rows import parse_row
from moiety.vlm.upcycle import upcycle
from tests.family_processors import PICTURES, WITH_PROCESSOR, conversation, family_processor, model_for

ROWS = [conversation("a", "red"), conversation("b", "green", "Describe it.")]
BESIDE = {"span_ids", "span_order", "image_key", "evidence_mask"}


@pytest.mark.parametrize("name", WITH_PROCESSOR)
def test_rows_of_the_processor_teach_the_dense_and_the_sparse_model(name: str) -> None:
    processor = family_processor(name)
    dense = model_for(name, processor)
    coder = Encoder(processor, PICTURES, 256, spans=True)
    rows = list(ROWS)
    if name != "paligemma":  # its processor refuses a row without a picture
        turns = [{"from": "human", "value": "Repeat the word red."}, {"from": "gpt", "value": "red"}]
        rows.insert(1, parse_row({"id": "t", "conversations": turns}, "rows.jsonl", 2))
    found = Collator(coder.pad_token_id)([coder.encode(row) for row in rows])
    batch = {key: value for key, value in found.items() if key not in BESIDE | {"modality_ids"}}
    assert found["modality_ids"].sum(1).bool().tolist() == [True] * len(ROWS) if len(rows) == 2 else [True, False, True]
    plain = dense(**batch).loss
    assert plain.isfinite()
    sparse = upcycle(dense, MoESettings(layers="all"), processor=processor)
    torch.testing.assert_close(sparse.eval()(**batch).loss, plain, rtol=1e-4, atol=1e-5)
    freeze(sparse.train(), ["projector", "router", "experts"])
    sparse(**batch).loss.backward()
    assert all(p.grad is not None for p in sparse.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", WITH_PROCESSOR)
def test_prompts_of_the_processor_are_answered_alone_together_and_from_a_folder(name: str, tmp_path: Path) -> None:
    processor = family_processor(name)
    model = upcycle(model_for(name, processor), MoESettings(layers="all"), processor=processor).eval()
    coder = Encoder(processor, PICTURES, 0)
    collate = Collator(coder.pad_token_id, padding_side="left")
    prompts = [coder.encode_prompt(row) for row in (*ROWS, conversation("c", "red", "Describe it."))]

    def answers(*chosen: int) -> torch.Tensor:
        batch = collate([prompts[number] for number in chosen])
        made = model.generate(**batch, max_new_tokens=5, do_sample=False)
        return made[:, batch["input_ids"].shape[1] :]

    together = answers(0, 1, 2)
    for number in range(3):
        alone = answers(number)[0]
        assert together[number][: len(alone)].tolist() == alone.tolist()
    model.save_pretrained(tmp_path)
    model = load(tmp_path).eval()
    assert answers(0, 1, 2).tolist() == together.tolist()
