"""Pages that need nothing beside them: what is drawn lightly, folded, wrapped and escaped."""

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from moiety.records.pages import (
    document,
    html_clip,
    html_contrasts,
    html_fold,
    html_table,
    listed,
    opening,
    report,
    stylesheet,
)


class Whole(HTMLParser):
    """Checks that every element that is opened is closed."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_document_is_whole_and_lets_nothing_in() -> None:
    page = document("a <b>", [opening("t", "m", "r", ""), html_fold("more & more", html_table([["h"], ["c"]]))])
    parser = Whole()
    parser.feed(page)
    assert parser.open == []
    assert "<title>a &lt;b&gt; · moiety</title>" in page
    assert "default-src 'none'" in page
    assert page.count('<p class="') == 2, "a sentence that is empty is left out"
    assert "more &amp; more" in page


def test_pages_have_colours_for_light_and_dark() -> None:
    palette = stylesheet("palette.css")
    light, dark = palette.split("@media (prefers-color-scheme: dark)")
    names = [{line.split(":")[0].strip() for line in half.split(";") if "--" in line} for half in (light, dark)]
    assert "color-scheme: light dark" in light
    assert {name.split()[-1] for name in names[0]} >= {"--ground", "--ink", "--card", "--soft", "--line"}
    for name in ("--ground", "--card", "--ink", "--soft", "--line", "--accent", "--shade"):
        assert light.count(f"{name}:") == dark.count(f"{name}:") == 1


@pytest.mark.parametrize(
    ("cell", "drawn"),
    [
        ("77.3 [75.1, 79.4]", "77.3 <small>[75.1, 79.4]</small>"),
        ("70.50 [69.00, 72.00]", "70.50 <small>[69.00, 72.00]</small>"),
        ("modality (fewer activated parameters)", "modality <small>(fewer activated parameters)</small>"),
        ("[75.1, 79.4]", "[75.1, 79.4]"),
        ("a < b", "a &lt; b"),
        ("", ""),
    ],
)
def test_an_interval_stands_below_its_number(cell: str, drawn: str) -> None:
    assert f">{drawn}</td>" in html_table([["name", "score"], ["x", cell]])


def test_words_stand_left_sentences_are_wrapped_and_controls_are_light() -> None:
    long = "a sentence that is much longer than any number would be"
    page = html_table([["name", "verdict", "score"], ["x, blank image", long, "1"]], ["blank image"], num_texts=2)
    assert '<tr class=control><td class="word">x, blank image</td><td class="word long">a sentence' in page
    assert page.endswith("<td>1</td></tr>\n</tbody></table></div>")


def test_a_clip_is_inside_the_page(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"clip")
    page = html_clip("Praise <now>", path)
    assert f'src="data:video/mp4;base64,{base64.b64encode(b"clip").decode()}"' in page
    assert "<figcaption>Praise &lt;now&gt;</figcaption>" in page


def test_lists_of_no_and_two_names() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a and b"


def test_a_report_begins_with_its_sentences_and_ends_with_its_settings() -> None:
    page = report("A <title>", ("done", "out", ""), ["<p>section</p>"], {"key": "<value>"})
    parts = [
        "<h1>A &lt;title&gt;</h1>",
        '<p class="made">done',
        '<p class="result">out',
        "<p>section",
        "How it was made",
    ]
    places = [page.index(part) for part in [*parts, "&lt;value&gt;"]]
    assert places == sorted(places)
    assert 'class="limits"' not in page
    assert page.rindex("<details>", 0, places[-1]) > page.index("How it was made")


def test_contrasts_are_written_out_with_their_weights() -> None:
    lines = [["contrast", "type", "verdict", "numbers"], ["gain", "t", "a beats b", "+1.0 points"]]
    heading, note, answers = html_contrasts("By the sign-flip test.", {"gain": {"a": 1.0, "b": -0.5}}, lines)
    assert heading == "<h2>What the recipe asks</h2>"
    assert note == '<p class="note">By the sign-flip test. gain: +1 × a, -0.5 × b.</p>'
    assert "a beats b" in answers
    assert html_contrasts("", {}, lines[:1]) == []
