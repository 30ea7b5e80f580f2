"""A small folder in the format of Hazumi, whose labels the audio tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

LABELS = ("go", "stay", "wait")
TEXTS = {"go": "The speaker leaves.", "stay": "The speaker remains here.", "wait": "The speaker asks for time."}
SMALL = {
    "hidden": 16, "num_heads": 2, "num_anchors": 2, "fusion_layers": 1, "max_epochs": 3, "learning_rate": 1e-2,
    "batch_size": 16, "dropout": 0.0, "label_descriptions": TEXTS,
}  # fmt: skip


def write_folder(folder: Path, train: int = 60, dev: int = 24, seed: int = 0) -> Path:
    """Rows of six persons in ``train`` and two in ``dev``; five of each dialogue's audio numbers tell the label."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, number = np.random.default_rng(seed), train + dev
    labels = np.arange(number) % len(LABELS)
    audio = draw.normal(size=(number, 5)).astype(np.float32)
    audio[np.arange(number), labels] += 6
    np.savez(
        folder / "features.npz",
        audio=audio,
        video=draw.normal(size=(number, 4)).astype(np.float32),
        text_bert=draw.normal(size=(number, 6)).astype(np.float16),
        text_pos=draw.normal(size=(number, 2)).astype(np.float32),
        da=labels.astype(np.int8),
        ui_ternary=(labels[::-1]).astype(np.int8),
    )
    rows = []
    for row in range(number):
        split, place = ("train", row * 6 // train) if row < train else ("dev", 6 + (row - train) * 2 // dev)
        rows.append({"row": row, "split": split, "person": f"p{place}", "dialogue": f"d{place}"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "columns.json").write_text(json.dumps({"da_labels": LABELS}))
    return folder


def tree_of(folder: Path, output: Path, **compare: object) -> dict:
    """A recipe over such a folder as a tree."""
    return {
        "name": "small",
        "output": str(output),
        "data": {"kind": "hazumi", "path": str(folder), "choose": None, "score": "dev"},
        "model": dict(SMALL),
        "seeds": [0, 1],
        "compare": {
            "methods": ["majority", "logistic", "concat", "amess", "no_sync", "history"],
            "variants": {
                "no_sync": {"model": {"triplet_weight": 0}, "note": "without synchronisation"},
                "history": {"method": "concat", "data": {"view": "history", "history": 2}},
            },
            "contrasts": {"synchronisation": ["amess", "no_sync"], "floor": ["amess", "majority"]},
            "hide": ["audio", "text+video"],
            **compare,
        },
    }
