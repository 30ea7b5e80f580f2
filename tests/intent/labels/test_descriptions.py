"""Tables of label descriptions: every way to write one, what is refused, and their vectors (P21)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moiety.intent.data.encoders import hashed_vectors
from moiety.intent.labels.descriptions import (
    descriptions_for,
    encode_descriptions,
    load_table,
    read_table,
    shipped_tables,
)


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
        ("a.json", b'{"a": "x", "a": "y"}', r"a is given twice"),
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


def test_label_tables(tmp_path: Path) -> None:
    table = read_table({"labels": [{"label": "a", "description": ["One.", "Two."], "cues": "nod"}]}, "t")
    assert table["a"].texts("with_cues") == ["a. One. nod.", "a. Two. nod."]
    assert table["a"].texts("name_only") == ["a"]
    assert table["a"].texts("description_only") == ["One.", "Two."]
    for tree, message in (
        ([{"description": "x"}], "entry 1 has no label"),
        ([{"label": "a", "description": " "}], "label 'a' has no description"),
        ([{"label": "a", "description": "x"}] * 2, "label 'a' is given twice"),
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
