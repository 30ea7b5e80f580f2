"""The layout keeps its promises: imports go downward, the wings stay apart, files and functions stay short."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "moiety"
MODULES = sorted(SOURCE.rglob("*.py"))
FLOORS = {
    0: (
        *("asymmetric", "comparison", "config", "contrasts", "evaluation", "groups", "intervals", "permutation"),
        *("devices", "json_reader", "provenance", "reporting", "run_files", "saving", "second_process", "section"),
        *("text_files", "yaml_reader"),
    ),
    1: ("moe",),
    2: ("vlm", "scenes", "worlds"),
    3: ("train", "compare", "evaluate", "lens", "chat", "app", "serve", "lmms", "demo"),
    4: ("cli", "__init__", "__main__"),
}
WING = {
    0: ("settings",),
    1: (
        "anchors",
        "synchronise",
        "openset",
        "metrics",
        "samples",
        *("makers", "rows", "containers"),
        "media",
        "signal_audio",
        "signal_video",
        "label_prompt",
        *("signs", "phrases", "voice", "figure", "clip_writer"),
        *("downmix", "frame_clock", "orientation", "timeline"),
    ),
    2: (
        *("model", "baselines", "labels", "features", "data", "pickles", "prepare"),
        *("extractors", "pretrained", "feature_cache", "clips"),
        *("providers", "provider_hf", "provider_openai"),
        *("world", "reader"),
    ),
    3: (
        *("classifier", "storage", "training", "__init__"),
        *(
            "recipe",
            "sources",
            "floors",
            "grading",
            "run_record",
            "outcome",
            "tables",
            "sentences",
            "pictures",
            "report",
        ),
        *("folds", "persons", "training_run", "fold_runs"),
        *("compare", "explain", "answers", "demo", "demo_page", "demo_pictures"),
    ),
}
"""The intent wing has all floors under one roof; it and the mixture wing never import each other."""
MIXTURE = {
    "moe",
    "vlm",
    "train",
    "compare",
    "evaluate",
    "lens",
    "chat",
    "app",
    "serve",
    "lmms",
    "demo",
    "scenes",
    "worlds",
    "asymmetric",
}
MAX_FILE, MAX_FUNCTION = 350, 50


def floor_of(path: Path) -> int:
    return floor_named(path.relative_to(SOURCE).with_suffix("").parts, str(path))


def floor_named(parts: tuple[str, ...], where: str) -> int:
    """Floor of a module, by its path below the package."""
    wing = parts[0] == "intent"
    room = (parts[1] if len(parts) > 1 else "__init__") if wing else parts[0]
    found = [floor for floor, rooms in (WING if wing else FLOORS).items() if room in rooms]
    assert found, f"{where} stands on no floor: add {room!r} to {'WING' if wing else 'FLOORS'}"
    return found[0]


def imported(path: Path) -> set[str]:
    """Full names of everything a module imports, lazy imports inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}:{node.lineno}: relative import; the floors are read from absolute names")
    return names


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_downward(path: Path) -> None:
    own = floor_of(path)
    for name in imported(path):
        room = name.split(".")[1] if name.startswith("moiety.") else None
        if room is None or not ((SOURCE / room).exists() or (SOURCE / f"{room}.py").exists()):
            continue
        parts = tuple(name.split(".")[1:])
        if parts[0] == "intent" and len(parts) > 1 and not (SOURCE / "intent" / f"{parts[1]}.py").exists():
            parts = ("intent",)
        other = floor_named(parts, name)
        assert other <= own, f"floor {own} imports {name} from floor {other}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_wings_never_import_each_other(path: Path) -> None:
    own, rooms = path.relative_to(SOURCE).parts[0], {name.split(".")[1] for name in imported(path) if "moiety." in name}
    if own == "intent":
        assert not rooms & MIXTURE
    elif own.removesuffix(".py") in MIXTURE:
        assert "intent" not in rooms


@pytest.mark.parametrize("path", [path for path in MODULES if floor_of(path) <= 1], ids=name_of)
def test_the_mathematics_knows_no_transformers(path: Path) -> None:
    foreign = {"transformers", "accelerate", "peft", "trl", "PIL"}
    assert not {name.split(".")[0] for name in imported(path)} & foreign


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE, f"{text.count(chr(10))} lines; one idea a file, at most {MAX_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines, at most {MAX_FUNCTION}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_door_prints(path: Path) -> None:
    if floor_of(path) == 4 or path.name == "chat.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        printed = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        assert not printed, f"line {node.lineno}: library code logs, only cli prints"


def test_no_private_path_and_no_debugging_variable() -> None:
    """D12 and D16: nothing of one person's machine, and no variable that slows everybody down."""
    forbidden = re.compile(r"/(home|work|root|Users)/[a-z]|CUDA_LAUNCH_BLOCKING\s*=|TORCH_DISTRIBUTED_DEBUG\s*=")
    kinds = {".py", ".md", ".yaml", ".toml", ".sh", ""}
    skipped = {".git", ".venv", "runs", ".mypy_cache", ".ruff_cache", ".hypothesis", "__pycache__"}
    for path in ROOT.rglob("*"):
        if not path.is_file() or path.suffix not in kinds or skipped & set(path.relative_to(ROOT).parts):
            continue
        if path == Path(__file__):
            continue
        found = forbidden.search(path.read_text(encoding="utf-8", errors="ignore"))
        assert not found, f"{path}: {found.group(0)!r}"


def test_packages_that_break_here_are_absent() -> None:
    """torchvision and torchcodec must never be needed: nothing of ours imports them."""
    for path in MODULES:
        assert not {name.split(".")[0] for name in imported(path)} & {"torchvision", "torchaudio", "torchcodec"}
