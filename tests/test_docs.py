"""What the pages in docs/ show can be run, and every file they name exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from moiety.moe import routers
from moiety.moe.layer import ModalityMoE
from moiety.moe.losses import auxiliary_losses
from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import load
from moiety.vlm.upcycle import upcycle, upcycle_folder
from tests import model_folders
from tests.test_floors import FLOORS

ROOT = Path(__file__).parents[1]
DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "moiety"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
SETTINGS = MoESettings(scheme="nearest", router_init_std=1.0, aux_coef=0.01)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names that the Python blocks of docs/adding-a-router.md define, after they ran."""
    monkeypatch.setattr(routers, "ROUTERS", dict(routers.ROUTERS))
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "adding-a-router.md").read_text(), flags=re.DOTALL):
        exec(block, names)
    assert routers.ROUTERS["nearest"] is names["Nearest"]
    return names


def test_the_router_of_the_page_obeys_the_laws(page: dict[str, Any]) -> None:
    layer = ModalityMoE(8, 16, SETTINGS)
    x = torch.randn(1, 9, 8, requires_grad=True)
    ids = torch.tensor([[0, 1, 1, 1, 0, 0, 1, -1, -1]])
    with recording() as trace:
        y = layer(x, ids)
    ((_, routing),) = trace.entries
    for token, modality in enumerate(ids[0].tolist()):
        chosen = set(routing.index[token].tolist())
        allowed = {1: {0, 1, 2}, 0: {1, 2, 3}, -1: {4}}[modality]
        assert chosen <= allowed
    real = ids[0] >= 0
    torch.testing.assert_close(routing.weights.sum(-1), real.float())
    assert (y[0, ~real] == 0).all()
    other = x.detach().clone()
    other[0, ids[0] == 1] += 1
    with recording() as changed:
        layer(other, ids)
    text = ids[0] == 0
    assert torch.equal(changed.entries[0][1].index[text], routing.index[text])
    (y.square().sum() + auxiliary_losses(trace, layer.groups, SETTINGS).total).backward()
    assert layer.router.centres.grad.abs().sum() > 0
    assert torch.isfinite(layer.router.centres.grad).all()


def test_the_router_of_the_page_upcycles_saves_and_loads(page: dict[str, Any], tmp_path: Path) -> None:
    receipt = upcycle_folder(model_folders.dense_folder(), tmp_path / "nearest", SETTINGS)
    assert receipt.relative_difference <= receipt.tolerance
    saved = load(tmp_path / "nearest")
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    fresh = upcycle(load(model_folders.dense_folder()), SETTINGS)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in saved.state_dict().items())
    with torch.no_grad():  # 1e-6: tensors at other addresses may be summed in another order
        torch.testing.assert_close(saved(**batch).logits, fresh(**batch).logits, atol=1e-5, rtol=0)


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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_and_module_that_a_page_names_exists(path: Path) -> None:
    """Paths of ours in code spans (``moe/layer.py``, ``train/asymoe/``) and modules (``moiety.lens``) exist."""
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
