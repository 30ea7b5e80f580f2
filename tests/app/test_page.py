"""What reaches a session from a request of any form, with gradio's own reading of requests in between."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from moiety.app.page import Page
from moiety.vlm.model import load
from moiety.vlm.templates import load_processor
from tests import model_folders

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason='no gradio: pip install "moiety[app]"'
)
META = {"meta": {"_type": "gradio.FileData"}}
NOT_GIVEN = "was not given to this page; upload it, or take one of the examples"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    model = model_folders.sparse_folder()
    folder = tmp_path_factory.mktemp("received")
    return Page(load(model).eval(), load_processor(model, marks=False), "tiny", [], 8, folder)


@functools.cache
def blocks_of(page: Page) -> Any:
    """Made in a loop that runs: elsewhere gradio makes one and leaves it open."""

    async def made() -> Any:
        return page.blocks()

    return asyncio.run(made())


def asked(page: Page, picture: Any, question: Any = "Where?") -> str:
    """The note at the end of one question, or the error of the request."""

    import gradio

    blocks = blocks_of(page)

    async def read_by_gradio() -> list[Any]:
        (wire,) = (fn for fn in blocks.fns.values() if len(fn.inputs) == 6)
        read: list[Any] = await blocks.preprocess_data(wire, [None, picture, question, 2, 1, 70], None)
        return read

    try:
        read = asyncio.run(read_by_gradio())
    except gradio.Error as error:
        return str(error.message)
    return [shown[3] for shown in page.ask(*read) if isinstance(shown[3], str)][-1]


def test_only_what_was_received_is_shown(page: Page, tmp_path: Path) -> None:
    own, private = page.folder / "own.png", tmp_path / "holiday.png"
    for file in (own, private):
        model_folders.picture().save(file)
    (page.folder / "link.png").symlink_to(private)
    for more in ({}, META, {"is_stream": True}, {"url": f"file://{private}"}, {"orig_name": "own.png"}):
        assert "tokens read" in asked(page, {"path": str(own), **more})
        for path in (private, page.folder / "link.png", f"{page.folder}/../{private.parent.name}/{private.name}"):
            assert NOT_GIVEN in asked(page, {"path": str(path), **more})


def test_no_address_is_fetched_in_the_place_of_any_input(page: Page) -> None:
    address = {"path": "http://127.0.0.1:9/a.png", **META}
    assert f"the picture a.png {NOT_GIVEN}" in asked(page, address)
    assert f"the picture a.png {NOT_GIVEN}" in asked(page, None, address)


def test_nothing_chosen_is_no_error_of_ours(page: Page) -> None:
    assert "There is no picture yet" in asked(page, None)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([None, None], "didn't receive enough input values"),
        ([None, {"path": 3}, "Where?", 2, 1, 70], "Error"),
        ([None, None, "Where?", "many", 1, 70], "Could not preprocess input component at index 3"),
    ],
)
def test_a_request_that_does_not_fit_costs_one_line(
    page: Page, inputs: list[Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    import gradio

    from moiety.app.refusals import LONGEST_LINE, UNREADABLE

    blocks = blocks_of(page)
    wire = next(fn for fn in blocks.fns.values() if len(fn.inputs) == 6)
    with pytest.raises(gradio.Error) as refused:
        asyncio.run(blocks.preprocess_data(wire, inputs, None))
    assert refused.value.message == UNREADABLE
    assert not refused.value.print_exception
    (line,) = caplog.messages
    assert line.startswith("a request was refused (")
    assert said in line
    assert "\n" not in line
    assert len(line) <= LONGEST_LINE + 30
