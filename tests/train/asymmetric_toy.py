"""A tiny asymoe model over the toy world, and batches with spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from toy import COLOURS, row, scratch_folder

from moiety.config import MoESettings
from moiety.vlm.data import Collator, Encoder
from moiety.vlm.images import Images
from moiety.vlm.model import load
from moiety.vlm.rows import parse_row
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle

WIDTHS = {"hyp_dim": 8, "inter_ffn": 16, "vision_ffn": 16, "evidence_dim": 8, "context_dim": 16, "context_heads": 2}
ROWS = [row(name, f"{name}.png", "Which colour?", name) for name in COLOURS]


def asymmetric_model(root: Path, **asymoe: Any) -> Any:
    """The scratch model with sparse layers of scheme asymoe."""
    settings = MoESettings(scheme="asymoe", asymoe={**WIDTHS, "warmup_share": 0.0, **asymoe})
    processor = load_processor(scratch_folder(root))
    return upcycle(load(scratch_folder(root)), settings, in_place=True, processor=processor)


def with_spans(root: Path, rows: list[dict[str, Any]] = ROWS) -> tuple[list[dict[str, torch.Tensor]], Collator]:
    """Rows as the stage prepares them."""
    encoder = Encoder(load_processor(scratch_folder(root)), Images([root / "pictures"]), 64, spans=True)
    return [encoder.encode(parse_row(entry)) for entry in rows], Collator(encoder.pad_token_id)
