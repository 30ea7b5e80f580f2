"""The layout keeps its promises: imports go downward, the wings stay apart, files and functions stay short."""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "moiety"
MODULES = sorted(SOURCE.rglob("*.py"))
FLOORS = (
    ("groups", "devices", "recipe", "stats", "records"),
    ("moe",),
    ("vlm", "worlds"),
    ("train", "evaluate"),
    ("lens",),
    ("compare",),
    ("chat", "app", "serve", "vllm", "lmms", "demo"),
    ("cli", "__init__", "__main__"),
)
"""Rooms of the mixture wing from the ground up: a module imports from its own floor and from those below it."""
WING = (
    ("intent.settings", "intent.parameters"),
    (
        *("intent.network.anchors", "intent.network.openset", "intent.network.synchronise"),
        *("intent.clips", "intent.data.rows", "intent.data.samples", "intent.labels.prompt", "intent.metrics"),
        *("intent.world.figure", "intent.world.phrases", "intent.world.signs", "intent.world.voice"),
    ),
    (
        *("intent.clips.registry", "intent.clips.feature_cache", "intent.clips.pretrained", "intent.clips.reading"),
        *("intent.clips.demo_encoders", "intent.clips.whisper_weights"),
        *("intent.data", "intent.labels", "intent.network", "intent.world"),
    ),
    (
        *("intent.__init__", "intent.answers", "intent.classifier", "intent.explanation", "intent.recipe"),
        *(
            "intent.scope",
            "intent.storage",
            "intent.training",
            "intent.word_blend",
            "intent.data.sources",
            "intent.data.folds",
        ),
    ),
    ("intent.compare",),
    ("intent.demo",),
)
"""Rooms of the intent wing from the ground up. Where two names fit a module, the longer one counts."""
MIXTURE = {
    "moe",
    "vlm",
    "worlds",
    "train",
    "evaluate",
    "lens",
    "compare",
    "chat",
    "app",
    "serve",
    "vllm",
    "lmms",
    "demo",
}
"""This wing and the intent wing never import each other."""
MAX_FILE, MAX_FUNCTION = 350, 50


def floor_of(path: Path) -> int:
    return floor_named(".".join(path.relative_to(SOURCE).with_suffix("").parts))


def floor_named(name: str) -> int:
    """Floor of a module, by its dotted name below the package."""
    table = WING if name.split(".")[0] == "intent" else FLOORS
    found = {room: floor for floor, rooms in enumerate(table) for room in rooms if f"{name}.".startswith(f"{room}.")}
    assert found, f"{name} stands on no floor: add its room to {'WING' if table is WING else 'FLOORS'}"
    return found[max(found, key=len)]


def in_wing(path: Path) -> bool:
    return path.relative_to(SOURCE).parts[0] == "intent"


class Facts(NamedTuple):
    """What the laws ask of one file; its syntax is walked once and not kept."""

    imported: frozenset[str]
    functions: tuple[tuple[str, int], ...]
    prints: tuple[int, ...]


@cache
def facts_of(path: Path) -> Facts:
    names: set[str] = set()
    functions, prints = [], []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}:{node.lineno}: relative import; the floors are read from absolute names")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append((node.name, (node.end_lineno or node.lineno) - node.lineno + 1))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            prints.append(node.lineno)
    return Facts(frozenset(names), tuple(functions), tuple(prints))


def imported(path: Path) -> frozenset[str]:
    """Full names of everything a module imports, lazy imports inside functions included."""
    return facts_of(path).imported


def module_of(name: str) -> Path | None:
    """File of ours behind an imported name: a module, the module that holds the name, or a package's face."""
    if not name.startswith("moiety."):
        return None
    for parts in (name.split(".")[1:], name.split(".")[1:-1]):
        for path in (SOURCE.joinpath(*parts).with_suffix(".py"), SOURCE.joinpath(*parts, "__init__.py")):
            if parts and path.exists():
                return path
    return None


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downward(path: Path) -> None:
    own = floor_of(path)
    for name in imported(path):
        target = module_of(name)
        if target is None or in_wing(target) != in_wing(path):
            continue
        assert floor_of(target) <= own, f"floor {own} imports {name} from floor {floor_of(target)}"


def test_no_two_files_import_each_other_in_a_circle() -> None:
    """Lazy imports count: a circle that hides in a function is a circle."""
    arrows = {path: {module_of(name) for name in imported(path)} - {None, path} for path in MODULES}
    order = TopologicalSorter(arrows)
    try:
        order.prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(name_of(path) for path in circle.args[1]))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_wings_never_import_each_other(path: Path) -> None:
    own, rooms = path.relative_to(SOURCE).parts[0], {name.split(".")[1] for name in imported(path) if "moiety." in name}
    if own == "intent":
        assert not rooms & MIXTURE
    elif own.removesuffix(".py") in MIXTURE:
        assert "intent" not in rooms


def pure(path: Path) -> bool:
    """Modules of the two lowest floors: plain Python, torch and numpy."""
    return floor_of(path) <= 1


@pytest.mark.parametrize("path", [path for path in MODULES if pure(path)], ids=name_of)
def test_the_mathematics_knows_no_transformers(path: Path) -> None:
    foreign = {"transformers", "accelerate", "peft", "trl", "PIL"}
    assert not {name.split(".")[0] for name in imported(path)} & foreign


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE, f"{text.count(chr(10))} lines; one idea a file, at most {MAX_FILE}"
    for name, length in facts_of(path).functions:
        assert length <= MAX_FUNCTION, f"{name} has {length} lines, at most {MAX_FUNCTION}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_door_prints(path: Path) -> None:
    if path.relative_to(SOURCE).parts[0] in ("cli", "chat.py"):
        return
    for line in facts_of(path).prints:
        pytest.fail(f"line {line}: library code logs, only cli prints")


def test_no_private_path_and_no_debugging_variable() -> None:
    """D12 and D16: nothing of one person's machine, and no variable that slows everybody down."""
    forbidden = re.compile(r"/(home|work|root|Users)/[a-z]|CUDA_LAUNCH_BLOCKING\s*=|TORCH_DISTRIBUTED_DEBUG\s*=")
    kinds = {".py", ".md", ".yaml", ".toml", ".sh", ""}
    skipped = {".git", ".venv", "runs", ".mypy_cache", ".ruff_cache", ".hypothesis", "__pycache__"}
    for path in files_below(ROOT, skipped):
        if path.suffix not in kinds or path == Path(__file__):
            continue
        found = forbidden.search(path.read_text(encoding="utf-8", errors="ignore"))
        assert not found, f"{path}: {found.group(0)!r}"


def files_below(folder: Path, skipped: set[str]) -> Iterator[Path]:
    """Every file, without entering folders of these names: a virtual environment holds fifty thousand."""
    for place, folders, files in os.walk(folder):
        folders[:] = set(folders) - skipped
        yield from (path for name in files if name not in skipped and (path := Path(place, name)).is_file())


def test_packages_that_break_here_are_absent() -> None:
    """torchvision and torchcodec must never be needed: nothing of ours imports them."""
    for path in MODULES:
        assert not {name.split(".")[0] for name in imported(path)} & {"torchvision", "torchaudio", "torchcodec"}
