"""``moiety serve`` asked by a page of its own address, and by a stranger's page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from tests import model_folders
from tests.browser.processes import running

for package in ("fastapi", "uvicorn", "openai"):
    pytest.importorskip(package, reason="the extra [serve] is not installed")
pytestmark = pytest.mark.browser
ASK = """
const [address, url, done] = [arguments[0], arguments[1], arguments[arguments.length - 1]];
const content = [{type: 'image_url', image_url: {url}}, {type: 'text', text: 'is there a dog ?'}];
fetch(address + '/v1/chat/completions', {
  method: 'POST',
  headers: {'content-type': 'application/json'},
  body: JSON.stringify({messages: [{role: 'user', content}], max_tokens: 4}),
}).then(async answer => [answer.status, await answer.json()], error => [0, String(error)]).then(done);
"""


@pytest.fixture(scope="module")
def address(browser: Any) -> Iterator[str]:
    """Address of a server with the small sparse model; without a browser none is started."""
    with running("serve", model_folders.sparse_folder(), "--port", 0) as program:
        line = program.wait_for(f"{model_folders.sparse_folder().name} answers at ")
        yield line.split(" answers at ")[1].split("/v1")[0]


def data_url() -> str:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def test_a_page_of_its_own_address_talks_to_the_model(
    address: str, page: Callable[..., Any], asked: Callable[[], list[str]], snapshot: Callable[[str], bytes]
) -> None:
    driver = page(f"{address}/v1/models", size=(800, 300))
    assert model_folders.sparse_folder().name in driver.find_element("tag name", "body").text
    status, answer = driver.execute_async_script(ASK, address, data_url())
    assert status == 200, answer
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert 1 <= answer["usage"]["completion_tokens"] <= 4
    status, refusal = driver.execute_async_script(ASK, address, "http://127.0.0.1/a.png")
    assert status == 400
    assert "are never opened" in refusal["error"]["message"]
    assert all(url.startswith(address) for url in asked())
    assert len(snapshot("serve")) > 1_000


def test_a_page_of_another_address_learns_nothing(address: str, page: Callable[..., Any]) -> None:
    status, said = page("data:text/html,<p>a stranger's page").execute_async_script(ASK, address, data_url())
    assert (status, "Failed to fetch" in said) == (0, True)
