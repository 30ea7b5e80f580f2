"""How far one forward walks through our files, measured with ``sys.setprofile``; and docs/journey.md says the same.

The walk: a tiny LLaVA of two decoder layers, of which the second is sparse, does one forward of a training step, labels
and auxiliary losses included, after a first one that nobody counts. An *event* is a call (or the resumption of a
generator) whose code lies in ``src/moiety``; Hugging Face and torch between two events do not count.

- A *stay*: consecutive events in the same file.
- A *file entered*: a file with at least one stay.
- A *return*: a stay in a file that had a stay before.
- A *climb*: a stay on a higher floor than the stay before it, floors as in ``tests/test_floors.py``.

Before the second layout (commit cd13934) the same walk entered 27 files for ``moiie``, with 59 returns and 20 climbs,
and 43 files for ``asymoe``, with 119 returns and 22 climbs.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch

import moiety
from moiety.recipe.recipe import MoESettings
from tests.test_floors import floor_named
from tests.tiny import FAMILIES, asymmetric, sparse

PAGE = Path(__file__).parents[1] / "docs" / "journey.md"
SOURCE = str(Path(moiety.__file__).parent) + os.sep
SETTINGS = {"moiie": MoESettings(layers=[1]), "asymoe": asymmetric().model_copy(update={"layers": [1]})}


class Event(NamedTuple):
    """A call into one of our files."""

    file: str
    function: str

    @property
    def floor(self) -> int:
        return floor_named(self.file.removesuffix(".py").replace("/", "."))


def walk(call: Callable[[], Any]) -> list[Event]:
    """The events of one call, in order."""
    events: list[Event] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(SOURCE):
            events.append(Event(name.removeprefix(SOURCE).replace(os.sep, "/"), frame.f_code.co_name))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return events


def stays(events: list[Event]) -> list[Event]:
    """The first event of each stay."""
    return [event for number, event in enumerate(events) if not number or events[number - 1].file != event.file]


def files(events: list[Event]) -> list[str]:
    """Files in the order in which they are first entered."""
    return list(dict.fromkeys(event.file for event in events))


def returns(events: list[Event]) -> int:
    return len(stays(events)) - len(files(events))


def climbs(events: list[Event]) -> int:
    path = stays(events)
    return sum(after.floor > before.floor for before, after in itertools.pairwise(path))


def training_forward(settings: MoESettings) -> list[Event]:
    model = sparse("llava-qwen2", settings).train()
    batch = FAMILIES["llava-qwen2"].batch("tIt", "tt", labels=True)
    model(**batch)  # says once what is said once
    return walk(lambda: model(**batch))


@pytest.fixture(scope="module")
def walks() -> dict[str, list[Event]]:
    return {scheme: training_forward(settings) for scheme, settings in SETTINGS.items()}


def test_moiie_walks_through_few_rooms_and_never_climbs(walks: dict[str, list[Event]]) -> None:
    events = walks["moiie"]
    assert len(files(events)) <= 12, files(events)
    assert returns(events) <= 20
    assert climbs(events) == 0


def test_asymoe_walks_through_few_more(walks: dict[str, list[Event]]) -> None:
    events = walks["asymoe"]
    assert len(files(events)) <= 22, files(events)
    assert climbs(events) == 0


@pytest.mark.parametrize("scheme", SETTINGS)
def test_every_further_sparse_layer_begins_one_climb(scheme: str) -> None:
    """The decoder goes on to its next layer, which is back on the floor of ``vlm``; nothing else goes up."""
    events = training_forward(SETTINGS[scheme].model_copy(update={"layers": [0, 1]}))
    assert climbs(events) == 1


@pytest.mark.parametrize("scheme", SETTINGS)
def test_a_forward_reads_no_settings_and_no_table(scheme: str, walks: dict[str, list[Event]]) -> None:
    """They were read when the layers were built: no validator of a recipe runs, and no question goes to the table."""
    entered = files(walks[scheme])
    assert not [name for name in entered if name.startswith("recipe/") or name == "groups.py"]


def test_alpha_is_computed_once_in_a_layer(walks: dict[str, list[Event]]) -> None:
    own = "moe/asymoe/experts/evidence.py"
    assert [event.function for event in walks["asymoe"] if event.file == own].count("alpha") == 1


def test_inference_enters_no_further_file(walks: dict[str, list[Event]]) -> None:
    for scheme, settings in SETTINGS.items():
        model = sparse("llava-qwen2", settings)
        batch = FAMILIES["llava-qwen2"].batch("tIt", "tt")
        with torch.no_grad():
            model(**batch)
            events = walk(lambda model=model, batch=batch: model(**batch))
        assert set(files(events)) <= set(files(walks[scheme]))
        assert climbs(events) == 0


@pytest.mark.parametrize("scheme", SETTINGS)
def test_the_page_names_the_files_in_the_order_in_which_they_are_entered(
    scheme: str, walks: dict[str, list[Event]]
) -> None:
    """The table under "The files of a forward: SCHEME" of docs/journey.md; each link leads to the file it names."""
    (section,) = re.findall(rf"^## The files of a forward: `{scheme}`$(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    named = re.findall(r"^\| \d+ \| \[`(.+?)`\]\(\.\./src/moiety/(.+?)\) \|", section, re.M)
    assert [name for name, _ in named] == files(walks[scheme])
    assert all(name == path and (PAGE.parent / "../src/moiety" / path).is_file() for name, path in named)


def test_the_measure_counts_what_it_says() -> None:
    """On a path written by hand."""
    path = [
        Event(name, "f") for name in ("vlm/splice.py", "moe/layer.py", "moe/layer.py", "vlm/splice.py", "groups.py")
    ]
    assert files(path) == ["vlm/splice.py", "moe/layer.py", "groups.py"]
    assert (len(stays(path)), returns(path), climbs(path)) == (4, 1, 1)
