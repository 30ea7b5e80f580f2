"""The page holds everything inside, asks nobody for anything, and lets no text become markup."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moiety.groups import ExpertGroup
from moiety.lens import LensReport, SavedTrace, inspect_beside, inspect_traces
from moiety.lens.draw.charts import draw_depth
from moiety.lens.draw.coselection import draw_co_selection
from moiety.lens.draw.figure import Export, exporting
from moiety.lens.numbers import RoutingNumbers
from moiety.lens.page import data as page_data
from moiety.lens.page.data import page_tree
from moiety.lens.page.interactive import SCRIPTS, write_report
from moiety.vlm.model import load
from tests import model_folders
from tests.lens.trace import traces


class Elements(HTMLParser):
    """Elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts.append(data)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> SavedTrace:
    return traces.traced(traces.sparse(), tmp_path_factory.mktemp("left") / "t.safetensors")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> SavedTrace:
    return traces.traced(traces.deep(), tmp_path_factory.mktemp("right") / "t.safetensors")


def tree_of(page: Path) -> dict[str, Any]:
    """The data as a browser finds it: the text of the first script element."""
    tree: dict[str, Any] = json.loads(Elements(page.read_text()).scripts[0])
    return tree


def test_the_page_needs_nothing_else(left: SavedTrace, tmp_path: Path) -> None:
    text = write_report(tmp_path / "index.html", [left]).read_text()
    elements = Elements(text)
    assert {tag for tag, _ in elements.found} & {"link", "iframe", "object", "embed", "base", "img"} == set()
    for tag, attributes in elements.found:
        assert not {"src", "href", "action", "onerror", "onload"} & set(attributes), (tag, attributes)
    assert [attributes.get("type") for tag, attributes in elements.found if tag == "script"] == [
        "application/json", "module",
    ]  # fmt: skip
    addresses = set(re.findall(r"https?://[^\"'\s]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of a kind of element, asked of nobody"
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon|\bimport\b[ (]", text)
    policy = next(attributes["content"] for tag, attributes in elements.found if "http-equiv" in attributes)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_no_text_becomes_markup(left: SavedTrace, tmp_path: Path) -> None:
    hostile = replace(left, model=traces.HOSTILE, scheme=traces.HOSTILE)
    page = write_report(tmp_path / "index.html", [hostile])
    text = page.read_text()
    assert "onerror=alert" in text, "the question is there"
    assert "<img src=x" not in text
    assert not re.search("[\u2028\u2029]", text[text.index('id="data"') :])
    model = tree_of(page)["models"][0]
    assert model["questions"][2]["question"] == traces.HOSTILE
    assert "".join(model["questions"][2]["words"]).find("onerror=alert(1)>") > 0
    assert len(Elements(text).scripts) == 2


def test_scripts_write_no_markup() -> None:
    web = Path(page_data.__file__).parent / "web"
    for script in web.glob("*.js"):
        text = script.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
        assert text.count("\n") <= 350
    assert {script.name for script in web.glob("*.js")} == set(SCRIPTS)


def test_the_data_are_the_numbers_of_the_trace(left: SavedTrace, tmp_path: Path) -> None:
    model = tree_of(write_report(tmp_path / "index.html", [left]))["models"][0]
    numbers = left.numbers()
    for phase in ("prefill", "decode"):
        total = model["totals"][phase]
        for layer, by_group in enumerate(total["load"]):
            for group, shares in enumerate(by_group):
                expected = 1 if total["tokens"][layer][group] else 0
                assert sum(shares) == pytest.approx(expected, abs=1e-4)
        np.testing.assert_allclose(total["load"], numbers.of(phase, "load_share"), atol=1e-5)
        np.testing.assert_allclose(total["together"], numbers.of(phase, "co_select"), atol=1e-5)
        np.testing.assert_allclose(total["inter"], numbers.of(phase, "inter_share"), atol=1e-5)
        assert total["tokens"] == numbers.of(phase, "tokens").tolist()
    assert (model["layers"], model["numLayers"], model["numQuestions"]) == ([1, 3], 4, 4)
    assert [expert["label"] for expert in model["experts"]] == ["0 vision", "1 inter", "2 inter", "3 text"]


def test_decisions_are_packed_as_they_were(left: SavedTrace, tmp_path: Path) -> None:
    found = tree_of(write_report(tmp_path / "index.html", [left]))["models"][0]["questions"]
    for question, traced in zip(found, left.questions, strict=True):
        part = question["phases"]["prefill"]
        index = np.frombuffer(base64.b64decode(part["index"]), "<u2")
        assert np.array_equal(index.reshape(traced.phases["prefill"].index.shape), traced.phases["prefill"].index)
        weights = np.frombuffer(base64.b64decode(part["weights"]), np.uint8) / 255
        np.testing.assert_allclose(weights, traced.phases["prefill"].weights.ravel(), atol=1 / 500)
        assert base64.b64decode(question["pictures"][0]["src"]) == traced.pictures[0].png
        assert question["pictures"][0]["grid"] == [4, 4]


def test_two_models_stand_side_by_side(left: SavedTrace, right: SavedTrace, tmp_path: Path) -> None:
    one, other = tree_of(write_report(tmp_path / "index.html", [left, right]))["models"]
    assert (one["layers"], other["layers"]) == ([1, 3], [0, 1, 2, 3])
    assert (len(one["experts"]), len(other["experts"])) == (4, 6)
    assert [found["question"] for found in one["questions"]] == [found["question"] for found in other["questions"]]


def test_only_common_questions_stand_side_by_side(left: SavedTrace, right: SavedTrace) -> None:
    fewer = replace(right, questions=right.questions[2:0:-1])
    tree = page_tree([left, fewer])
    for model in tree["models"]:
        assert [question["id"] for question in model["questions"]] == ["r1", "r2"]
    assert tree["note"] == (
        "This page holds 2 of 4 questions, the first ones; numbers of all questions include every one of them."
    )  # fmt: skip
    renamed = replace(right, questions=[replace(question, id="x" + question.id) for question in right.questions])
    with pytest.raises(
        ValueError, match=r"no question in common: one keeps 'r0', 'r1', 'r2' …, the other 'xr0'.*let both"
    ):
        page_tree([left, renamed])
    with pytest.raises(ValueError, match="the trace keeps no question; write it with --trace-limit 1 or more"):
        page_tree([replace(left, questions=[])])


def test_a_page_has_a_size_and_says_what_is_left_out(left: SavedTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page_tree([left])["note"] == ""
    monkeypatch.setattr(page_data, "LARGEST_PAGE", 1.5 * page_data._size(page_data._question(left.questions[0])))
    tree = page_tree([replace(left, num_questions=5000)])
    assert len(tree["models"][0]["questions"]) == 1
    assert tree["note"] == (
        "This page holds 1 of 5,000 questions, the first ones; the trace keeps 4, and `moiety inspect --trace FILE "
        "--only ID` shows any of them; numbers of all questions include every one of them."
    )
    monkeypatch.setattr(page_data, "LARGEST_PAGE", 1)
    assert len(page_tree([left])["models"][0]["questions"]) == 1, "one question is always shown"


def test_questions_can_be_chosen(left: SavedTrace) -> None:
    tree = page_tree([left], only=["r3"])
    assert [question["id"] for question in tree["models"][0]["questions"]] == ["r3"]
    assert "the chosen ones" in tree["note"]
    with pytest.raises(ValueError, match="no question 'x' in the trace; it keeps those of 'r0', 'r1', 'r2', 'r3'"):
        page_tree([left], only=["r3", "x"])


def test_a_folder_stays_private_and_a_hub_id_is_whole(left: SavedTrace) -> None:
    named = replace(left, model="/somebody/secret/runs/moiie/tune")
    assert page_tree([named])["models"][0]["name"] == "moiie/tune"
    assert page_tree([replace(left, model="org/name")])["models"][0]["name"] == "org/name"


# -- static pictures ---------------------------------------------------------------------------------------------------
def test_charts_of_a_trace_are_written_for_papers(left: SavedTrace, tmp_path: Path) -> None:
    with exporting(Export("svg", 40)):
        page, *charts = inspect_traces([left, left], tmp_path)
    assert page == tmp_path / "index.html"
    assert {str(path.relative_to(tmp_path)) for path in charts} == {
        *("shares.png", "depth.png", "coselection.png"),
        *("beside/shares.png", "beside/depth.png", "beside/coselection.png"),
    }
    for path in charts:
        assert "layer" in path.with_suffix(".svg").read_text(), "text stays text"
    with Image.open(tmp_path / "depth.png") as picture:
        assert picture.size == (9 * 40, 3.2 * 40)


def test_a_single_layer_is_drawn_as_bars_with_their_values(tmp_path: Path) -> None:
    trace = traces.traced(traces.single(), tmp_path / "single.safetensors")
    with exporting(Export("svg", 40)):
        draw_depth(trace.numbers(), trace.groups, tmp_path / "depth.png")
    text = (tmp_path / "depth.svg").read_text()
    numbers = trace.numbers()
    for phase in numbers.phases:
        for what in ("normalised_entropy", "inter_share"):
            for value in numbers.of(phase, what)[0, numbers.of(phase, "tokens")[0] > 0]:
                assert f"{value:.2f}" in text
    assert "layer 0, the only sparse one" in text


def test_exports_that_cannot_be() -> None:
    with (
        pytest.raises(ValueError, match="pictures can be written as png, pdf, svg, not as 'gif'"),
        exporting(Export("gif")),
    ):
        pass
    with pytest.raises(ValueError, match="5 dots an inch; choose 10 to 1200"), exporting(Export("png", 5)):
        pass


# -- with models -------------------------------------------------------------------------------------------------------
def test_a_dense_model_joins_no_page(tmp_path: Path) -> None:
    report = LensReport("?", "yes", "moiie", [1, 3], "", [], tmp_path, tmp_path / "index.html", [])
    dense, processor = load(model_folders.dense_folder()), traces.sparse()[1]
    with pytest.raises(ValueError, match="this model is dense: it has no experts to look at"):
        inspect_beside(report, dense, processor, model_folders.picture())
    assert not list(tmp_path.iterdir())


def test_a_bank_of_many_experts_is_drawn(left: SavedTrace, tmp_path: Path) -> None:
    groups = replace(left.groups, groups=(ExpertGroup("inter", 12, ("vision", "text")),))
    arrays = {("prefill", "tokens"): np.ones((9, 2)), ("prefill", "co_select"): np.ones((9, 2, 12, 12)) / 12}
    path = draw_co_selection(RoutingNumbers(list(range(9)), ["prefill"], arrays), groups, tmp_path / "c.png")
    assert path.stat().st_size > 5000
