"""The app as a person meets it: a real process, a real browser, a small model."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import model_folders
from tests.browser.processes import Running, running
from tests.browser.test_app_requests import META, Visitor

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason='no gradio: pip install "moiety[app]"'),
]
HERE = ("http://127.0.0.1:", "ws://127.0.0.1:")


@pytest.fixture(scope="module")
def app(browser: Any) -> Iterator[str]:
    """Address of an app with the small sparse model; without a browser none is started."""
    with running("demo-app", model_folders.sparse_folder(), "--port", 0, "--max-new-tokens", 6) as program:
        yield program.wait_for("open ").split()[1]


class Hand:
    """What a person does on the page, by the names the page gives its parts."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.until(lambda: driver.find_elements("css selector", "#question textarea, #question input"))

    def until(self, holds: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := holds():
                return found
            time.sleep(0.1)
        raise AssertionError(
            f"not within {seconds} s; the page says: {self.driver.find_element('tag name', 'body').text}"
        )

    def part(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def parts(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def remove_picture(self) -> None:
        self.part("#picture button[aria-label='Remove Image']").click()
        self.until(lambda: not self.parts("#picture img"))

    def upload(self, file: Path) -> None:
        """Choose a file in place of the picture that is there."""
        if self.parts("#picture img"):
            self.remove_picture()
        self.until(lambda: self.parts("#picture input[type=file]"))[0].send_keys(str(file))
        self.until(lambda: self.parts("#picture img"))

    def type(self, question: str) -> None:
        box = self.part("#question textarea, #question input")
        box.clear()
        box.send_keys(question)

    def set(self, slider: str, value: int) -> None:
        """Type a value into the box beside a slider."""
        number = self.part(f"{slider} input[type=number]")
        number.clear()
        number.send_keys(f"{value}\t")

    def ask(self) -> None:
        self.part("#ask").click()

    def note(self) -> str:
        return str(self.part("#note").text)

    def answered(self) -> str:
        """The note below an answer that is whole, once its routing is drawn."""
        self.until(lambda: "tokens read" in self.note() and self.parts("#routing [data-layer]"))
        return self.note()

    def complaint(self) -> str:
        """What the page says is wrong."""
        return str(self.until(lambda: [found.text for found in self.parts("#note [role=alert]") if found.text])[0])

    def drawn(self) -> tuple[str, str]:
        """Layer of the routing, and its picture."""
        layer = self.part("#routing [data-layer]").get_attribute("data-layer")
        return layer, self.part("#routing img").get_attribute("src")


def test_a_picture_a_question_an_answer_and_who_read_what(
    app: str,
    page: Callable[..., Any],
    asked: Callable[[], list[str]],
    complaints: Callable[[], list[str]],
    snapshot: Callable[[str], bytes],
) -> None:
    hand = Hand(page(app))
    snapshot("app-empty")
    assert "vision×1 + inter×2 + text×1" in hand.part("#title").text
    hand.upload(model_folders.picture_file())
    hand.type("Where is the red circle?")
    hand.ask()
    hand.answered()
    said = hand.part("#talk").text
    assert "Where is the red circle?" in said
    snapshot("app-answer")
    first_layer, first_picture = hand.drawn()
    assert first_picture.startswith("data:image/png;base64,")
    assert len(hand.parts("#routing .load")) == 3
    assert len(hand.parts("#routing .word")) > 10
    hand.set("#layer", 3 if first_layer == "1" else 1)
    hand.until(lambda: hand.drawn()[0] != first_layer)
    assert hand.drawn()[1] != first_picture
    snapshot("app-other-layer")
    tinted = hand.drawn()[1]
    hand.set("#tint", 0)
    hand.until(lambda: hand.drawn()[1] != tinted)
    snapshot("app-no-tint")
    hand.type("And now?\n")
    hand.until(lambda: "And now?" in hand.part("#talk").text and hand.answered())
    assert "Where is the red circle?" in hand.part("#talk").text
    urls = asked()
    assert urls
    assert [url for url in urls if not url.startswith(HERE)] == []
    assert complaints() == []


def test_whatever_is_wrong_is_said_and_the_app_goes_on(
    app: str, page: Callable[..., Any], snapshot: Callable[[str], bytes], tmp_path: Path
) -> None:
    hand = Hand(page(app))
    hand.type(" ")
    hand.ask()
    assert hand.complaint() == "There is no question yet: type one."
    hand.remove_picture()
    hand.type("Where?")
    hand.ask()
    hand.until(lambda: hand.complaint() == "There is no picture yet: choose one, or take an example.")
    snapshot("app-no-picture")
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    hand.upload(text)
    hand.ask()
    hand.until(lambda: hand.complaint().startswith("The file text.png is no picture that can be read"))
    huge = tmp_path / "huge.png"
    Image.new("1", (9000, 9000)).save(huge)
    hand.upload(huge)
    hand.ask()
    hand.until(lambda: hand.complaint() == "The picture huge.png has more than 64 million pixels; make it smaller.")
    snapshot("app-huge-picture")
    hand.upload(model_folders.picture_file())
    hand.ask()
    hand.answered()


def test_a_long_answer_can_be_stopped(app: str, page: Callable[..., Any]) -> None:
    hand = Hand(page(app))
    hand.set("#longest", 1024)
    hand.type("What?")
    hand.ask()
    hand.until(lambda: "Answering" in hand.note())
    hand.part("#stop").click()
    hand.until(lambda: hand.note() == "Stopped.")
    hand.until(lambda: "What?" not in hand.part("#talk").text)
    hand.set("#longest", 2)
    hand.type("Where?")
    hand.ask()
    assert ", 2 made in " in hand.answered()
    assert "What?" not in hand.part("#talk").text


def test_examples_and_clear(app: str, page: Callable[..., Any]) -> None:
    hand = Hand(page(app))
    row = hand.until(lambda: hand.parts("#examples tbody tr"))[1]
    question = row.text.strip()
    row.click()
    hand.until(lambda: hand.part("#question textarea, #question input").get_attribute("value") == question)
    hand.ask()
    hand.answered()
    assert question in hand.part("#talk").text
    hand.part("#clear").click()
    hand.until(lambda: question not in hand.part("#talk").text and not hand.parts("#routing [data-layer]"))
    assert hand.parts("#picture img") == []


def test_a_dense_model_talks_and_says_that_nothing_is_routed(
    page: Callable[..., Any], snapshot: Callable[[str], bytes]
) -> None:
    with running("demo-app", model_folders.dense_folder(), "--port", 0, "--max-new-tokens", 3) as program:
        hand = Hand(page(program.wait_for("open ").split()[1]))
        assert "This model is dense" in hand.part("#routing").text
        hand.ask()
        hand.until(lambda: "tokens read" in hand.note())
        assert not hand.parts("#layer")
        snapshot("app-dense")


def test_the_app_tidies_up_when_it_is_terminated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle of an answer that would take minutes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = Running("demo-app", model_folders.sparse_folder(), "--port", 0)
    visitor = Visitor(program.wait_for("open ").split()[1])
    assert list(tmp_path.glob("moiety-app-*"))
    own = {"path": visitor.upload(model_folders.picture_file()), "meta": META}
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(visitor.ask, own, 1024)
        assert ", 2 made in" in visitor.ask(own, 2)
        assert not asking.done()
        assert program.end() == 130
        assert asking.exception(10)
    assert not list(tmp_path.glob("moiety-app-*"))


def test_on_a_narrow_window_nothing_is_cut(
    app: str, page: Callable[..., Any], snapshot: Callable[[str], bytes]
) -> None:
    """Headless windows cannot be narrower than 500 px, so the size is emulated."""
    driver = page("about:blank")
    narrow = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        driver.get(app)
        hand = Hand(driver)
        hand.until(lambda: hand.part("#question textarea").get_attribute("value"))
        box = "const b = document.querySelector('#question textarea'); return [b.scrollHeight, b.clientHeight]"
        hand.until(lambda: (sizes := driver.execute_script(box))[0] <= sizes[1])
        for question in ("Where is the red circle?", "And which shape stands at the top left of this picture?"):
            hand.type(question)
            hand.ask()
            hand.answered()
        ends = (
            "const t = document.querySelector('#talk'), y = part => t.querySelector(part).getBoundingClientRect();"
            "return [y('label').bottom, y('.bubble-wrap').top, document.documentElement.scrollWidth]"
        )
        label, messages, width = driver.execute_script(ends)
        snapshot("app-narrow")
        assert messages >= label - 1  # messages scroll below the label; both have a border of one pixel
        assert width <= 390
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
