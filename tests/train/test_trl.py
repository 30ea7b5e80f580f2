"""TRL's SFTTrainer behind our mixin: routing losses are added, and pictures stay pictures (trap 4)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from toy import COLOURS, scratch_folder, sparse_model

from moiety.train import RoutingLossMixin
from moiety.vlm.templates import load_processor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_sft_trainer_sees_every_picture_token(world: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    seen: list[tuple[int, int]] = []

    class Trainer(RoutingLossMixin, trl.SFTTrainer):
        def observe(self, inputs: Any, cross_entropy: Any, losses: Any, trace: Any, share: float) -> None:
            vision = self._table[1].names.index("vision")
            pictures = int((inputs["input_ids"] == self.model.config.image_token_id).sum())
            for _, routing in trace.entries:
                seen.append((pictures, int((routing.modality_group == vision).sum())))
            assert losses is not None
            assert torch.isfinite(losses.total)

    rows = {"images": [], "prompt": [], "completion": []}
    for name in COLOURS:
        rows["images"].append([Image.open(world / "pictures" / f"{name}.png").convert("RGB")])
        rows["prompt"].append([{"role": "user", "content": "Which colour?"}])
        rows["completion"].append([{"role": "assistant", "content": name}])
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2, bf16=False,
        report_to="none", use_cpu=True, save_strategy="no", logging_steps=1, max_length=None, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        model=sparse_model(world, aux_coef=5.0),
        args=arguments,
        train_dataset=datasets.Dataset.from_dict(rows),
        processing_class=load_processor(scratch_folder(world)),
    )
    trainer.train()
    assert len(seen) == 4
    assert all(pictures == routed == 8 for pictures, routed in seen)  # two pictures of four tokens each
