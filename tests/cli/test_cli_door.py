"""How the program begins and ends, whatever the verb."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from moiety.cli import app
from moiety.cli.door import new_app

# pydantic is not ours to avoid: typer reads options with it
HEAVY = {"torch", "transformers", "numpy", "yaml", "PIL", "matplotlib", "sklearn", "accelerate"}
VERBS = (
    *("env", "recipes", "upcycle", "params", "data", "train", "compare", "evaluate", "score", "inspect", "chat"),
    *("serve", "demo"),
)


def test_help_of_every_verb_imports_nothing_heavy() -> None:
    program = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from moiety.cli import app\n"
        f"calls = [['--help'], *([verb, '--help'] for verb in {VERBS})]\n"
        "codes = [CliRunner().invoke(app, call).exit_code for call in calls]\n"
        "print(json.dumps([codes, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    codes, modules = json.loads(found.stdout)
    assert set(codes) == {0}
    assert not HEAVY & set(modules)


def test_help_names_every_verb() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert [verb for verb in VERBS if verb not in text] == []


def ends(call: Callable[[], object], verb: str = "train") -> Result:
    """The end of a program whose verbs do `call`."""
    program = new_app()

    @program.command("train")
    def train() -> None:
        call()

    @program.command("other")
    def other() -> None:
        call()

    return CliRunner().invoke(program, [verb])


def stop(error: BaseException) -> None:
    raise error


def test_an_error_of_ours_is_one_block_and_code_2() -> None:
    from moiety.groups import ExpertGroup, ExpertGroups

    result = ends(lambda: ExpertGroups((ExpertGroup("inter", -1, ("text",)),), {0: "text"}))
    assert result.exit_code == 2
    assert result.stderr == "error: expert group 'inter' has -1 experts; give 0 or more\n"
    assert "Traceback" not in result.output


def test_a_missing_file_is_for_the_user_wherever_it_was_missed() -> None:
    result = ends(lambda: Path("no-such-file.json").read_text())
    assert result.exit_code == 2
    assert result.stderr == "error: [Errno 2] No such file or directory: 'no-such-file.json'\n"


def test_a_key_error_of_ours_is_said_without_quotes() -> None:
    from moiety.groups import ExpertGroup, ExpertGroups

    groups = ExpertGroups((ExpertGroup("inter", 1, ("text",)),), {0: "text"})
    result = ends(lambda: groups.slice_of("intre"))
    assert result.stderr == "error: no expert group 'intre'; known: inter; did you mean 'inter'?\n"


def test_a_mistake_in_the_program_keeps_its_traceback() -> None:
    result = ends(lambda: stop(ValueError("raised in this test, which is not the package")))
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1


def test_ctrl_c_says_how_to_go_on_and_gives_130() -> None:
    result = ends(lambda: stop(KeyboardInterrupt()))
    assert result.exit_code == 130
    assert result.stderr == "stopped; give the same `moiety train` command again to go on from the last checkpoint\n"


def test_ctrl_c_in_a_verb_without_checkpoints() -> None:
    result = ends(lambda: stop(KeyboardInterrupt()), "other")
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


@pytest.mark.parametrize("place", ["before", "behind"])
def test_debug_shows_the_traceback(place: str) -> None:
    words = ["recipes", "cp", "no-such-recipe"]
    result = CliRunner().invoke(app, ["--debug", *words] if place == "before" else [*words, "--debug"])
    assert isinstance(result.exception, FileNotFoundError)
    quiet = CliRunner().invoke(app, words)
    assert quiet.exit_code == 2


def test_an_unknown_verb_is_refused(moiety: Callable[..., Result]) -> None:
    result = moiety("trian")
    assert result.exit_code == 2
    assert "train" in result.stderr
