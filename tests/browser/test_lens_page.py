"""The page of the lens in a browser: what is drawn are the numbers of the trace, and every control changes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety.lens import SavedTrace
from moiety.lens.draw.palette import colours_of
from moiety.lens.page.interactive import write_report
from tests.lens.trace import traces

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[SavedTrace, SavedTrace]:
    folder = tmp_path_factory.mktemp("traces")
    return (
        traces.traced(traces.sparse(), folder / "left.safetensors"),
        traces.traced(traces.deep(), folder / "right.safetensors"),
    )


@pytest.fixture(scope="module")
def one(both: tuple[SavedTrace, SavedTrace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("one") / "index.html", both[:1])


@pytest.fixture(scope="module")
def two(both: tuple[SavedTrace, SavedTrace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("two") / "index.html", both)


def open_at(page: Callable[..., Any], file: Path, state: str, size: tuple[int, int] = (1280, 900)) -> Any:
    return page(f"{file.resolve().as_uri()}#{state}", size)


def css(driver: Any, selector: str) -> list[Any]:
    found: list[Any] = driver.find_elements("css selector", selector)
    return found


def fills(driver: Any) -> list[str]:
    return [cell.get_attribute("fill") for cell in css(driver, ".grid rect")]


def shares(driver: Any) -> list[list[float]]:
    """Load that the bars show, by modality group."""
    bars = css(driver, ".bar")
    return [
        [float(part.get_attribute("data-share")) for part in bar.find_elements("css selector", ".part")] for bar in bars
    ]


def press(driver: Any, *keys: str) -> None:
    driver.find_element("tag name", "body").send_keys(*keys)


def test_patches_words_and_loads_are_those_of_the_trace(
    page: Callable[..., Any],
    asked: Callable[[], list[str]],
    complaints: Callable[[], list[str]],
    both: tuple[SavedTrace, SavedTrace],
    one: Path,
) -> None:
    driver = open_at(page, one, "q=1&l=0")
    question, trace = both[0].questions[1], both[0]
    part = question.phases["prefill"]
    patches = question.picture_of >= 0
    for place in (0, 1):
        first = [colours_of(trace.groups)[expert] for expert in part.index[place, patches, 0]]
        assert fills(driver) == first
        words = css(driver, ".text.prefill .word")
        assert [int(word.get_attribute("data-expert")) for word in words] == part.index[place, ~patches, 0].tolist()
        for group, drawn in enumerate(shares(driver)):
            own = part.index[place][part.group == group]
            expected = np.bincount(own.ravel(), minlength=4) / own.size
            np.testing.assert_allclose(drawn, expected[expected > 0], atol=1e-4)
            assert sum(drawn) == pytest.approx(1, abs=1e-3)
        assert css(driver, ".now")[0].get_attribute("data-layer") == str(trace.layers[place])
        press(driver, "\ue014")  # arrow to the right: the next layer
    assert asked() == []
    assert complaints() == []


def test_every_control_changes_what_is_shown(
    page: Callable[..., Any], both: tuple[SavedTrace, SavedTrace], one: Path
) -> None:
    driver = open_at(page, one, "q=1&l=0&phase=prefill")
    before, loads = fills(driver), shares(driver)
    press(driver, "\ue014")
    assert driver.find_element("id", "depth").text == "3"
    assert fills(driver) != before
    assert shares(driver) != loads
    press(driver, "\ue012")
    assert (fills(driver), shares(driver)) == (before, loads)

    driver.find_element("id", "all").click()
    totals = both[0].numbers().of("prefill", "load_share")[0]
    for drawn, expected in zip(shares(driver), totals, strict=True):
        np.testing.assert_allclose(drawn, expected[expected > 0], atol=1e-4)
    press(driver, "d")
    assert len(shares(driver)) == 1, "an answer holds no patch"
    assert "tinted" not in css(driver, ".grid")[0].get_attribute("class")
    press(driver, "d", "t")
    assert "tinted" not in css(driver, ".grid")[0].get_attribute("class")
    press(driver, "t")

    chip = css(driver, ".chip")[1]
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    assert {cell.get_attribute("data-expert") for cell in css(driver, ".grid rect")} <= {"1", ""}
    assert "expert=1+inter" in driver.current_url, "the address keeps what is shown"
    press(driver, "\ue00c")
    assert chip.get_attribute("aria-pressed") == "false"

    select = driver.find_element("id", "question")
    press(driver, "n")
    assert select.get_attribute("value") == "2"


def test_markup_in_a_question_stays_text(
    page: Callable[..., Any], complaints: Callable[[], list[str]], one: Path
) -> None:
    driver = open_at(page, one, "q=2&l=1")
    shown = driver.find_element("id", "asked").text
    assert "</script><img src=x onerror=alert(1)> & 'so' \"on\"" in shown
    assert all(image.get_attribute("src").startswith("data:") for image in css(driver, "img"))
    assert driver.find_element("tag name", "html").get_attribute("data-ready") == "yes"
    assert complaints() == []


def test_patches_can_be_read_with_the_keys_alone(page: Callable[..., Any], one: Path) -> None:
    driver = open_at(page, one, "q=0&l=0")
    picture = css(driver, ".grid svg")[0]
    driver.execute_script("arguments[0].focus()", picture)
    active = driver.switch_to.active_element
    active.send_keys("\ue014")
    active.send_keys("\ue014")
    active.send_keys("\ue015")
    tip = driver.find_element("id", "tip")
    assert tip.is_displayed()
    assert "patch: row 2, column 2" in tip.text
    assert "entropy of the router" in tip.text
    assert driver.find_element("id", "depth").text == "1", "the layer stays"


def test_two_models_share_one_layer_picker(
    page: Callable[..., Any], complaints: Callable[[], list[str]], snapshot: Callable[[str], bytes], two: Path
) -> None:
    driver = open_at(page, two, "q=0&l=0", (1400, 1000))
    assert [panel.find_element("css selector", "h2").text for panel in css(driver, ".panel")][1] != ""
    assert [len(panel.find_elements("css selector", ".chip")) for panel in css(driver, ".panel")] == [4, 6]
    found = [driver.find_element("id", "depth").text]
    for _ in range(4):
        press(driver, "\ue014")
        found.append(driver.find_element("id", "depth").text)
    assert found == ["1 | 0", "1 | 1", "1 | 2", "3 | 3", "3 | 3"], "the nearest depth, up to the last layer"
    left, right = css(driver, ".panel")
    assert abs(left.rect["width"] - right.rect["width"]) < 2
    heads = [panel.find_elements("css selector", ".card")[1].rect["y"] for panel in (left, right)]
    assert heads[0] == heads[1], "cards of both stand at one height"
    assert snapshot("lens-two").startswith(b"\x89PNG")
    assert complaints() == []


@pytest.mark.parametrize("width", [420, 800, 1600])
def test_nothing_is_cut_off_sideways(page: Callable[..., Any], one: Path, two: Path, width: int) -> None:
    for file in (one, two):
        driver = open_at(page, file, "q=2&l=0", (width, 900))
        wide = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]


def test_a_single_sparse_layer_has_no_control_without_a_choice_and_no_chart_of_one_point(
    page: Callable[..., Any], complaints: Callable[[], list[str]], tmp_path: Path
) -> None:
    trace = traces.traced(traces.single(), tmp_path / "single.safetensors")
    file = write_report(tmp_path / "index.html", [trace])
    for size in ((1280, 900), (500, 900)):
        driver = open_at(page, file, "q=1", size)
        assert not driver.find_element("id", "layers").is_displayed()
        assert driver.find_element("id", "phases").is_displayed(), "there is a decode to choose"
        assert css(driver, ".lines, .columns") == []
        assert f"Layer {trace.layers[0]} of 0–{trace.num_layers - 1}, the only sparse one" in (
            css(driver, ".where")[0].text
        )
        part, picture = trace.questions[1].phases["prefill"], trace.questions[1].picture_of >= 0
        first = part.index[0, picture, 0]
        most = int(np.bincount(first).max())
        assert f"{most} of {len(first)} patches were sent to expert " in css(driver, ".found")[0].text
        cells = [cell.text for cell in css(driver, ".facts td")]
        entropies = [part.entropy[0, part.group == group].astype(float).mean() for group in (0, 1)]
        assert [float(value) for value in cells[::3]] == pytest.approx(entropies, abs=0.01)
        press(driver, "\ue014", "\ue012")
        assert complaints() == []


def test_a_single_layer_beside_a_deep_model_keeps_the_slider_of_the_other(
    page: Callable[..., Any], complaints: Callable[[], list[str]], both: tuple[SavedTrace, SavedTrace], tmp_path: Path
) -> None:
    trace = traces.traced(traces.single(), tmp_path / "single.safetensors")
    driver = open_at(page, write_report(tmp_path / "index.html", [trace, both[1]]), "q=1")
    assert driver.find_element("id", "layers").is_displayed()
    left, right = css(driver, ".panel")
    assert left.find_elements("css selector", ".lines, .columns") == []
    assert len(right.find_elements("css selector", ".columns")) == 2
    tops = [[card.rect["y"] for card in panel.find_elements("css selector", ".seen, .read, .chart")]
            for panel in (left, right)]  # fmt: skip
    assert tops[0] == tops[1][: len(tops[0])], "what belongs together stands side by side"
    assert complaints() == []
