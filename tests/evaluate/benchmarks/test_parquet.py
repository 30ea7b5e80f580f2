"""Tables of the hub: pictures are named and not read, found again in any order, absent ones are absent."""

from pathlib import Path

import pytest

from moiety.evaluate.benchmarks.files import parquet as module
from moiety.evaluate.benchmarks.files.parquet import HubTable, ParquetPictures
from tests.evaluate.benchmarks.made_layouts import table
from tests.evaluate.benchmarks.made_options import png

arrow = pytest.importorskip("pyarrow")


def shown(shade: int, path: str | None = None) -> dict[str, object]:
    return {"bytes": png(shade), "path": path}


def red(pictures: object, name: str) -> int:
    return int(pictures[name].getpixel((0, 0))[0])  # type: ignore[index]


def test_pictures_are_named_by_file_row_and_column(tmp_path: Path) -> None:
    rows = [{"id": place, "image": shown(place, f"{place}.png")} for place in range(5)]
    rows[2]["image"] = None
    rows[3]["image"] = {"bytes": None, "path": None}
    table(tmp_path / "a.parquet", rows)
    found = HubTable({"d/a#1.parquet": tmp_path / "a.parquet"})
    entries = [entry for _, _, entry in found.rows(same=["image"])]
    names = [entry["image"] for entry in entries]
    assert names == ["d/a#1.parquet#0#image", "d/a#1.parquet#1#image", None, None, "d/a#1.parquet#4#image"]
    assert [entry["image#path"] for entry in entries] == ["0.png", "1.png", None, None, "4.png"]
    assert [entry["image#same"] is None for entry in entries] == [False, False, True, True, False]
    assert len({entry["image#same"] for entry in entries}) == 4
    pictures = found.pictures()
    assert [red(pictures, name) for name in reversed(names) if name] == [4, 1, 0]
    absent = ("d/a#1.parquet#2#image", "d/a#1.parquet#9#image", "d/a#1.parquet#0#other", "b#0#image", "x", 3)
    assert not any(name in pictures for name in absent)
    with pytest.raises(FileNotFoundError, match=r"picture 'd/a#1.parquet#2#image': row 2 of .* has none in column 'im"):
        pictures["d/a#1.parquet#2#image"]
    with pytest.raises(FileNotFoundError, match=r"picture 'x' is in none of 1 parquet files"):
        pictures["x"]
    named = found.pictures({"a.png": "d/a#1.parquet#4#image"})
    assert ("a.png" in named, "b.png" in named, red(named, "a.png")) == (True, False, 4)


def test_lists_of_pictures_and_plain_bytes_are_pictures(tmp_path: Path) -> None:
    rows = [{"images": [shown(1), shown(2)], "raw": png(3)}, {"images": [], "raw": None}, {"images": None, "raw": None}]
    table(tmp_path / "a.parquet", rows)
    found = HubTable({"a": tmp_path / "a.parquet"})
    entries = [entry for _, _, entry in found.rows()]
    assert [entry["images"] for entry in entries] == [["a#0#images#0", "a#0#images#1"], [], []]
    assert [entry["raw"] for entry in entries] == ["a#0#raw", None, None]
    pictures = found.pictures()
    assert [red(pictures, name) for name in ("a#0#images#1", "a#0#images#0", "a#0#raw")] == [2, 1, 3]
    assert "a#0#images#2" not in pictures


def test_pictures_that_are_surely_there_are_not_read_for_their_names(tmp_path: Path) -> None:
    rows = [{"kept": {"path": "x"}, "image": shown(place), "other": None if place else shown(1)} for place in range(3)]
    table(tmp_path / "a.parquet", rows)
    batches = list(module._light_batches(tmp_path / "a.parquet", ()))
    assert all(light == {"image"} for _, light in batches)
    assert {field.name for field in batches[0][0].schema.field("image").type} == {"path"}
    entries = [entry for _, _, entry in HubTable({"a": tmp_path / "a.parquet"}).rows()]
    assert [(entry["kept"], entry["image"], entry["other"]) for entry in entries] == [
        ({"path": "x"}, f"a#{place}#image", None if place else "a#0#other") for place in range(3)
    ]


def test_only_so_much_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(tmp_path / "a.parquet", [{"image": shown(place)} for place in range(6)])
    monkeypatch.setattr(module, "_HELD_BYTES", 1)
    pictures = ParquetPictures({"a": tmp_path / "a.parquet"})
    assert [red(pictures, f"a#{row}#image") for row in (5, 0, 3, 1, 5)] == [5, 0, 3, 1, 5]
    assert len(pictures._held) == 1
