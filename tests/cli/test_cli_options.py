"""What all verbs share: ``--set`` is a key of a recipe everywhere, and outputs are tried before any work is done."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from moiety.cli import app
from moiety.cli.options import keys_of, takes_groups

Run = Callable[..., Result]


def commands(group: TyperGroup | None = None, name: str = "") -> dict[str, typer.core.TyperCommand]:
    """Words of a verb -> its command, for all verbs."""
    found = {}
    for word, command in (group or typer.main.get_command(app)).commands.items():  # type: ignore[union-attr]
        words = f"{name} {word}".strip()
        found |= commands(command, words) if isinstance(command, TyperGroup) else {words: command}
    return found


def test_set_is_a_key_of_a_recipe_at_every_verb_and_its_help_says_one_of_that_verb() -> None:
    examples = {}
    for words, command in commands().items():
        for option in command.params:
            if "--set" in option.opts:
                examples[words] = re.search(r"for instance ([\w.]+)=", option.help or "")  # type: ignore[attr-defined]
    told = {words: example[1] for words, example in examples.items() if example is not None}
    assert told == {
        **dict.fromkeys(("train", "compare", "params", "recipes validate"), "moe.top_k"),
        **dict.fromkeys(("data check", "data stats"), "data.max_length"),
        **dict.fromkeys(("intent fit", "intent compare"), "model.hidden"),
        **dict.fromkeys(("intent predict", "intent evaluate", "intent describe-labels"), "data.target"),
        "upcycle": "moe.norm_topk",
        "evaluate": "evaluate.decoding.weight",
    }


def test_a_key_may_stand_without_the_section_that_a_verb_reads() -> None:
    assert keys_of("moe", ["moe.top_k=1", "norm_topk=false"]) == ["top_k=1", "norm_topk=false"]
    assert keys_of("moe", None) is None
    told = "--set data.max_length=5: this command reads the keys below 'moe' only; leave it out"
    with pytest.raises(ValueError, match=told):
        keys_of("moe", ["data.max_length=5"])


def test_upcycle_and_params_take_whole_keys(moiety: Run, dense: Path, tmp_path: Path) -> None:
    for words in (["upcycle", dense, tmp_path / "new", "--dry-run"], ["params", dense, "--scheme", "moiie"]):
        short, whole = (moiety(*words, "--set", f"{name}expert_ffn=16") for name in ("", "moe."))
        assert short.exit_code == 0, short.stderr
        assert short.stdout == whole.stdout
        assert short.stdout != moiety(*words).stdout
        other = moiety(*words, "--set", "compare.seeds=[0]")
        assert (other.exit_code, other.stdout) == (2, "")
        assert "--set compare.seeds=[0]: this command reads the keys below 'moe' only" in other.stderr


def test_a_key_that_has_no_effect_is_refused(moiety: Run, dense: Path, rows: Path) -> None:
    told = moiety("params", dense, "--set", "moe.top_k=1").stderr
    assert f"--set moe.top_k=1 changes a key of a recipe, and {dense} is a model; give --scheme as well" in told
    told = moiety("data", "check", rows, "--set", "data.max_length=5").stderr
    assert told == f"error: --set data.max_length=5 changes a key of a recipe, and {rows} is a conversation file\n"


OUTPUTS = {
    "upcycle": ["DENSE", "OUT", "--dry-run"],
    "train": ["RECIPE", "output=OUT"],
    "compare": ["RECIPE", "output=OUT"],
    "evaluate": ["NONE", "ROWS", "--predictions", "OUT"],
    "evaluate --trace": ["NONE", "ROWS", "--trace", "OUT"],
    "evaluate --benchmarks": ["NONE", "--benchmarks", "pope", "--data", "NONE", "-o", "OUT"],
    "inspect": ["NONE", "NONE", "?", "-o", "OUT"],
    "ground": ["NONE", "ROWS", "-o", "OUT"],
    "demo": ["-o", "OUT"],
    "data make conflict": ["OUT"],
    "data make containment": ["OUT"],
    "data check": ["NONE.jsonl", "--fix-list", "OUT"],
    "data open": ["NONE.jsonl", "OUT"],
    "recipes cp": ["demo", "OUT"],
    "intent predict": ["NONE", "NONE", "--out", "OUT"],
    "intent evaluate": ["NONE", "NONE", "--split", "test", "-o", "OUT"],
    "intent demo": ["-o", "OUT"],
}
"""Verb -> words, where OUT cannot be written and NONE does not exist: the output is what is refused."""


@pytest.mark.parametrize("verb", OUTPUTS)
def test_an_output_below_a_file_is_refused_before_anything_else(
    moiety: Run, verb: str, rows: Path, dense: Path, tmp_path: Path
) -> None:
    below = rows / "out"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(root=tmp_path))
    given = {"OUT": below, "NONE": tmp_path / "none", "ROWS": rows, "DENSE": dense, "RECIPE": recipe}
    words = [given.get(word, word.replace("OUT", str(below))) for word in OUTPUTS[verb]]
    before = rows.read_text()
    result = moiety(*verb.partition(" --")[0].split(), *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == f"error: {below} cannot be written: {rows} is a file, not a folder"
    assert rows.read_text() == before


RECIPE = """name: small
output: out
model: {{scratch: {{vocab: 300, hidden: 32, ffn: 32, heads: 2, layers: 2, vision_hidden: 32, vision_ffn: 32,
  vision_heads: 2, vision_layers: 1, image_size: 32, patch_size: 8}}}}
data: {{root: {root}, images: [.]}}
stages:
  - {{name: experts, data: [rows.jsonl], trains: [experts, router], sparse: true, train: {{max_steps: 1}}}}
evaluate: {{data: [rows.jsonl], max_new_tokens: 1}}
"""


def test_every_option_that_names_an_output_is_in_the_list_above() -> None:
    named = {"-o", "--output", "--out", "--predictions", "--trace", "--fix-list"}
    writes = {words for words, command in commands().items() for one in command.params if named & set(one.opts)}
    asked = {verb.partition(" --")[0] for verb in OUTPUTS}
    # inspect --trace reads; describe-labels writes --out and has its test in tests/intent
    assert writes - asked == {"intent describe-labels"}


@dataclass(frozen=True)
class Two:
    """Two options."""

    number: Annotated[int, typer.Option(help="A number.")] = 3
    flag: Annotated[bool, typer.Option("--flag")] = False


def test_a_group_of_options_reaches_the_verb_as_one_object() -> None:
    program, seen = typer.Typer(), []

    @program.command()
    @takes_groups
    def verb(name: str, two: Two, last: str = "x") -> None:
        seen.append((name, two, last))

    assert CliRunner().invoke(program, ["a"]).exit_code == 0
    assert CliRunner().invoke(program, ["a", "--number", "5", "--flag", "--last", "y"]).exit_code == 0
    assert seen == [("a", Two(), "x"), ("a", Two(5, True), "y")]


@pytest.mark.parametrize("words", sorted(commands()))
def test_help_cuts_no_word_at_80_columns(words: str) -> None:
    """rich ends a word that does not fit with an ellipsis; a name that is to be typed must stay whole."""
    result = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if "…" in line] == []


@pytest.mark.parametrize("words", ["", "data", "data make", "intent", "recipes", *sorted(commands())])
def test_help_shows_every_word_whole_at_60_columns(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of options and commands, and each word of their help: it may be a key or a value to type."""
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as end:  # typer's test runner has a fixed width
        app([*words.split(), "--help"], prog_name="moiety")
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert max(map(len, text.splitlines())) <= 60
    command = typer.main.get_command(app)
    for name in words.split():
        command = command.commands[name]  # type: ignore[attr-defined]
    expected = "--help " + (command.help or "")
    for option in command.params:
        if option.param_type_name == "option":
            expected += " " + " ".join([*option.opts, *option.secondary_opts])
        else:
            assert (option.metavar or str(option.name)).lower() in text.lower()  # type: ignore[attr-defined]
        expected += " " + (getattr(option, "help", None) or "")
    for below in getattr(command, "commands", {}).values():
        expected += f" {below.name} " + (below.help or "").split("\n\n")[0]
    shown = text.replace(",", " ").split()
    assert set(expected.replace(",", " ").split()) - set(shown) == set()
