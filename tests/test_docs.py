"""What the pages in docs/ show can be run, and every file they name exists."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from moiety.evaluate.benchmarks import registry
from moiety.moe import plugins
from moiety.moe.experts.kinds import EXPERTS
from moiety.moe.layer import ModalityMoE
from moiety.moe.routers import ROUTERS
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import load, moe_layers
from moiety.vlm.upcycle import upcycle, upcycle_folder
from tests import model_folders
from tests.evaluate.benchmarks import made, test_registry
from tests.moe import test_kind_laws, test_router_laws
from tests.test_floors import FLOORS
from tests.tiny import RELATIVES

ROOT = Path(__file__).parents[1]
DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "moiety"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
SETTINGS = MoESettings(scheme="nearest", router_init_std=1.0, aux_coef=0.01)


def code_of(page: str, file: str, language: str = "python") -> str:
    """The blocks of a page that belong to one file, joined; their first line names it."""
    blocks = re.findall(rf"```{language}\n# {re.escape(file)}\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert blocks, f"{page} shows no {file}"
    return "\n".join(blocks)


def hold_to(laws: ModuleType, **given: str) -> int:
    """Call every law of a test module for one thing; returns how many calls that were."""
    calls = 0
    for name, law in vars(laws).items():
        words = getattr(law, "pytestmark", ())
        if not name.startswith("test_") or not any(mark.args[0] in given for mark in words):
            continue
        tables = [(mark.args[0], mark.args[1]) for mark in words if mark.args[0] not in given]
        own = {mark.args[0]: given[mark.args[0]] for mark in words if mark.args[0] in given}
        for values in itertools.product(*(table for _, table in tables)):
            law(**own, **dict(zip((word for word, _ in tables), values, strict=True)))
            calls += 1
    return calls


@pytest.fixture
def loose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes the code of a page into a file and uses it as a plug-in; everything is put back."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(plugins.VARIABLE, "")
    tables = [(table, dict(table)) for table in (ROUTERS, EXPERTS)]
    names: list[str] = []

    def use(page: str, file: str) -> None:
        (tmp_path / file).write_text(code_of(page, file))
        names.append(file.removesuffix(".py"))
        plugins.use_plugin(names[-1])

    yield use
    for table, before in tables:
        table.clear()
        table.update(before)  # type: ignore[arg-type]
    for name in names:
        sys.modules.pop(name, None)


def test_the_router_of_the_page_keeps_every_law(loose: Callable[[str, str], None], monkeypatch: Any) -> None:
    loose("adding-a-router.md", "nearest.py")
    monkeypatch.delattr(test_router_laws, "test_one_fused_product_equals_a_softmax_for_each_token")  # of gates alone
    assert hold_to(test_router_laws, scheme="nearest") == 7


def test_the_router_of_the_page_upcycles_saves_and_loads(loose: Callable[[str, str], None], tmp_path: Path) -> None:
    loose("adding-a-router.md", "nearest.py")
    receipt = upcycle_folder(model_folders.dense_folder(), tmp_path / "nearest", SETTINGS)
    assert receipt.relative_difference <= receipt.tolerance
    saved = load(tmp_path / "nearest")
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    fresh = upcycle(load(model_folders.dense_folder()), SETTINGS)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in saved.state_dict().items())
    with torch.no_grad():  # 1e-6: tensors at other addresses may be summed in another order
        torch.testing.assert_close(saved(**batch).logits, fresh(**batch).logits, atol=1e-5, rtol=0)
    layer = moe_layers(saved)[0]
    centres = layer.router.centres.numel()  # every token is measured against all of them
    chosen = layer.experts.activated_parameters() * layer.top_k
    assert layer.activated_parameters("text") == centres + chosen


def test_the_kind_of_the_page_keeps_every_law(loose: Callable[[str, str], None], tmp_path: Path) -> None:
    loose("adding-an-expert-kind.md", "biased.py")
    assert hold_to(test_kind_laws, kind="biased") >= 20
    (recipe,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "adding-an-expert-kind.md").read_text(), flags=re.DOTALL)
    settings = MoESettings.model_validate(yaml.safe_load(recipe)["moe"])
    receipt = upcycle_folder(model_folders.dense_folder(), tmp_path / "biased", settings)
    assert receipt.promised
    layer = moe_layers(load(tmp_path / "biased"))[0]
    count = layer.experts.bank("inter").activated_of(0, 0) + layer.experts.bank("text").activated_of(0, 0)
    two = 2 * layer.experts.bank("inter").activated_of(0, 0)
    gate = layer.router.activated_parameters("text")
    assert layer.activated_parameters("text") == gate + max(count, two)


def test_the_benchmark_of_the_page_keeps_every_law(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(code_of("adding-a-benchmark.md", "colours.py"), names)
    fixture = eval("{" + code_of("adding-a-benchmark.md", "fixture") + "}", {"Made": made.Made})
    monkeypatch.setitem(registry.BENCHMARKS, "colours", names["COLOURS"])  # type: ignore[arg-type]
    monkeypatch.setitem(made.MADE, "colours", fixture["colours"])  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        for law in vars(test_registry).values():
            if any(mark.args[0] == "name" for mark in getattr(law, "pytestmark", ())):
                more = {"tmp_path": tmp_path} if "tmp_path" in inspect.signature(law).parameters else {}
                law(name="colours", **more)
    test_registry.test_every_benchmark_has_a_small_folder()


def test_a_family_of_the_llava_kind_costs_no_line() -> None:
    names: dict[str, Any] = {}
    exec(code_of("adding-a-family.md", "family.py"), names)
    page, source = (DOCS / "adding-a-family.md").read_text(), DOCS.parent / "src" / "moiety"
    written = "".join(path.read_text(encoding="utf-8") for path in source.rglob("*.py"))
    for name, family in RELATIVES.items():
        assert family.model not in written, f"{name} stands in src"
        assert family.model.removesuffix("ForConditionalGeneration").lower() in page.lower().replace("-", "").replace(
            " ", ""
        )
    layers, difference, promised = names["try_family"](RELATIVES["vipllava"].build())
    assert (layers, promised) == (2, True)
    assert difference < 1e-6


@pytest.mark.parametrize(
    ("page", "file"),
    [
        *(("adding-a-router.md", "nearest.py"), ("adding-an-expert-kind.md", "biased.py")),
        *(("adding-a-benchmark.md", "colours.py"), ("adding-a-benchmark.md", "fixture")),
    ],
)
def test_a_page_tells_how_many_lines_it_costs(page: str, file: str) -> None:
    """The number on the page is that of the code on the page, to the next ten; a fixture to the line."""
    lines = len(code_of(page, file).strip().splitlines())
    told = lines if file == "fixture" else 10 * -(-lines // 10)
    assert re.search(rf"\*\*What it costs:\*\*[^\n]*(?:of|fixture of) {told} lines", (DOCS / page).read_text())


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading.

    Example:
        >>> anchor("Layer: time and memory")
        'layer-time-and-memory'
    """
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, place in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        page = path.parent / target if target else path
        assert page.exists(), f"{path.name} links to {target}"
        if place:
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert place in map(anchor, headings), f"{path.name} links to {target}#{place}"


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=lambda path: path.name)
def test_every_file_and_module_that_a_page_names_exists(path: Path) -> None:
    """Paths of ours in code spans (``moe/layer.py``, ``train/asymoe/``) and modules (``moiety.lens``) exist.

    The changelog is left out: it also tells what things were called before.
    """
    rooms = {entry.name for entry in (*ROOT.iterdir(), *SOURCE.iterdir()) if entry.is_dir()} - {"runs"}
    for span in re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8")):
        for word in re.findall(r"(?<![\w./-])[\w.-]+(?:/[\w.-]*)+(?![\w<{*])", span):
            ours = word.split("/")[0] in rooms and word.endswith((".md", ".yaml", ".txt", "/"))
            if ours or word.endswith(".py"):
                assert any((above / word).exists() for above in (ROOT, SOURCE)), f"{path.name} names {word}"
        if re.fullmatch(r"moiety(\.\w+)+", span):
            assert importable(span), f"{path.name} names {span}"


def importable(name: str) -> bool:
    """Whether a dotted name is a module of ours, or something that a module of ours holds."""
    for cut in range(name.count(".") + 1, 0, -1):
        parts = name.split(".")
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_the_page_of_the_layout_names_every_room_and_its_floor() -> None:
    page = (DOCS / "house.md").read_text(encoding="utf-8")
    for room in sorted(path.parent.relative_to(SOURCE) for path in SOURCE.rglob("*/__init__.py")):
        assert f"`{room}/`" in page, f"docs/house.md does not name {room}/"
    floors = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    for floor, cell in re.findall(r"^\| (\d) \| ([^|]*) \|", page, flags=re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            room = name.removesuffix(".py").split("/")[0]
            assert floors[room] == int(floor), f"docs/house.md puts {name} on floor {floor}"


def test_the_worked_example_of_the_journey() -> None:
    """Step 6 gives numbers; they are those of the router."""
    layer = ModalityMoE(3, 4, MoESettings(scheme="moiie"))
    with torch.no_grad():
        for gate in layer.router.gates.values():
            gate.weight.copy_(torch.eye(3))
    x = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
    routing = layer.router(x, torch.tensor([1, 0]))
    assert routing.index.tolist() == [[0, 1], [2, 3]]
    torch.testing.assert_close(routing.weights, torch.tensor([[0.73, 0.27]] * 2), atol=2e-3, rtol=0)


def test_no_page_calls_an_inter_modality_expert_shared() -> None:
    for path in DOCS.rglob("*.md"):
        assert not re.search(r"shared[ -]expert", path.read_text(), flags=re.IGNORECASE), path
