"""How the program begins and ends, whatever the verb."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from moiety.cli import app
from moiety.cli.door import keeps_files, new_app, progress_line

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


def test_ctrl_c_promises_what_stands_on_the_disk(tmp_path: Path) -> None:
    def stopped_in_training() -> None:
        keeps_files(tmp_path, {"**/checkpoint-*/*": "the last checkpoint", "*.jsonl": "the answers"})
        stop(KeyboardInterrupt())

    result = ends(stopped_in_training)
    assert result.exit_code == 130
    assert result.stderr == "stopped; nothing was kept yet: the same `moiety train` command begins again\n"
    (tmp_path / "answers.jsonl").touch()
    assert ends(stopped_in_training).stderr == (
        "stopped; give the same `moiety train` command again to go on from the answers\n"
    )
    (tmp_path / "stage.unfinished" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "stage.unfinished" / "checkpoint-3" / "model.safetensors").touch()
    assert ends(stopped_in_training).stderr == (
        "stopped; give the same `moiety train` command again to go on from the last checkpoint\n"
    )


def test_ctrl_c_in_a_verb_without_checkpoints() -> None:
    result = ends(lambda: stop(KeyboardInterrupt()), "other")
    assert (result.exit_code, result.stderr) == (130, "stopped\n")


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_ctrl_c_that_a_library_swallows_is_heard_at_the_next_step() -> None:
    steps = []

    def work() -> None:
        tell = progress_line("answers")
        for done in range(5):
            tell(done, 5)
            steps.append(done)
            with contextlib.suppress(BaseException):  # as a library does that tries an import
                if done == 2:
                    signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert ends(work).exit_code == 130
        assert steps == [0, 1, 2]
        assert ends(lambda: progress_line("answers")(1, 2)).exit_code == 0  # the next run is not stopped by it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ends(lambda: None)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_that_lacks_letters_gets_the_nearest(encoding: str) -> None:
    program = (
        "import sys\nfrom moiety.cli.letters import write_what_can_be_shown\nwrite_what_can_be_shown()\n"
        "from moiety.cli.screen import show, show_json, table\n"
        "show(table('a · b → c', ('name', '#value'), [('naïve \u4f60', None), ('x\\ud800', 0.5)], note='…'))\n"
        "show_json({'naïve': '\u4f60 · …'})\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )  # fmt: skip
    shown = found.stdout.decode(encoding)
    assert r"\u4f60" in shown
    assert json.loads(shown[shown.index("{") :]) == {"naïve": "\u4f60 · …"}
    assert encoding != "ascii" or "a - b -> c" in shown


def test_help_on_an_ascii_terminal() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for words in (["chat", "--help"], ["recipes", "cp", "nö-such · recipe"]):
        found = subprocess.run([sys.executable, "-m", "moiety", *words], capture_output=True, env=environment)
        assert b"Traceback" not in found.stderr
        found.stdout.decode("ascii")


@pytest.mark.parametrize("words", [["recipes", "keys"], ["recipes", "ls"], ["train", "--help"], ["recipes", "cp", "x"]])
def test_a_reader_that_has_gone_ends_the_program_quietly(words: list[str]) -> None:
    """As ``moiety … | true``: stdout, and for the last one, an error, stderr too, is a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    errors = writer if words[1] == "cp" else subprocess.PIPE
    found = subprocess.run([sys.executable, "-m", "moiety", *words], stdout=writer, stderr=errors)
    os.close(writer)
    assert found.returncode == 141
    assert not found.stderr


def test_a_pipe_of_somebody_else_is_an_error() -> None:
    result = ends(lambda: stop(BrokenPipeError(32, "Broken pipe")))
    assert (result.exit_code, result.stderr) == (2, "error: [Errno 32] Broken pipe\n")


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
