import io
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from moiety.vlm.images import Images, absence, decode
from moiety.vlm.problems import shown


def png(colour: tuple[int, ...], mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (3, 2), colour).save(content, "PNG")
    return content.getvalue()


def tar_of(path: Path, members: dict[str, bytes], mode: str = "w:") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.png").write_bytes(png((1, 2, 3)))
    return [folder, tar_of(tmp_path / "b.tar", {"deep/a.png": png((9, 9, 9)), "b.png": png((4, 5, 6))})]


def test_reads_folders_and_tars_in_place_in_the_given_order(sources: list[Path]) -> None:
    assert Images(sources)["deep/a.png"].getpixel((0, 0)) == (1, 2, 3)
    assert Images(sources[::-1])["deep/a.png"].getpixel((0, 0)) == (9, 9, 9)
    assert Images(sources)["b.png"].getpixel((0, 0)) == (4, 5, 6)
    assert "b.png" in Images(sources)
    assert "c.png" not in Images(sources)
    assert "" not in Images(sources)
    assert 3 not in Images(sources)


def test_survives_pickling_and_a_second_look(sources: list[Path]) -> None:
    images = pickle.loads(pickle.dumps(Images(sources)))
    assert [images["b.png"].tobytes() for _ in range(2)] == [Images(sources)["b.png"].tobytes()] * 2


def test_missing_picture_names_where_it_was_sought(sources: list[Path]) -> None:
    with pytest.raises(FileNotFoundError, match=r"picture 'c\.png' is in none of 2 image sources .*folder, .*b\.tar"):
        Images(sources)["c.png"]
    with pytest.raises(FileNotFoundError, match=r"data\.images is empty"):
        Images()["c.png"]


def test_missing_source_and_compressed_tar(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no image folder or tar at .*nowhere"):
        Images([tmp_path / "nowhere"])
    packed = tar_of(tmp_path / "a.tar.gz", {"a.png": png((0, 0, 0))}, "w:gz")
    with pytest.raises(ValueError, match="neither a folder nor an uncompressed tar"):
        Images([packed])


@pytest.mark.parametrize("content", [b"", b"no picture", png((1, 2, 3))[:45]], ids=["empty", "text", "cut"])
def test_undecodable_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"picture 'a\.png' of .* cannot be decoded \({len(content)} bytes\)"):
        Images([tmp_path])["a.png"]


def test_transparency_lies_on_white_and_palettes_become_colours() -> None:
    assert decode(png((10, 20, 30, 0), "RGBA"), "x").getpixel((0, 0)) == (255, 255, 255)
    assert decode(png((10, 20, 30, 255), "RGBA"), "x").getpixel((0, 0)) == (10, 20, 30)
    content = io.BytesIO()
    Image.new("RGB", (3, 2), (10, 20, 30)).quantize(4).save(content, "PNG")
    assert decode(content.getvalue(), "x").getpixel((0, 0)) == (10, 20, 30)


def test_exif_orientation_is_applied() -> None:
    image, content = Image.new("RGB", (3, 2)), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(content, "JPEG", exif=exif)
    assert decode(content.getvalue(), "x").size == (2, 3)


def test_reads_the_real_sets(shared: Path) -> None:
    images = Images([shared / "data/grocery/images-val.tar", shared / "data/nlvr/images-dev.tar"])
    assert images["grocery/val/val_00031.jpg"].size == (128, 128)
    name = next(name for name in images._members[images.sources[1]] if name.endswith(".png"))
    assert images[name].mode == "RGB"
    assert images[name].size == (400, 100)


def test_names_stay_inside_the_given_folders(tmp_path: Path) -> None:
    given, beside, private = (tmp_path / name for name in ("given", "given-too", "private"))
    for number, folder in enumerate((given / "deep", beside, private)):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(png((number, 0, 0)))
    packed = tar_of(tmp_path / "packed.tar", {"../private/b.png": png((7, 0, 0)), "/b.png": png((8, 0, 0))})
    images = Images([given, packed])
    outside = ("../private/a.png", "deep/../../private/a.png", str(private / "a.png"), "../given-too/a.png", "../a.png")
    for name in (*outside, f"{given}/../private/a.png", "/etc/hostname", ".."):
        assert name not in images
        assert absence(name, images) == (
            f"picture {shown(name)} lies outside of the image sources; give the folder that holds it, too"
        )
        with pytest.raises(
            FileNotFoundError, match=r"lies outside of the image sources \(.*given, .*packed\.tar\); give"
        ):
            images[name]
    inside = ("deep/a.png", "deep/../deep/a.png", "../given/deep/a.png", str(given / "deep" / "a.png"), "./deep/a.png")
    assert [images[name].getpixel((0, 0))[0] for name in inside] == [0] * 5
    assert [images[name].getpixel((0, 0))[0] for name in ("../private/b.png", "/b.png")] == [7, 8]  # inside the tar
    assert absence("deep/b.png", images) == absence("b", {}).replace("'b'", "'deep/b.png'")
    both = Images([given, private])
    assert [both[name].getpixel((0, 0))[0] for name in ("../private/a.png", str(private / "a.png"))] == [2, 2]
    assert Images([Path(tmp_path.anchor)])[str(private / "a.png")].getpixel((0, 0))[0] == 2
    (given / "link.png").symlink_to(private / "a.png")
    assert images["link.png"].getpixel((0, 0))[0] == 2


def test_a_relative_source_is_a_folder_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png((1, 0, 0)))
    (tmp_path / "b.png").write_bytes(png((2, 0, 0)))
    monkeypatch.chdir(tmp_path)
    for source in ("pictures", "./pictures", "pictures/../pictures"):
        images = Images([source])
        assert "a.png" in images
        assert str(tmp_path / "pictures" / "a.png") in images
        assert "../b.png" not in images
    assert "../b.png" in Images(["pictures", "."])


@pytest.mark.parametrize(("width", "height"), [(13_300, 13_300), (9_460, 9_460), (30_000, 30_000), (2, 50_000_000)])
def test_huge_pictures_are_refused_before_they_are_decoded(width: int, height: int) -> None:
    content = bytearray(png((0, 0, 0)))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(
        ValueError, match=r"^picture big cannot be decoded \(\d+ bytes\): .*(million that are|exceeds li)"
    ):
        decode(bytes(content), "big")


def test_a_picture_up_to_the_limit_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety.vlm.images.MOST_PIXELS", 6)
    assert decode(png((0, 0, 0)), "small").size == (3, 2)
    monkeypatch.setattr("moiety.vlm.images.MOST_PIXELS", 5)
    with pytest.raises(ValueError, match=r"3 x 2 pixels, more than the 0 million that are read; make it smaller"):
        decode(png((0, 0, 0)), "small")
