"""Pictures that stand inside a row are read as files would be, and named in a few letters."""

import base64
import io
import pickle
from typing import Any

import pytest
from PIL import Image

from moiety.vlm.check import check_rows
from moiety.vlm.data import Encoder
from moiety.vlm.images import Images
from moiety.vlm.inline_pictures import InlinePicture, picture_in
from moiety.vlm.rows import merge_rows, parse_row
from tests.conversations import entry, row, shared_processor


def content(format_: str = "PNG", colour: str = "red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 12), colour).save(out, format_)
    return out.getvalue()


def text_of(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_formats_in_every_spelling(format_: str) -> None:
    picture = content(format_)
    plain = text_of(picture)
    wrapped = "\n".join(plain[start : start + 76] for start in range(0, len(plain), 76))
    spellings: list[Any] = [
        picture,
        plain,
        wrapped,
        plain.rstrip("="),
        base64.urlsafe_b64encode(picture).decode(),
        f"data:image/{format_.lower()};base64,{plain}",
        f"DATA:;charset=utf-8;base64,{plain}",
        {"bytes": picture, "path": None},
        {"bytes": plain, "path": "x.png"},
    ]
    for given in spellings:
        found = picture_in(given)
        assert isinstance(found, InlinePicture)
        assert found.content == picture
        assert len(found) <= 50
        assert Images([])[found].size == (20, 12)
        assert picture_in(found.url).rpartition("#")[2] == found.rpartition("#")[2]


def test_names_stay_names() -> None:
    for name in ("a.png", "train/" + "a" * 80 + ".jpg", "/9j/short", "a" * 80, "QmFzZTY0" * 10):
        assert type(picture_in(name)) is str
    assert picture_in({"bytes": None, "path": "a.png"}) == "a.png"
    assert picture_in("file:///data/a%20b.png") == "/data/a b.png"


def test_equal_pictures_have_equal_names_and_reach_other_processes() -> None:
    one, two, other = (picture_in(text_of(content(colour=colour))) for colour in ("red", "red", "blue"))
    assert one == two != other
    again = pickle.loads(pickle.dumps(one))
    assert (again, again.content) == (one, content())
    rows = [row("<image>q", "a", image=text_of(content()), id=str(number)) for number in range(2)]
    assert len(merge_rows(rows)) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("data:image/png,abc", "picture 'data:image/png,abc': a data URL must begin with data:image/png;base64,"),
        ("data:video/mp4;base64,AAAA", "a data URL must begin with data:image/png;base64,"),
        ("data:image/png;base64,", "there is no picture after the comma; encode the file again"),
        ("data:image/png;base64,!!!!", "its base64 is broken"),
        (text_of(content())[:60] + "*" * 40, r"picture '.{40}…': its base64 is broken \(.*\); encode the file again"),
        ({"width": 3}, r"a picture must be a name, a data URL, base64 text or \{bytes, path\}, got \{'width': 3\}"),
        ({"bytes": b"", "path": ""}, "a picture must be a name"),
    ],
)
def test_what_is_no_picture_is_told_in_a_few_letters(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        picture_in(given)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="'image'"):
        parse_row(entry("<image>q", "a", image=given))


def test_a_picture_that_is_cut_belongs_to_its_row() -> None:
    whole, cut = text_of(content("JPEG")), text_of(content("JPEG"))[:200]
    rows = [row("<image>q", "a", image=given, id=str(number)) for number, given in enumerate((cut, whole))]
    report = check_rows(rows, Encoder(shared_processor(), Images([]), 60))
    assert [found.id for found in report.good] == ["1"]
    assert cut[:40] in str(report.problems[0])
    assert cut[:41] not in str(report.problems[0])


def test_content_parts_may_hold_pictures() -> None:
    url = f"data:image/png;base64,{text_of(content())}"
    for part in (
        {"type": "image_url", "image_url": {"url": url, "detail": "auto"}},
        {"type": "image_url", "image_url": url},
        {"type": "image", "image": {"bytes": content(), "path": None}, "text": None},
        {"type": "image", "url": url},
    ):
        messages = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "a"}]
        found = parse_row({"messages": messages})
        assert isinstance(found.images[0], InlinePicture)
        assert (found.num_marks, found.images[0].content) == (1, content())
