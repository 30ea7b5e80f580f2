"""Reading what others wrote: tsv files, feature pickles, Hazumi, label tables (P20, P21)."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moiety.intent.data.pickles import FeatureFileError, read_feature_pickle
from moiety.intent.data.published import IntentDataError, read_hazumi, read_mintrec
from moiety.intent.labels.descriptions import (
    descriptions_for,
    encode_descriptions,
    hashed_vectors,
    load_table,
    read_table,
    shipped_tables,
)
from tests.intent.small_folder import write_folder


def write(path: Path, tree: Any, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(tree, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_feature_files_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    frames = np.arange(6, dtype=np.float64).reshape(3, 2)
    tree = OrderedDict(
        plain=frames, listed=[row[None].astype(np.float32) for row in frames], tensor=torch.from_numpy(frames),
        fortran=np.asfortranarray(frames), whole=frames.astype(np.int64),
    )  # fmt: skip
    found = read_feature_pickle(write(tmp_path / "f.pkl", tree, protocol))
    assert all(array.dtype == np.float32 and (array == frames).all() for array in found.values())
    assert list(found) == list(tree)


def test_names_of_numpy_1_are_understood(tmp_path: Path) -> None:
    old = pickle.dumps({"a": np.ones((2, 3))}, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "old.pkl").write_bytes(old)
    assert read_feature_pickle(tmp_path / "old.pkl")["a"].shape == (2, 3)


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "function", [os.system, eval, os.getenv, io.open, torch.load, np.load], ids=lambda f: f.__name__
)
def test_code_in_a_pickle_is_refused_by_name_and_never_runs(tmp_path: Path, function: Any, protocol: int) -> None:
    mark = tmp_path / "ran"
    path = write(tmp_path / "h.pkl", {"a": Hostile(function, f"touch {mark}")}, protocol)
    with pytest.raises(FeatureFileError, match=r"h.pkl is refused: it names .*anything else could run code"):
        read_feature_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": np.array([["x"]], dtype=object)}, "'a': numbers expected, got object"),
        ({"a": np.zeros(3)}, r"'a': shape \(3,\), expected \(frames, dim\)"),
        ({"a": np.full((1, 2), np.inf)}, "'a': not finite"),
        ({"a": np.zeros((1, 2)), "b": np.zeros((1, 3))}, r"widths differ: \[2, 3\]"),
        ({"a": "text"}, "'a': str instead of an array"),
        ({1: np.zeros((1, 2))}, "1: key is int"),
        ({"a": [np.zeros((1, 2)), np.zeros((1, 3))]}, "'a': a list of unequal parts"),
        ([1, 2], "holds list, expected a dict"),
        ({str(n): "x" for n in range(9)}, "and 4 more"),
    ],
)
def test_wrong_contents_are_named_by_key(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(FeatureFileError, match=message):
        read_feature_pickle(write(tmp_path / "w.pkl", tree))


@pytest.mark.parametrize("cut", [0, 1, 10, 60, 100])
def test_torn_files_are_named(tmp_path: Path, cut: int) -> None:
    whole = pickle.dumps({"a": np.ones((2, 3))})
    (tmp_path / "t.pkl").write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(FeatureFileError, match=r"t\.pkl is"):
        read_feature_pickle(tmp_path / "t.pkl")
    with pytest.raises(FileNotFoundError, match="no feature file at"):
        read_feature_pickle(tmp_path / "none.pkl")


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
        (["S\tE\t1\tx\tThank", "S\tE\t1\ty\tLeave"], None, "train.tsv:3: key S_E_1 stands twice"),
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


def test_arrays_that_python_2_wrote_are_read(tmp_path: Path) -> None:
    frames = np.arange(6, dtype=np.float32).reshape(3, 2)
    old = (
        b"\x80\x02}q\x01U\x02u1cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03K\x02\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([frames.nbytes]) + frames.tobytes() + b"tbs."
    )
    (tmp_path / "old.pkl").write_bytes(old)
    np.testing.assert_array_equal(read_feature_pickle(tmp_path / "old.pkl")["u1"], frames)


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
        ({"audio": None, "video": None}, r"lacks video, audio; .*zeros count as absent"),
        ({"da": None}, r"lacks da; .*and the target da"),
        ({"audio": np.zeros((50, 5))}, r"rows.jsonl has 84 rows, but features.npz has of audio 50"),
        ({"da": np.full(84, 7)}, r"da holds codes \[7\], but there are 3 labels \(0 up\)"),
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


def test_label_descriptions_in_any_writing(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    tabbed = '{\n\t"Café": "A place: for coffee.",\n\t"Bar": "Another."\n}'
    for data in (
        tabbed.encode(),
        tabbed.encode("utf-8-sig"),
        tabbed.encode("utf-16"),
        tabbed.replace("\t", " ").encode(),
    ):
        path.write_bytes(data)
        assert set(load_table(path)) == {"Café", "Bar"}
    (tmp_path / "t.yaml").write_bytes("Café: A place.\nBar: [Another., One more.]\n".encode("utf-16"))
    assert load_table(tmp_path / "t.yaml")["Bar"].descriptions == ("Another.", "One more.")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", "{'Café'}".encode("cp1252"), r"a.json: byte 5 is not UTF-8; save the file as UTF-8"),
        ("a.json", b'{"a": "x"', r"a.json is no JSON \(Expecting ',' delimiter in line 1\)"),
        ("a.json", b'{"a": "x", "a": "y"}', r"a stands twice"),
        ("a.yaml", b"a: x\nb: [1\n", r"a.yaml is no JSON or YAML \(expected .* in line 3\)"),
        ("a.yaml", b"a: x\na: y\n", r"a.yaml: key 'a' stands twice"),
        ("a.json", b"[" * 100_000, r"a.json is no table: nested too deep"),
        ("a.json", b'"words"', r"a.json holds str, expected a list of"),
    ],
)
def test_label_descriptions_that_are_no_table(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_table(tmp_path / name)


def test_history_never_crosses_dialogues() -> None:
    from moiety.intent.data.published import _windows

    rows = [{"dialogue": "a"}, {"dialogue": "a"}, {"dialogue": "b"}, {"dialogue": "b"}, {"dialogue": "b"}]
    assert _windows(rows, 2) == [[0], [1, 0], [2], [3, 2], [4, 3]]


def test_label_tables(tmp_path: Path) -> None:
    table = read_table({"labels": [{"label": "a", "description": ["One.", "Two."], "cues": "nod"}]}, "t")
    assert table["a"].texts("with_cues") == ["a. One. nod.", "a. Two. nod."]
    assert table["a"].texts("name_only") == ["a"]
    assert table["a"].texts("description_only") == ["One.", "Two."]
    for tree, message in (
        ([{"description": "x"}], "entry 1 has no label"),
        ([{"label": "a", "description": " "}], "label 'a' has no description"),
        ([{"label": "a", "description": "x"}] * 2, "label 'a' stands twice"),
        ("text", "holds str, expected a list"),
    ):
        with pytest.raises(ValueError, match=message):
            read_table(tree, "t")
    (tmp_path / "t.yaml").write_text("a: One.\nb: Two.\n")
    assert list(descriptions_for(tmp_path / "t.yaml", ["b"])) == ["b"]


def test_descriptions_are_means_of_unit_vectors_and_differ() -> None:
    tables = shipped_tables()
    found = encode_descriptions(tables["mintrec2"])
    assert found.shape == (30, 2048)
    cosine = torch.nn.functional.normalize(found, dim=-1)
    assert (cosine @ cosine.T - 2 * torch.eye(30)).max() < 0.95  # 0.903 seen: letters alone
    np.testing.assert_allclose(np.linalg.norm(hashed_vectors(["abc", "ä"]), axis=1), 1, rtol=1e-6)
    japanese = shipped_tables("description_ja")["hazumi_da"]
    assert all(any(ord(letter) > 0x3000 for letter in entry.descriptions[0]) for entry in japanese.values())
