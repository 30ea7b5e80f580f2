"""Reading MIntRec and MIntRec2.0: tables, features beside them, letters of every kind (P20, P21)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety.intent.data.dataset import IntentDataError
from moiety.intent.data.mintrec import read_mintrec
from moiety.intent.labels.descriptions import (
    shipped_tables,
)


def write(path: Path, tree: Any, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(tree, protocol))
    return path


def tsv(folder: Path, rows: list[str], head: str = "season\tepisode\tclip\ttext\tlabel") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "dev", "test"):
        (folder / f"{name}.tsv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return folder


ROWS = ['S01\tE01\t1\t"quoted, she said\tThank', "S01\tE01\t2\tgo away\tLeave"]


def test_quotes_are_letters_and_features_join_by_key(tmp_path: Path) -> None:
    folder = tsv(tmp_path / "m", ROWS)
    write(folder / "video_data/video_feats.pkl", {"S01_E01_1": np.ones((3, 4)), "S01_E01_2": np.ones((1, 4))})
    split = read_mintrec(folder)["dev"]
    assert split.labels == ["Thank", "Leave"]
    assert split.samples[0].text == '"quoted, she said'
    assert split.samples[0].frames("video").shape == (3, 4)
    assert split.samples[0].frames("audio") is None


def test_rows_without_features_are_counted(tmp_path: Path) -> None:
    folder = tsv(tmp_path / "m", ROWS)
    write(folder / "audio_data/audio_feats.pkl", {"S01_E01_1": np.ones((3, 4))})
    with pytest.raises(IntentDataError, match=r"1 of 2 rows have no audio features, first S01_E01_2"):
        read_mintrec(folder)
    assert read_mintrec(folder, on_missing="mask")["train"].samples[1].audio is None


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        (["S\tE\t1\tx\tThank", "S\tE\t1\ty\tLeave"], None, "train.tsv:3: key S_E_1 is given twice"),
        (["S\tE\t1"], None, "train.tsv:2: 3 fields, the head has 5"),
        ([], "a\tb", r"columns \['a', 'b'\]; expected those of MIntRec"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, rows: list[str], head: str | None, message: str) -> None:
    folder = tsv(tmp_path / "m", rows, *([head] if head else []))
    with pytest.raises(IntentDataError, match=message):
        read_mintrec(folder)
    with pytest.raises(FileNotFoundError, match=r"no train.tsv in .*expected train.tsv, dev.tsv and test.tsv"):
        read_mintrec(tmp_path / "nowhere")


def test_official_folders(shared: Path) -> None:
    sizes = {"mintrec": (1334, 445, 445, 20), "mintrec2": (6165, 1106, 2033, 30)}
    tables = shipped_tables()
    for name, (*rows, classes) in sizes.items():
        found = read_mintrec(shared / "data" / name)
        assert [len(found[split]) for split in ("train", "dev", "test")] == rows
        assert set(found["train"].labels) == set(tables[name])
        assert len(tables[name]) == classes


TSV = "season\tepisode\tclip\ttext\tlabel\nS01\tE01\t1\tle café “noir”\tThank\n"


@pytest.mark.parametrize("kind", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_tables_with_a_mark_are_read(tmp_path: Path, kind: str) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.tsv").write_bytes(("\ufeff" * (kind == "utf-16-be") + TSV).encode(kind))
    assert read_mintrec(tmp_path)["dev"].samples[0].text == "le café “noir”"


@pytest.mark.parametrize("kind", ["cp1252", "latin-1", "mac-roman", "cp1250", "shift-jis"])
def test_tables_in_other_letters_are_refused_with_byte_and_remedy(tmp_path: Path, kind: str) -> None:
    text = TSV.replace("“noir”", "noir") if kind == "latin-1" else TSV
    text = text.replace("é", "語").replace("“noir”", "") if kind == "shift-jis" else text
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.tsv").write_bytes(text.encode(kind))
    with pytest.raises(
        IntentDataError, match=r"train.tsv: byte \d\d is not UTF-8; save the file .* in line 2; .*iconv"
    ):
        read_mintrec(tmp_path)


def test_the_reported_table(shared: Path) -> None:
    folder = shared / "cases" / "08-encodings" / "mintrec-cp1252"
    if not folder.is_dir():
        pytest.skip("no cases/08-encodings there")
    with pytest.raises(IntentDataError, match=r"train.tsv: byte \d+ is not UTF-8; save the file as UTF-8"):
        read_mintrec(folder)


def test_a_field_that_never_ends_is_named(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.tsv").write_text(TSV + "x" * 200_000)
    with pytest.raises(IntentDataError, match=r"train.tsv(:3: 1 fields, the head has 5| is no table)"):
        read_mintrec(tmp_path)
