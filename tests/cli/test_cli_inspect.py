"""``moiety inspect`` on saved traces and on two models, and ``moiety evaluate --trace``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from moiety.lens import read_trace
from moiety.recipe.recipe import MoESettings
from moiety.vlm.upcycle import upcycle_folder
from tests import model_folders
from tests.evaluate.benchmarks.made_options import MADE_OPTIONS

Run = Callable[..., Result]
TWO_FORMS = (
    "error: give MODEL IMAGE QUESTION, with --beside MODEL2 to compare; or --trace FILE alone, with --beside FILE2 to "
    "compare"
)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with four sparse layers of six experts."""
    folder = tmp_path_factory.mktemp("models") / "vanilla"
    settings = MoESettings(scheme="vanilla", experts={"inter": 6}, layers="all", router_init_std=0.5)
    upcycle_folder(model_folders.dense_folder(), folder, settings)
    return folder


def test_a_run_is_traced_and_looked_at_without_a_model(
    moiety: Run, sparse: Path, other: Path, rows: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for model, path in ((sparse, one), (other, two)):
        result = moiety("evaluate", model, rows, "--max-new-tokens", 2, "--trace", path, "--trace-limit", 1)
        assert result.exit_code == 0, result.stderr
        assert f"the routing is in {path}; look at it with `moiety inspect --trace {path}`" in result.stderr
    trace = read_trace(one)
    assert (trace.num_questions, [question.id for question in trace.questions]) == (2, ["one"])
    assert trace.questions[0].expected == "yes"

    output = tmp_path / "look"
    result = moiety("inspect", "--trace", one, "--beside", two, "-o", output, "--dpi", 50)
    assert result.exit_code == 0, result.stderr
    assert "moiie: vision×1 + inter×2 + text×1, 2 questions" in result.stdout
    assert "vanilla: inter×6, 2 questions" in result.stdout
    assert result.stderr.endswith(f"open {output / 'index.html'}\n")
    assert (output / "beside" / "coselection.png").is_file()
    told = json.loads(moiety("inspect", "--trace", one, "-o", output, "--json", "--format", "pdf").stdout)
    assert (output / "shares.pdf").read_bytes().startswith(b"%PDF")
    assert told["traces"][0]["questions"] == 2
    assert sum(told["traces"][0]["rows"][0]["load_share"]) == pytest.approx(1, abs=1e-3)


def test_benchmarks_have_a_trace_each(moiety: Run, sparse: Path, tmp_path: Path) -> None:
    MADE_OPTIONS["pope"](tmp_path / "data" / "pope")
    words = ["evaluate", sparse, "--benchmarks", "pope", "--data", tmp_path / "data", "-o", tmp_path / "answers"]
    result = moiety(*words, "--trace", tmp_path / "run.safetensors", "--max-new-tokens", 1)
    assert result.exit_code == 0, result.stderr
    assert f"pope: the routing is in {tmp_path / 'run.pope.safetensors'}" in result.stderr
    trace = read_trace(tmp_path / "run.pope.safetensors")
    assert trace.settings["benchmark"] == "pope"
    assert trace.num_questions == len(trace.questions) > 1


def test_two_models_answer_one_question(moiety: Run, sparse: Path, other: Path, tmp_path: Path) -> None:
    picture, output = model_folders.picture_file(), tmp_path / "look"
    question = "</script><img src=x onerror=alert(1)>?"
    result = moiety("inspect", sparse, picture, question, "-o", output, "--max-new-tokens", 2, "--beside", other)
    assert result.exit_code == 0, result.stderr
    assert "vanilla: inter×6" in result.stdout
    page = (output / "index.html").read_text()
    assert page.count('<img class="plate"') == 2
    for folder in (sparse, other):
        assert f"What it leans on: {folder.parent.name}/{folder.name}" in page
    assert "<img src=x" not in page
    models = json.loads(re.findall(r'id="data">(.*)</script>', page)[0])["models"]
    assert [model["layers"] for model in models] == [[1, 3], [0, 1, 2, 3]]
    assert [model["questions"][0]["question"] for model in models] == [question] * 2
    for folder, layers in ((output, [1, 3]), (output / "beside", [0, 1, 2, 3])):
        assert read_trace(folder / "trace.safetensors").layers == layers


def test_a_dense_second_model_is_refused_before_the_first_is_asked(
    moiety: Run, sparse: Path, dense: Path, tmp_path: Path
) -> None:
    picture = model_folders.picture_file()
    result = moiety("inspect", sparse, picture, "Where?", "--beside", dense, "-o", tmp_path / "look")
    assert (result.exit_code, result.stderr) == (
        2, f"error: --beside {dense} is dense: it has no experts to look at; give a sparse model\n",
    )  # fmt: skip
    assert not (tmp_path / "look").exists()


def test_a_dense_model_cannot_be_traced(moiety: Run, dense: Path, rows: Path, tmp_path: Path) -> None:
    result = moiety("evaluate", dense, rows, "--trace", tmp_path / "t.safetensors")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: this model is dense: it has no experts whose routing could be traced")
    assert not (tmp_path / "t.safetensors").exists()


@pytest.mark.parametrize(
    "words",
    [[], ["m"], ["m", "p"], ["m", "p", "q", "--trace", "t"], ["m", "--trace", "t"], ["--beside", "t"]],
)  # fmt: skip
def test_half_a_command(moiety: Run, words: list[str]) -> None:
    result = moiety("inspect", *words)
    assert (result.exit_code, result.stderr) == (2, f"{TWO_FORMS}\n")


def test_options_that_do_not_fit(moiety: Run, sparse: Path, tmp_path: Path) -> None:
    result = moiety("inspect", sparse, model_folders.picture_file(), "Where?", "--only", "x")
    assert (result.exit_code, result.stderr) == (2, f"{TWO_FORMS}; --only is for traces\n")
    gone = tmp_path / "gone.safetensors"
    assert f"error: no trace at {gone}; make one with" in moiety("inspect", "--trace", gone).stderr
    assert "not as 'gif'" in moiety("inspect", "--trace", gone, "--format", "gif").stderr
    weights = sparse / "model.safetensors"
    assert "is a safetensors file without a routing trace" in moiety("inspect", "--trace", weights).stderr
