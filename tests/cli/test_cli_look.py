"""``moiety inspect``, ``chat`` and ``evaluate`` on real small models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from moiety.cli.look import load_both
from moiety.vlm.card import write_card
from moiety.vlm.model import load
from tests import model_folders

Run = Callable[..., Result]


def test_inspect_writes_page_pictures_and_numbers(moiety: Run, sparse: Path, tmp_path: Path) -> None:
    picture, output = model_folders.picture_file(), tmp_path / "look"
    result = moiety("inspect", sparse, picture, "Where is it?", "-o", output, "--max-new-tokens", 3, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "question: Where is it?" in result.stdout
    assert "prefill" in result.stdout
    assert result.stderr.endswith(f"open {output / 'index.html'}\n")
    assert {path.name for path in output.iterdir()} == {
        "index.html", "patches.png", "words.png", "shares.png", "depth.png", "coselection.png", "grounding.png",
        "routing.npz", "routing.json", "trace.safetensors",
    }  # fmt: skip
    again = json.loads(moiety("inspect", sparse, picture, "Where is it?", "-o", output, "--json").stdout)
    assert again["question"] == "Where is it?"
    assert [row["phase"] for row in again["rows"][:2]] == ["prefill", "prefill"]


def test_inspect_refuses_a_dense_model(moiety: Run, dense: Path, tmp_path: Path) -> None:
    result = moiety("inspect", dense, model_folders.picture_file(), "Where?", "-o", tmp_path / "look")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: this model is dense: it has no experts to look at; make it sparse first with `moiety upcycle`\n"
    )
    assert not (tmp_path / "look").exists()


def test_inspect_refuses_what_is_no_picture(moiety: Run, sparse: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    assert "cannot be decoded" in moiety("inspect", sparse, text, "Where?", "-o", tmp_path / "x").stderr
    result = moiety("inspect", sparse, tmp_path / "gone.png", "Where?", "-o", tmp_path / "x")
    assert (result.exit_code, result.stderr) == (2, f"error: no picture at {tmp_path / 'gone.png'}\n")


@pytest.mark.parametrize("verb", ["ground", "evaluate"])
def test_pictures_that_are_elsewhere_are_asked_for_before_the_model_is_loaded(
    moiety: Run, rows: Path, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "picture.png").rename(tmp_path / "elsewhere" / "picture.png")
    result = moiety(verb, tmp_path / "no-model", rows)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: picture 'picture.png' of row 'one' is not beside the rows, in {rows.parent}; give --images "
        "FOLDER_OR_TAR, several are searched; names in rows are paths inside it\n"
    )
    (tmp_path / "empty").mkdir()
    wrong = moiety(verb, tmp_path / "no-model", rows, "--images", tmp_path / "empty")
    assert f"of row 'one' is not in --images {tmp_path / 'empty'}; give --images FOLDER_OR_TAR" in wrong.stderr
    found = moiety(verb, tmp_path / "no-model", rows, "--images", moved.parent)
    assert "picture" not in found.stderr.splitlines()[0].replace(str(tmp_path), "")


def test_chat_through_a_pipe_survives_mistakes(moiety: Run, sparse: Path, tmp_path: Path) -> None:
    picture = model_folders.picture_file()
    lines = [
        "Where is it?",
        "",
        f"/image {tmp_path / 'gone.png'}",
        f"/image {picture}",
        "And here?",
        "/images",
        "/image",
        "/reset",
        "Hello?",
        "/help",
        "/quit",
        "never read",
    ]
    result = moiety("chat", sparse, "--image", picture, "--max-new-tokens", 2, given="\n".join(lines) + "\n")
    assert result.exit_code == 0, result.output
    assert f"error: no picture at {tmp_path / 'gone.png'}" in result.stdout
    assert f"{picture} goes with your next question" in result.stdout
    assert "error: unknown command /images; /image PATH adds a picture" in result.stdout
    assert "error: /image needs a path, for instance /image photo.jpg" in result.stdout
    assert "starting again" in result.stdout


def test_chat_ends_with_its_input(moiety: Run, dense: Path) -> None:
    assert moiety("chat", dense, "--max-new-tokens", 1, given="Hello?\n").exit_code == 0


@pytest.fixture
def bare(sparse: Path, tmp_path: Path) -> Path:
    """The sparse model without its processor."""
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copyfile(sparse / name, tmp_path / "bare" / name)
    return tmp_path / "bare"


def test_a_folder_without_processor_is_used_with_that_of_another(
    moiety: Run, bare: Path, sparse: Path, rows: Path, tmp_path: Path
) -> None:
    picture = model_folders.picture_file()
    verbs: dict[str, list[Any]] = {
        "evaluate": [bare, rows, "--limit", 1, "--max-new-tokens", 1],
        "chat": [bare, "--max-new-tokens", 1],
        "inspect": [bare, picture, "Where?", "--max-new-tokens", 1, "-o", tmp_path / "look"],
        "ground": [bare, rows, "-o", tmp_path / "ground"],
    }
    for verb, words in verbs.items():
        missing = moiety(verb, *words, given="Hello?\n")
        assert missing.exit_code == 2, verb
        assert f"no processor in {bare}" in missing.stderr
        assert "Give the folder that has it: --processor FOLDER" in missing.stderr
        found = moiety(verb, *words, "--processor", sparse, given="Hello?\n")
        assert found.exit_code == 0, (verb, found.stderr)
    told = moiety("data", "check", rows, "--model", bare)
    assert (told.exit_code, f"no processor in {bare}" in told.stderr) == (2, True)
    assert moiety("data", "check", rows, "--model", bare, "--processor", sparse).exit_code == 0
    refused = moiety("data", "check", rows, "--processor", sparse)
    assert f"--processor {sparse} reads rows for a model; give that as well: --model FOLDER" in refused.stderr
    refused = moiety("data", "check", "demo", "--processor", sparse)
    assert f"--processor is for a FILE; a recipe names it: --set model.processor={sparse}" in refused.stderr


def test_chat_refuses_a_first_picture_that_is_missing(moiety: Run, dense: Path) -> None:
    result = moiety("chat", dense, "--image", "gone.png")
    assert (result.exit_code, result.stderr) == (2, "error: no picture at gone.png\n")


def test_evaluate_scores_by_type_and_resumes(moiety: Run, sparse: Path, rows: Path, tmp_path: Path) -> None:
    words = ["evaluate", sparse, rows, "--max-new-tokens", 2, "--predictions", tmp_path / "answers.jsonl"]
    result = moiety(*words)
    assert result.exit_code == 0, result.stderr
    assert "exist" in result.stdout
    assert "yes_no" in result.stdout
    written = (tmp_path / "answers.jsonl").read_text()
    again = json.loads(moiety(*words, "--json").stdout)
    assert set(again["types"]) == {"exist", "place"}
    assert (tmp_path / "answers.jsonl").read_text() == written
    other = moiety(*words[:4], 3, *words[5:])
    assert other.exit_code == 2
    assert "max_new_tokens" in other.stderr


def test_evaluate_adds_its_scores_to_the_card(moiety: Run, sparse: Path, rows: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(sparse, model)
    words = ["evaluate", model, rows, "--max-new-tokens", 1, "--card"]
    (model / "README.md").unlink(missing_ok=True)
    result = moiety(*words)
    assert result.exit_code == 2
    assert f"--card adds scores to {model / 'README.md'}, which is not there" in result.stderr
    write_card(model, load(model))
    for _ in range(2):
        result = moiety(*words, "--limit", 2)
        assert result.exit_code == 0, result.stderr
    card = (model / "README.md").read_text()
    assert card.count(f"### {rows.name} (") == 1
    assert "first 2" in card
    assert re.search(r"\| (exist|place) \| \w+ \| \d+ \| [\d.]+", card)


def test_evaluate_reads_weights_in_the_type_that_is_asked_for(
    moiety: Run, sparse: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("moiety.cli.answers.load_both", lambda *words: seen.append(load_both(*words)) or seen[-1])
    for words, dtype in (([], torch.float32), (["--dtype", "bfloat16"], torch.bfloat16)):
        result = moiety("evaluate", sparse, rows, "--limit", 1, "--max-new-tokens", 1, *words)
        assert result.exit_code == 0, result.stderr
        assert seen[-1][0].dtype == dtype
    result = moiety("evaluate", sparse, rows, "--dtype", "half")
    assert result.exit_code == 2
    assert "dtype='half' is unknown; give one of float32, bfloat16" in result.stderr


def test_evaluate_limit_and_blank_pictures(moiety: Run, sparse: Path, rows: Path) -> None:
    result = moiety("evaluate", sparse, rows, "--limit", 1, "--blank-image", "--max-new-tokens", 1)
    assert "with blank pictures" in result.stdout
    assert "all 1 questions" in result.stdout


@pytest.mark.parametrize(
    "words",
    [["--decoding", "context_aware", "--set", "weight=0.5"], ["--decoding", "dola"], ["--decoding", "visual_co"]],
)
def test_evaluate_says_how_it_decoded(moiety: Run, dense: Path, rows: Path, words: list[str]) -> None:
    result = moiety("evaluate", dense, rows, "--max-new-tokens", 2, *words)
    if words[1] == "visual_co":
        assert result.exit_code == 2
        assert "method: Input should be 'greedy', 'context_aware', 'visual_contrastive' or 'dola'" in result.stderr
        return
    assert result.exit_code == 0, result.stderr
    said = {"context_aware": "context_aware, weight 0.5, at", "dola": "dola, plausibility 0.1, high layers, published"}
    assert said[words[1]] in result.stdout


def test_evaluate_refuses_a_weight_without_a_contrast_and_a_clamp_without_a_gate(
    moiety: Run, sparse: Path, rows: Path
) -> None:
    result = moiety("evaluate", sparse, rows, "--set", "weight=2.0")
    assert result.exit_code == 2
    assert (
        "decoding method 'greedy' has no weight; methods with one: context_aware, visual_contrastive" in result.stderr
    )
    result = moiety("evaluate", sparse, rows, "--clamp-alpha", 0.02)
    assert result.exit_code == 2
    assert "this model of scheme 'moiie' has none; leave it out, or give a model of scheme asymoe" in result.stderr


def test_ground_measures_a_file_beside_a_reference(
    moiety: Run, sparse: Path, dense: Path, rows: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    result = moiety("ground", sparse, rows, "--reference", dense, "-o", output, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    for word in ("moiie, 2 questions", "CAG", "F of each expert %", "entropy of text per layer"):
        assert word in result.stdout
    assert f"open {output / 'index.html'}" in result.stderr
    assert "reference: questions 2/2" in result.stderr
    assert {path.name for path in output.iterdir()} == {
        "index.html", "grounding.png", "grounding.json", "grounding.npz",
    }  # fmt: skip
    again = json.loads(moiety("ground", sparse, rows, "--limit", 1, "-o", output, "--json").stdout)
    assert again["num_samples"] == 1
    assert [row["layer"] for row in again["rows"]] == [0, 1, 2, 3]


@pytest.mark.parametrize("verb", ["evaluate", "inspect", "ground", "chat", "params"])
def test_a_folder_that_is_no_model(moiety: Run, verb: str, rows: Path) -> None:
    more = {"evaluate": [rows], "ground": [rows], "inspect": [rows.parent / "picture.png", "?"]}.get(verb, [])
    result = moiety(verb, rows.parent, *more)
    assert result.exit_code == 2
    assert f"{rows.parent} has no config.json: it is no Hugging Face model folder" in result.stderr
