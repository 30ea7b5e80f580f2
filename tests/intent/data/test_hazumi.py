"""Reading Hazumi: its three files, views of a dialogue, damage (P20, P21)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety.intent.data.dataset import IntentDataError
from moiety.intent.data.hazumi import read_hazumi
from moiety.intent.labels.descriptions import (
    shipped_tables,
)
from tests.intent.small_folder import write_folder


def test_hazumi(shared: Path) -> None:
    folder = shared / "data" / "hazumi_online"
    found = read_hazumi(folder)
    assert [len(found[split]) for split in ("train", "dev")] == [7146, 1246]
    assert set(found["train"].labels) == set(shipped_tables()["hazumi_da"])
    assert found["train"].labels.count("qw") == 1894
    first = found["dev"].samples[0]
    assert [first.frames(name).shape for name in ("text", "video", "audio")] == [(1, 785), (1, 66), (1, 384)]
    assert first.text is None, "no words, so that the system's cannot slip in"
    history = read_hazumi(folder, view="history", target="ui_ternary")["train"]
    lengths = {len(sample.frames("audio")) for sample in history.samples}
    assert lengths == set(range(1, 9))
    assert set(history.labels) == {"low", "middle", "high"}
    tokens = read_hazumi(folder, view="tokens")["dev"].samples[0]
    assert [tokens.frames(name).shape for name in ("video", "audio")] == [(12, 22), (32, 12)]
    with pytest.raises(ValueError, match="unknown target 'act'"):
        read_hazumi(folder, target="act")
    with pytest.raises(ValueError, match="unknown view 'all'"):
        read_hazumi(folder, view="all")


def test_hazumi_needs_its_three_files(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no features.npz in .*expected features.npz, rows.jsonl and columns.json"
    ):
        read_hazumi(tmp_path)


def changed(folder: Path, **arrays: Any) -> Path:
    """A small folder of Hazumi whose arrays are exchanged, or left out where None."""
    write_folder(folder)
    with np.load(folder / "features.npz") as file:
        known = {name: file[name] for name in file.files} | arrays
    np.savez(folder / "features.npz", **{name: array for name, array in known.items() if array is not None})
    return folder


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"text_bert": None}, r"features.npz lacks text_bert; it holds audio, video, text_pos, da, ui_ternary. Exp"),
        ({"audio": None, "video": None}, r"lacks video, audio; .*zeros, which count as absent"),
        ({"da": None}, r"lacks da; .*and the target da"),
        ({"audio": np.zeros((50, 5))}, r"rows.jsonl has 84 rows, but features.npz has audio 50; give equally many"),
        ({"da": np.full(84, 7)}, r"da holds codes \[7\], expected 0 to 2 for 3 labels"),
        ({"audio": np.array([None] * 84)}, r"features.npz is no whole npz file of plain arrays \(ValueError\); fetch"),
    ],
)  # fmt: skip
def test_arrays_of_hazumi_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(IntentDataError, match=message):
        read_hazumi(changed(tmp_path / "h", **arrays))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("features.npz", b"hello", r"features.npz is no whole npz file of plain arrays"),
        ("features.npz", b"PK\x03\x04" + bytes(40), r"features.npz is no whole npz file of plain arrays"),
        ("rows.jsonl", b'{"row": 0\n', r"rows.jsonl:1: no JSON \(Expecting ',' delimiter at letter 10\)"),
        ("rows.jsonl", b'{"row": 0}\n', r"rows.jsonl:1: expected an object with row and dialogue"),
        ("rows.jsonl", "{'é'}".encode("cp1252"), r"rows.jsonl: byte 2 is not UTF-8"),
        ("columns.json", b"[1]", r"columns.json names no da_labels; expected an object that lists the labels there"),
        ("columns.json", b"{}", r"columns.json names no da_labels"),
    ],
)
def test_files_of_hazumi_that_are_damaged(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    folder = write_folder(tmp_path / "h")
    (folder / name).write_bytes(data)
    with pytest.raises(IntentDataError, match=message):
        read_hazumi(folder)


def test_history_never_crosses_dialogues() -> None:
    from moiety.intent.data.hazumi import _windows

    rows = [{"dialogue": "a"}, {"dialogue": "a"}, {"dialogue": "b"}, {"dialogue": "b"}, {"dialogue": "b"}]
    assert _windows(rows, 2) == [[0], [1, 0], [2], [3, 2], [4, 3]]
