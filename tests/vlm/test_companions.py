"""TRL and PEFT on a tiny sparse LLaVA (traps 4 and 18). Slow: importing them takes longer than running them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import load
from moiety.vlm.parts import part_of
from moiety.vlm.placeholders import ModalityRule
from tests.tiny import FAMILIES, IMAGE, sparse

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
LLAVA = FAMILIES["llava-qwen2"]


def test_18_lora_reaches_experts_by_parameter_name(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    batch = LLAVA.batch("tIt", "tt", labels=True)
    everything = peft.get_peft_model(sparse("llava-qwen2"), peft.LoraConfig(r=2, target_modules="all-linear"))
    parts = [part_of(name) for name, parameter in everything.named_parameters() if parameter.requires_grad]
    assert "experts" not in parts, "the trap: all-linear misses the stacked experts"
    model = sparse("llava-qwen2")
    before = model(**batch).logits
    config = peft.LoraConfig(
        r=2,
        target_modules=r"model\.language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj",
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    with warnings.catch_warnings():
        tuned = peft.get_peft_model(model, config)
    learning = [part_of(name) for name, parameter in tuned.named_parameters() if parameter.requires_grad]
    assert learning.count("experts") == 8
    assert learning.count("decoder") == 16
    assert not {"vision_tower", "router"} & set(learning)
    torch.testing.assert_close(tuned(**batch).logits, before)
    tuned.train()
    tuned(**batch).loss.backward()
    trained = [p for p in tuned.parameters() if p.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)
    torch.optim.SGD(trained, lr=1.0).step()
    tuned.eval()
    after = tuned(**batch).logits
    merged = tuned.merge_and_unload()
    torch.testing.assert_close(merged(**batch).logits, after, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path)
    torch.testing.assert_close(load(tmp_path)(**batch).logits, merged(**batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize("loss_type", ["nll", "chunked_nll"])
def test_04_trl_trains_and_every_image_token_is_seen(tmp_path: Path, loss_type: str) -> None:
    trl = pytest.importorskip("trl")
    rows = [{"row": row} for row in ("tIt", "tt", "tII", "tI")]

    class Collate:
        """Rows of pictures and texts to a batch, as a processor would."""

        def __call__(self, examples: list[dict[str, str]]) -> dict[str, Any]:
            return dict(LLAVA.batch(*(example["row"] for example in examples), labels=True))

    seen: list[int] = []
    derive = ModalityRule.derive

    def counted(rule: ModalityRule, input_ids: torch.Tensor) -> torch.Tensor:
        ids = derive(rule, input_ids)
        seen.append(int((ids == 1).sum()) - int((input_ids == IMAGE).sum()))
        return ids

    from datasets import Dataset

    model = sparse("llava-qwen2", MoESettings(layers="all"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=2,
        learning_rate=1e-2,
        bf16=False,
        use_cpu=True,
        report_to=[],
        loss_type=loss_type,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )
    processor = _processor()
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=Collate(),
        processing_class=processor,
    )
    with pytest.MonkeyPatch.context() as patch, recording() as trace:
        patch.setattr(ModalityRule, "derive", counted)
        trainer.train()
    assert seen
    assert not any(seen)
    assert {int((routing.modality_group == 0).sum()) for _, routing in trace.entries} == {4 * 4}
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters() if ".experts." in n)


def _processor() -> Any:
    """A tokenizer of single words; the collator above does not use it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(64)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")),
        pad_token="w0",
        bos_token="w1",
        eos_token="w2",
        unk_token="w3",
    )
