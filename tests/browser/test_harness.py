"""The browser of the tests runs scripts, sees what a page asks for and what it complains about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser


def test_a_page_is_shown_and_watched(
    page: Callable[..., Any],
    asked: Callable[[], list[str]],
    complaints: Callable[[], list[str]],
    snapshot: Callable[[str], bytes],
    tmp_path: Path,
) -> None:
    file = tmp_path / "page.html"
    file.write_text(
        "<!doctype html><p id=said></p><script>said.textContent = 6 * 7;"
        "fetch('http://127.0.0.1:9/gone').catch(() => said.textContent += '!'); console.error('oh')</script>"
    )
    driver = page(file)
    driver.set_script_timeout(5)
    assert driver.find_element("id", "said").text.startswith("42")
    assert asked() == ["http://127.0.0.1:9/gone"]
    assert any("oh" in complaint for complaint in complaints())
    assert snapshot("harness").startswith(b"\x89PNG")
