"""What is drawn is what the routing says: colours of patches and words, shares, legends; text is never markup."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from moiety.app import views
from moiety.app.session import Reading, Session
from moiety.lens.draw.palette import colours_of
from moiety.lens.draw.tint import ranked
from tests import model_folders
from tests.app.conftest import Ask, new_session


@pytest.fixture
def reading(session: Session, ask: Ask) -> Reading:
    ask("Where is the red circle?")
    assert session.reading is not None
    return session.reading


def hexes(picture: Image.Image, row: int, column: int, grid: tuple[int, int]) -> tuple[int, int, int]:
    """Colour near the upper left corner of a patch, where the first choice is."""
    height, width = picture.height // grid[0], picture.width // grid[1]
    return picture.getpixel((column * width + 8, row * height + 8))


def test_every_patch_has_the_colour_of_its_first_expert(reading: Reading) -> None:
    seen = dataclasses.replace(reading.observation, picture=Image.new("RGB", (32, 32), "white"))
    for layer in seen.layers:
        drawn = views.tinted(seen, layer)
        assert min(drawn.size) >= views.SIDE
        first = ranked(seen.phases["prefill"][layer])[0][seen.is_image, 0].reshape(seen.grid)
        for (row, column), expert in np.ndenumerate(first):
            colour = colours_of(seen.groups)[expert]
            expected = tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))
            np.testing.assert_allclose(hexes(drawn, row, column, seen.grid), expected, atol=2)


def test_shapes_of_the_picture_darken_the_tint(reading: Reading) -> None:
    half = Image.new("RGB", (32, 32), "black")
    half.paste("white", (0, 0, 16, 32))
    drawn = views.tinted(dataclasses.replace(reading.observation, picture=half), reading.observation.layers[0])
    values = np.asarray(drawn.convert("L"), dtype=float)
    assert values[:, : drawn.width // 2 - 30].mean() > values[:, drawn.width // 2 + 30 :].mean()


def test_a_weaker_tint_shows_more_of_the_picture_and_none_shows_it_alone(reading: Reading) -> None:
    seen = reading.observation
    picture = seen.picture.convert("RGB")
    away = []
    for strength in (0.0, 0.5, 1.0):
        drawn = views.tinted(seen, seen.layers[0], strength)
        alone = picture.resize(drawn.size, Image.Resampling.BILINEAR)
        away.append(np.abs(np.asarray(drawn, dtype=float) - np.asarray(alone, dtype=float)).mean())
    assert away[0] == 0
    np.testing.assert_allclose(away[1], away[2] / 2, rtol=0.02)
    weak, strong = (views.routing_html(reading, seen.layers[0], strength) for strength in (0.2, 1.0))
    assert weak != strong


def test_without_a_grid_tokens_stand_in_reading_order(reading: Reading) -> None:
    seen = dataclasses.replace(reading.observation, grid=None, note="pictures go in as pieces")
    layer = seen.layers[0]
    drawn = views.tinted(seen, layer)
    step = drawn.width // views.STRIP
    first = ranked(seen.phases["prefill"][layer])[0][seen.is_image, 0]
    for place, expert in enumerate(first):
        colour = colours_of(seen.groups)[expert]
        expected = tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))
        np.testing.assert_allclose(drawn.getpixel((place * step + 3, 3)), expected, atol=2)
    assert drawn.getpixel((step * len(first) + step // 2, 3)) == (255, 255, 255)
    page = views.routing_html(dataclasses.replace(reading, observation=seen), layer)
    assert "pictures go in as pieces." in page


def test_layers_differ_and_name_themselves(reading: Reading) -> None:
    pages = {layer: views.routing_html(reading, layer) for layer in reading.observation.layers}
    assert len(set(pages.values())) == len(pages) > 1
    for layer, page in pages.items():
        assert f'data-layer="{layer}"' in page
        assert f'<p class="what">Layer {layer} · “Where is the red circle?” → “' in page
        (inside,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
        assert Image.open(io.BytesIO(base64.b64decode(inside))).width >= views.SIDE
        assert not re.search(r"https?://|<script|<link|url\(", page)
    with pytest.raises(ValueError, match=r"layer 0 is not sparse; sparse layers: \[1, 3\]"):
        views.routing_html(reading, 0)


def test_words_have_the_colour_of_their_expert_and_say_weights(reading: Reading) -> None:
    seen, layer = reading.observation, reading.observation.layers[0]
    page = views.words_html(seen, layer, "prefill")
    words = re.findall(r'<span class="word" style="background:(#\w+);.*?border-color:(#\w+)" title="(.*?)">', page)
    index, weights = ranked(seen.phases["prefill"][layer])
    text = ~seen.is_image
    assert [word[0] for word in words] == [colours_of(seen.groups)[expert] for expert in index[text, 0]]
    assert [word[1] for word in words] == [colours_of(seen.groups)[expert] for expert in index[text, 1]]
    assert words[0][2].endswith(f"{100 * weights[text][0, 1]:.0f} %")
    assert page.count('class="patches"') == 1
    assert "16 patches of the picture" in page
    answer = views.words_html(seen, layer, "decode")
    assert answer.count('class="word"') == len(seen.generated) == 3


def test_bars_are_the_load_shares(reading: Reading) -> None:
    page = views.loads_html(reading, 1)
    heads = re.findall(r'<h4>(\w+) <span class="quiet">· (\d+ tokens?)<', page)
    num_words = len(reading.observation.words) - 16
    assert heads == [("picture", "16 tokens"), ("words", f"{num_words} tokens"), ("answer", "3 tokens")]
    bars = page.split('class="bar"')[1:]
    for bar in bars:
        widths = [float(width) for width in re.findall(r"width:([\d.]+)%", bar)]
        assert sum(widths) == pytest.approx(100, abs=0.03)
    share = reading.numbers.of("prefill", "load_share")[0, reading.observation.groups.names.index("vision")]
    assert f"width:{100 * share[0]:.2f}%" in bars[0]


def test_the_legend_says_who_reads_what(reading: Reading) -> None:
    legend = views.legend_html(reading.observation.groups)
    texts = re.findall(r'class="expert"[^>]*>([^<]+)<', legend)
    assert texts == ["0 vision · picture only", "1 inter · everything", "2 inter · everything", "3 text · words only"]


def test_markup_in_words_and_notes_stays_text(reading: Reading) -> None:
    words = ["<b>&\n"] * len(reading.observation.words)
    page = views.words_html(dataclasses.replace(reading.observation, words=words), 1, "prefill")
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;↵" in page
    assert views.note_html("<b>", is_error=True) == '<span class="error" role="alert">&lt;b&gt;</span>'
    assert views.note_html("fine", is_error=False) == '<span class="quiet" role="status">fine</span>'


def test_before_the_first_answer(reading: Reading) -> None:
    assert "0 vision · picture only" in views.waiting_html(reading.observation.groups)
    assert "This model is dense" in views.waiting_html(None)


@pytest.mark.parametrize("scheme", ["vanilla", "modality", "always_on"])
def test_every_kind_of_scheme_is_drawn(scheme: str) -> None:
    session = new_session(model_folders.sparse_folder(scheme))
    list(session.ask(str(model_folders.picture_file()), "Where?", 2))
    page = views.routing_html(session.reading, 1)
    assert ("The underline shows the second choice" in page) == (scheme != "modality")
