"""A real browser for tests marked ``browser``: headless Chromium driven by selenium.

Off by default; ``make test-browser`` runs them. Where chromium, chromedriver or selenium is missing, they skip and say
so. Pictures of what a person sees go to the folder that ``$MOIETY_SCREENSHOTS`` names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SIZE = (1280, 900)
WITHOUT_A_WIRE = ("file:", "data:", "blob:", "chrome:", "chrome-untrusted:", "about:")


def new_browser(folder: Path) -> Any:
    """A headless Chromium with an empty profile in `folder`; skips the test where something is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason='no selenium: pip install "moiety[browser]"')
    program = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium with chromedriver on PATH; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in (*QUIET, f"--user-data-dir={folder}", *["--no-sandbox"] * (os.geteuid() == 0)):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # with the path of its driver, selenium looks for none and asks nobody
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Chromium for the tests of one file: what one file does to it is not the next one's trouble."""
    driver = new_browser(tmp_path_factory.mktemp("chromium"))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any) -> Callable[..., Any]:
    """Open a file or an address, with nothing in the logs of before; the driver comes back when the page is loaded."""

    def show(path: str | Path, size: tuple[int, int] = SIZE) -> Any:
        browser.get("about:blank")
        browser.set_window_size(*size)
        for log in ("performance", "browser"):
            browser.get_log(log)
        browser.get(path if "://" in str(path) else Path(path).resolve().as_uri())
        return browser

    return show


@pytest.fixture
def asked(browser: Any) -> Callable[[], list[str]]:
    """Addresses that the page asked for since it was opened or since the last call, files and data left out."""

    def addresses() -> list[str]:
        events = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
        found = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        found_sockets = [event["params"] for event in events if event["method"] == "Network.webSocketCreated"]
        urls = [params["request"]["url"] for params in found] + [params["url"] for params in found_sockets]
        return [url for url in urls if not url.startswith(WITHOUT_A_WIRE)]

    return addresses


@pytest.fixture
def complaints(browser: Any) -> Callable[[], list[str]]:
    """Errors in the console of the page since it was opened or since the last call."""
    return lambda: [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"]


@pytest.fixture
def snapshot(browser: Any) -> Callable[[str], bytes]:
    """The window as a PNG; written to ``$MOIETY_SCREENSHOTS/NAME.png`` where that is set."""

    def take(name: str) -> bytes:
        content: bytes = browser.get_screenshot_as_png()
        if folder := os.environ.get("MOIETY_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{name}.png").write_bytes(content)
        return content

    return take
