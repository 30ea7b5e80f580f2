"""Every command and Python line of the README runs in tiny form, and its numbers are those of their sources."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import CLIPVisionConfig, LlavaConfig, Qwen2Config
from typer.main import get_command
from typer.testing import CliRunner

from moiety.cli import app
from moiety.intent.world.files import write_intent_world
from moiety.intent.world.signs import INTENTS
from moiety.moe.routers import SCHEMES
from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import MoESettings, Part
from moiety.vlm.parameters import count_parameters, stage_memory
from moiety.worlds.scenes import write_scenes
from tests import model_folders
from tests.vlm.assemble.parts import language_folder, tower_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
BASH = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
INLINE = [words for words in re.findall(r"`([^`\n]+)`", README) if words.startswith("moiety ")]
COMMANDS = get_command(app)
CONFIRMED_BY_HAND = {"git clone <this repository> moiety", "cd moiety", "pip install ."}
"""They need a network or another folder; .ci/run begins after them, in a clean checkout."""
PARSED = {"env": "its check has a test of its own", "serve": "it never ends by itself"}
"""Commands whose words are parsed as printed and which are not run here, with the reason."""
DRY = {"compare", "fetch-demo-weights"}
"""Commands that run with ``--dry-run`` added: the whole would take minutes, or a network."""


def lines_of(block: str) -> list[str]:
    """The commands of a block, without comments."""
    return [line for raw in block.splitlines() if (line := re.sub(r"(^|\s)#.*", "", raw).strip())]


def parse(words: list[str]) -> tuple[list[str], Any]:
    """Names of a command and its context, after its words were parsed as the command line would; nothing runs."""
    context, command, names = COMMANDS.make_context("moiety", list(words), resilient_parsing=True), COMMANDS, []
    rest = list(words)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        names.append(name)
        if hasattr(command, "resolve_command"):
            context = command.make_context(name, list(rest), parent=context, resilient_parsing=True)
    return names, command.make_context(names[-1], rest, parent=context)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the README takes for granted: a dense model, a picture, rows, and what `make demo` leaves behind."""
    shutil.copytree(model_folders.dense_folder(), tmp_path / "my-llava")
    config = tmp_path / "my-llava" / "config.json"  # a model of somebody else says nothing of its past
    config.write_text(json.dumps({**json.loads(config.read_text()), "provenance": None}))
    model_folders.picture().save(tmp_path / "photo.jpg")
    data = tmp_path / "my-data"
    (data / "images").mkdir(parents=True)
    model_folders.picture().save(data / "images" / "picture.png")
    for split in ("train", "test"):
        rows = [model_folders.row(f"{split}-{answer}", f"Is it {answer}?", answer) for answer in ("yes", "no")]
        model_folders.write_rows(data / f"{split}.jsonl", rows)
    language_folder(tmp_path / "weights" / "smollm2-135m-instruct")
    tower_folder(tmp_path / "weights" / "dinov2-small", "dinov2")
    demo = tmp_path / "runs" / "demo"
    write_scenes(demo / "scenes", num_train=20, num_test=20)
    shutil.copytree(model_folders.sparse_folder(), demo / "runs" / "moiie-seed0" / "questions")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> None:
    """One command of the README, in the folder of the test."""
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), line
        assert f"; make {words[1]}" in (ROOT / ".ci" / "run").read_text(), line
    elif words[0] == "source":
        assert f"VENV   ?= {words[1].removesuffix('/bin/activate')}\n" in (ROOT / "Makefile").read_text(), line
    elif words[0] == "tar":
        subprocess.run(words, check=True)
    elif words[0] == "moiety":
        names, _ = parse(words[1:])
        if names[0] not in PARSED:
            dry = ["--dry-run"] if names[0] in DRY else []
            result = CliRunner().invoke(app, [*words[1:], *dry], input="/quit\n")
            assert result.exit_code == 0, f"{line}\n{result.output}"
    else:
        assert line in CONFIRMED_BY_HAND, f"no test knows how to run {line!r}"


@pytest.mark.parametrize("block", BASH, ids=lambda block: lines_of(block)[0][:30])
def test_every_command_runs(block: str, desk: Path) -> None:
    """The commands of a block run one after the other, each on what the ones before it left behind."""
    if "--overwrite" in block:
        shutil.copytree(model_folders.sparse_folder(), desk / "my-moiie")
    earlier = [line for other in BASH[: BASH.index(block)] for line in lines_of(other)]
    for line in lines_of(block):
        if line not in earlier:
            run(line)


def test_a_wrong_word_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["serve", "my-moiie", "--prot", "8000"])
    with pytest.raises(AssertionError, match=r"no test knows how to run 'rm photo\.jpg'"):
        run("rm photo.jpg")


@pytest.mark.parametrize("words", INLINE)
def test_every_command_in_the_prose_exists(words: str) -> None:
    """Names and options of commands that a sentence mentions; the words in capitals stand for something."""
    given = shlex.split(words)[1:]
    command: Any = COMMANDS
    for word in given:
        if hasattr(command, "commands"):
            assert word in command.commands, words
            command = command.commands[word]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in given if word.startswith("-")} <= known, words


def test_ci_runs_exactly_the_targets_of_the_readme() -> None:
    named = re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE)
    in_ci = re.findall(r"; make ([a-z-]+)", (ROOT / ".ci" / "run").read_text())
    assert set(named) == set(in_ci)


def test_the_python_of_the_first_run_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(PYTHON[0], {})
    printed = capsys.readouterr().out
    assert "max_difference" in printed
    assert (desk / "my-moiie" / "model.safetensors").is_file()
    assert list((desk / "lens").glob("*.html"))


def test_the_lines_from_clip_to_intent_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = write_intent_world(tmp_path / "world", num_train=24, num_dev=12, num_test=12)
    shutil.copy(next(world.folder.glob("clips/*.mp4")), world.folder / "new.mp4")
    monkeypatch.chdir(world.folder)
    exec(PYTHON[1], {})
    said = capsys.readouterr().out
    assert any(f"['{intent.label}']" in said for intent in INTENTS)
    assert (world.folder / "model" / "model.safetensors").is_file()


def test_the_page_of_schemes_names_each() -> None:
    page = (ROOT / "docs" / "schemes.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `([a-z_]+)` \|", page, flags=re.MULTILINE))
    assert named == set(SCHEMES) - {"dense"}


def test_the_releases_and_extras_it_names_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert {"torch>=2.10", "transformers>=5.19,<6"} <= set(project["dependencies"])
    assert "moiety needs Python 3.11 or newer" in README
    assert "transformers 5.19 or newer, below 6; torch 2.10 or newer" in README
    named = re.findall(r"pip install '\.\[(\w+)\]'", README)
    assert named
    assert set(named) <= set(project["optional-dependencies"])


def test_the_memory_of_two_billion_parameters_is_what_moiety_estimates() -> None:
    text = Qwen2Config(
        vocab_size=151_936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    tower = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14,
    )  # fmt: skip
    config = LlavaConfig(text_config=text, vision_config=tower, image_token_id=151_646, tie_word_embeddings=True)
    lean = AsyMoESettings(preset="lean", size_plan="dense_budget")
    schemes = (None, MoESettings(scheme="moiie"), MoESettings(scheme="asymoe", asymoe=lean))
    counts = [count_parameters(config, settings) for settings in schemes]
    everything = get_args(Part)
    rows = {
        "all parameters, in billions": [f"{count.total / 1e9:.2f}" for count in counts],
        "activated by one text token, in billions": [
            f"{count.activated_by_group.get('text', count.activated) / 1e9:.2f}" for count in counts
        ],
        "weights in bfloat16 (answer questions)": [
            f"{stage_memory(count, [], torch.bfloat16):.1f}" for count in counts
        ],
        "train everything in bfloat16": [f"{stage_memory(count, everything, torch.bfloat16):.1f}" for count in counts],
        "train everything in float32": [f"{stage_memory(count, everything, torch.float32):.1f}" for count in counts],
    }
    for name, numbers in rows.items():
        assert f"| {name} | {' | '.join(numbers)} |" in README


def test_its_results_are_those_of_the_page_of_results() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = page[page.index("## Real photos") :]
    rows = re.findall(r"^\| (\w+) \| 1\.\d\d M \| (.*) \|$", README, flags=re.MULTILINE)
    assert {scheme for scheme, _ in rows} == {"dense", "dense_wide", "vanilla", "modality_routed", "moiie"}
    for scheme, cells in rows:
        there = re.search(rf"^\| {scheme}(?: \(fewer activated parameters\))? \| 3 \|.*$", section, flags=re.MULTILINE)
        assert there is not None, scheme
        for mean, half in re.findall(r"([\d.]+) ± ([\d.]+)", cells):
            intervals = re.findall(rf" {re.escape(mean)} \[([\d.]+), ([\d.]+)\]", there.group())
            # 0.11: both ends and the half are rounded to one digit
            assert any(abs((float(high) - float(low)) / 2 - float(half)) < 0.11 for low, high in intervals), (
                scheme,
                mean,
            )


def test_every_file_it_links_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_the_glossary_explains_the_words_of_the_readme() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    heads = {
        head
        for line in re.findall(r"^\*\*.*$", glossary, flags=re.MULTILINE)
        for head in re.findall(r"\*\*(.+?)\*\*", line)
    }
    words = (
        "modality", "patch", "expert", "intra-modality expert", "inter-modality expert", "router", "gate", "scheme",
        "FFN", "activated parameters", "equal activated parameters", "parity receipt", "upcycling", "recipe",
        "evidence", "mixture-of-experts", "blank picture", "logits", "lens",
    )  # fmt: skip
    assert {word for word in words if word in README} <= heads
