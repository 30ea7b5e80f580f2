"""Hashes of weights and pictures: read again only where size or times differ, and never where nothing is there."""

import json
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from moiety.recipe.recipe import DataSettings
from moiety.train import fingerprints
from moiety.train.fingerprints import ABSENT, MEMORY, FileDigests, base_digests, digest_of, picture_digests
from tests.train.toy import row, write_lines


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files whose content was read, in order."""
    names: list[str] = []
    monkeypatch.setattr(fingerprints, "digest_of", lambda path: (names.append(path.name), digest_of(path))[1])
    return names


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Two pictures that rows name, one that none names, and a tar."""
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    for name, level in (("a.png", 10), ("deep/b.png", 200), ("other.png", 90)):
        Image.new("L", (8, 8), level).save(tmp_path / "pictures" / name)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path / "pictures" / "a.png", "c.png")
    rows = [row("1", "a.png", "?", "x"), row("2", "deep/b.png", "?", "y"), row("3", None, "?", "z")]
    write_lines(tmp_path / "rows.jsonl", [*rows, row("4", "gone.png", "?", "w")])
    return tmp_path


def settings(world: Path, *images: str) -> DataSettings:
    return DataSettings(root=str(world), images=list(images or ("pictures", "all.tar")))


def of(world: Path, *images: str) -> dict[str, str]:
    return picture_digests(settings(world, *images), ["rows.jsonl"], FileDigests(world))


def test_a_file_is_read_once_and_again_only_when_it_may_differ(world: Path, read: list[str]) -> None:
    path = world / "pictures" / "a.png"
    first = FileDigests(world).of([path, world / "nowhere"])
    assert first == {path: digest_of(path), world / "nowhere": ABSENT}
    assert FileDigests(world).of([path])[path] == first[path]
    assert read == ["a.png"]
    os.utime(path)
    assert FileDigests(world).of([path])[path] == first[path]
    assert read == ["a.png", "a.png"]


def test_other_content_of_the_same_size_and_time_is_seen(world: Path) -> None:
    path = world / "pictures" / "a.png"
    before, times = FileDigests(world).of([path]), path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert FileDigests(world).of([path]) != before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}'])
def test_a_lost_or_damaged_memory_costs_time_alone(world: Path, text: str) -> None:
    before = of(world)
    (world / MEMORY).write_text(text)
    assert of(world) == before


def test_nothing_is_written_where_there_is_no_folder(world: Path) -> None:
    FileDigests(world / "runs" / "new").of([world / "all.tar"])
    assert not (world / "runs").exists()


def test_pictures_count_where_rows_name_them(world: Path) -> None:
    before = of(world)
    assert list(before) == ["pictures", "all.tar"]
    Image.new("L", (8, 8), 91).save(world / "pictures" / "other.png")
    assert of(world) == before, "no row names it"
    Image.new("L", (8, 8), 201).save(world / "pictures" / "deep" / "b.png")
    changed = of(world)
    assert changed["pictures"] != before["pictures"]
    assert changed["all.tar"] == before["all.tar"]
    (world / "pictures" / "a.png").rename(world / "pictures" / "aa.png")
    assert of(world)["pictures"] not in (before["pictures"], changed["pictures"])
    with tarfile.open(world / "all.tar", "a") as tar:
        tar.add(world / "rows.jsonl", "d.png")
    assert of(world)["all.tar"] != before["all.tar"]


@pytest.mark.parametrize("name", ["A" * 5000, "a/" * 3000 + "b.png", "nul\0.png"])
def test_a_name_that_no_file_can_have_is_of_no_picture(world: Path, name: str) -> None:
    before = of(world, "pictures")
    with (world / "rows.jsonl").open("a") as file:
        file.write(json.dumps(row("5", name, "?", "v")) + "\n")
    assert of(world, "pictures") == before


def test_a_whole_path_counts_as_well(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    write_lines(world / "rows.jsonl", [row("1", str(world / "pictures" / "other.png"), "?", "x")])
    before = of(Path(), "pictures")
    Image.new("L", (8, 8), 91).save(world / "pictures" / "other.png")
    assert of(Path(), "pictures") != before


def test_rows_that_changed_are_read_again(world: Path) -> None:
    before = of(world, "pictures")
    write_lines(world / "rows.jsonl", [row("1", "a.png", "?", "x"), row("5", "other.png", "?", "x")])
    assert of(world, "pictures") != before


def test_a_base_is_its_weights_and_what_its_processor_reads(tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin", "tokenizer.json", "README.md", "training_args.bin"):
        (tmp_path / name).write_text(name)
    assert list(base_digests(tmp_path, FileDigests(tmp_path))) == ["model.safetensors", "tokenizer.json"]
    (tmp_path / "model.safetensors").unlink()
    assert list(base_digests(tmp_path, FileDigests(tmp_path))) == ["pytorch_model.bin", "tokenizer.json"]
    assert base_digests(tmp_path / "nowhere", FileDigests(tmp_path)) == {}
