"""Files and pictures of a folder, found by name wherever they lie, in archives too."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.files.release import Release, ReleasePictures, members_of
from tests.evaluate.benchmarks.made_options import picture, png


def write(path: Path, text: str = "{}") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def packed(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:" if path.suffix == ".tar" else "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


# -- files -------------------------------------------------------------------------------------------------------------
def test_a_pattern_names_the_end_of_a_path(tmp_path: Path) -> None:
    for name in ("deep/er/a.json", "deep/a.json", "deep/b.JSON", "x_a.json", "deep/c.json.gz"):
        write(tmp_path / name)
    release = Release(tmp_path)
    assert release.find("a.json") == tmp_path / "deep/a.json"  # in the fewest folders
    assert release.find("er/a.json") == tmp_path / "deep/er/a.json"
    assert [path.name for path in release.all("deep/{a,b}.json")] == ["a.json", "b.JSON"]
    assert [path.name for path in release.all("*.json")] == ["x_a.json", "a.json", "b.JSON", "c.json.gz", "a.json"]
    assert release.find("./x_a.json") == tmp_path / "x_a.json"
    assert release.find("./a.json", "b.json") == tmp_path / "deep/b.JSON"
    assert not release.has("./a.json", "none.json")
    with pytest.raises(FileNotFoundError, match=r"no none.json or deep/x.json in "):
        release.one("none.json", "deep/x.json")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        Release(tmp_path / "nowhere")


def test_two_files_that_differ_are_not_chosen_between(tmp_path: Path) -> None:
    write(tmp_path / "old/a.json", "[1]")
    write(tmp_path / "new/a.json", "[1]")
    assert Release(tmp_path).one("a.json") == tmp_path / "new/a.json"
    write(tmp_path / "old/a.json", "[2]")
    with pytest.raises(ValueError, match=r"new/a.json and .*old/a.json differ and either could be meant; leave one of"):
        Release(tmp_path).one("a.json")
    write(tmp_path / "a.json", "[3]")
    assert Release(tmp_path).one("a.json") == tmp_path / "a.json"


@pytest.mark.parametrize("name", ["q.zip", "q.tar", "q.tar.gz", "below/q.tgz"])
def test_archives_are_read_in_place_where_nothing_else_is(name: str, tmp_path: Path) -> None:
    junk = {"__MACOSX/v/._a.json": b"x", "v/._a.json": b"x"}
    packed(tmp_path / name, {"v/a.json": b'{"from": "archive"}', "v/p.png": png(1), **junk})
    release = Release(tmp_path)
    found = release.one("v/a.json")
    assert (found.name, found.suffix, str(found)) == ("a.json", ".json", f"{tmp_path / name}:v/a.json")
    assert read_json(found) == {"from": "archive"}
    assert release.all("*.json") == [found]
    write(tmp_path / "a.json", "[1]")
    assert read_json(Release(tmp_path).one("a.json")) == [1]


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    for name in ("a.zip", "a.tar.gz"):
        path = write(tmp_path / name, "PK no archive")
        with pytest.raises(ValueError, match=rf"{name} is not a complete archive \(.*\); fetch it again or remove it"):
            members_of(path)
    release = Release(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no q.json in .*; .*a.tar.gz is not a complete archive .*; .*a.zip is not a comp"
    ):
        release.one("q.json")
    write(tmp_path / "q.json")
    assert Release(tmp_path).one("q.json") == tmp_path / "q.json"


def test_links_are_followed_and_a_circle_of_them_ends(tmp_path: Path) -> None:
    write(tmp_path / "blobs/1234", '{"a": 1}')
    (tmp_path / "pope/snapshots/x/data").mkdir(parents=True)
    os.symlink(tmp_path / "blobs/1234", tmp_path / "pope/snapshots/x/data/a.json")
    os.symlink(tmp_path / "pope", tmp_path / "pope/snapshots/again")
    os.symlink(tmp_path / "gone", tmp_path / "pope/broken.json")
    write(tmp_path / "pope/.cache/a.json")
    release = Release(tmp_path / "pope")
    assert read_json(release.one("data/a.json")) == {"a": 1}
    assert len(release.all("*.json")) == 1


# -- pictures ----------------------------------------------------------------------------------------------------------
def test_pictures_lie_in_the_folder_or_in_one_that_is_named(tmp_path: Path) -> None:
    for shade, name in enumerate(("top.png", "d/images/a.png", "test/png/1.png", "train/png/1.png", "noise/b.png")):
        picture(tmp_path / name, 10 * shade)
    pictures = ReleasePictures(Release(tmp_path), ("test/png", "images", "png"))
    red = [pictures[name].getpixel((0, 0))[0] for name in ("top.png", "a.png", "1.png", "train/png/1.png")]  # type: ignore[index]
    assert red == [0, 10, 20, 30]
    assert [name in pictures for name in ("a.png", "b.png", "", 3)] == [True, False, False, False]
    with pytest.raises(
        FileNotFoundError, match=r"picture 'b.png' is not in .*; looked there, in test/png/, in images/"
    ):
        pictures["b.png"]


@pytest.mark.parametrize("name", ["val2014.zip", "val2014.tar", "pack/pictures.zip"])
def test_pictures_in_archives_are_read_in_place(name: str, tmp_path: Path) -> None:
    packed(
        tmp_path / name, {"x/val2014/1.png": png(7), "flat": png(9), "x/test/2/image.png": png(8), "x/note.txt": b""}
    )
    pictures = ReleasePictures(Release(tmp_path), ("val2014", "test"))
    assert [pictures[key].size for key in ("1.png", "flat", "2/image.png", "x/val2014/1.png")] == [(16, 16)] * 4
    assert [key in pictures for key in ("image.png", "x/note.txt")] == [False, False]


def test_a_compressed_tar_of_pictures_is_to_be_unpacked(tmp_path: Path) -> None:
    packed(tmp_path / "images.tar.gz", {"images/1.png": png(1)})
    with pytest.raises(FileNotFoundError, match=r"'1.png' is not in .*; unpack images.tar.gz, it cannot be read in"):
        ReleasePictures(Release(tmp_path), ("images",))["1.png"]
