"""One of two gloo processes: gradients of a sharded model and of one with its experts on two ranks."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from torch.distributed.tensor import DTensor
from toy import encoded, row, scratch_folder
from transformers import AutoModelForImageTextToText
from transformers.distributed import DistributedConfig

import moiety.vlm  # noqa: F401  registers the sparse classes

ROWS = [row("a", "red.png", "Which colour?", "red"), row("b", "blue.png", "Describe it, please.", "all blue")]
EXPERTS = "model.language_model.layers.*.mlp.experts"
EXPERT_PARALLEL = {
    f"{EXPERTS}.gate_up_proj": "grouped_gemm",
    f"{EXPERTS}.down_proj": "grouped_gemm",
    EXPERTS: "ep_dispatch_experts",
}
KINDS = {"sharded": {"fsdp_size": 2}, "expert_parallel": {"fsdp_size": 2, "ep_size": 2, "ep_plan": EXPERT_PARALLEL}}


def gradients(root: Path, folder: Path, options: dict[str, Any], rank: int) -> dict[str, Any]:
    """Loss of this rank's row, gradients averaged over ranks, and how many parameters are sharded."""
    model = AutoModelForImageTextToText.from_pretrained(folder, distributed_config=DistributedConfig(**options))
    dataset, collator = encoded(root, scratch_folder(root), ROWS)
    loss = model.train()(**collator([dataset[rank]])).loss
    loss.backward()
    parameters = dict(model.named_parameters())
    found = {name: p.grad.full_tensor() for name, p in parameters.items() if p.grad is not None}
    sharded = [name for name, p in parameters.items() if isinstance(p, DTensor)]
    held = {name: p.to_local().numel() / p.numel() for name, p in parameters.items() if "experts" in name}
    return {"loss": loss.detach(), "gradients": found, "sharded": sharded, "held": held, "parameters": len(parameters)}


def main(root: Path, work: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = {kind: gradients(root, work / "sparse", options, rank) for kind, options in KINDS.items()}
    torch.save(found, work / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
