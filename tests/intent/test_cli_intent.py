"""``moiety intent`` from the first word to the last file: results on stdout, messages on stderr, exit codes."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from moiety.cli import app, recipes
from moiety.cli.door import farewell, stop
from moiety.cli.intent import keeps_runs
from moiety.intent import IntentClassifier
from moiety.intent.answers import samples_at
from moiety.intent.data.hazumi import read_hazumi
from tests.intent.small_folder import SMALL, TEXTS, tree_of, write_folder

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _logger_put_back() -> Iterator[None]:
    """The door sets up the logger of the package, as a program may; other tests want it as it was."""
    logger = logging.getLogger("moiety")
    before = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = before


def moiety(*words: object) -> Result:
    """Run the command line; what is not caught there is raised here."""
    return CliRunner().invoke(app, ["intent", *(str(word) for word in words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(scope="module")
def recipe(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(tree_of(folder, path.parent / "out")))
    return path


@pytest.fixture(scope="module")
def fitted(recipe: Path) -> tuple[Result, Path]:
    """What ``fit`` said, and the model that it wrote."""
    result = moiety("fit", recipe, "model.max_epochs=2", "--seeds", "4")
    return result, recipe.parent / "out" / "fit" / "runs" / "amess-seed4" / "model"


def test_fit_says_where_the_model_is_and_keeps_what_is_finished(fitted: tuple[Result, Path], recipe: Path) -> None:
    result, model = fitted
    assert result.exit_code == 0, result.stderr
    assert "amess-seed4: training (run 1 of 1)" in result.stderr
    assert f"model {model}" in result.stderr
    assert "amess" in result.stdout
    assert IntentClassifier.load(model).max_epochs == 2
    again = moiety("fit", recipe, "--set", "model.max_epochs=2", "--seeds", "4", "--json")
    assert "amess-seed4 is finished and used as it is" in again.stderr
    tree = json.loads(again.stdout)
    assert (tree["models"], tree["grades"][0]["seed"]) == ([str(model)], 4)


def test_predict_writes_one_line_a_row(fitted: tuple[Result, Path], folder: Path, tmp_path: Path) -> None:
    model = fitted[1]
    shown = moiety("predict", model, folder, "--split", "dev")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    wanted = read_hazumi(folder)["dev"].samples
    assert [row["key"] for row in rows] == [sample.key for sample in wanted]
    assert [row["label"] for row in rows] == IntentClassifier.load(model).predict(wanted).tolist()
    assert set(rows[0]) == {"key", "label", "probability", "top", "oos_score", "modalities"}
    assert len(rows[0]["top"]) == 3
    out = tmp_path / "deep" / "answers.jsonl"
    written = moiety("predict", model, folder, "--explain", "--out", out)
    assert f"wrote 84 answers to {out}" in written.stderr
    assert written.stdout == ""
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 84
    assert {anchor["modality"] for anchor in lines[0]["anchors"]} == {"text", "video", "audio"}


def test_evaluate_grades_with_and_without_modalities(fitted: tuple[Result, Path], folder: Path, tmp_path: Path) -> None:
    model, output = fitted[1], tmp_path / "grades"
    result = moiety("evaluate", model, folder, "--json", "-o", output)
    assert result.exit_code == 0, result.stderr
    grades = json.loads(result.stdout)["text+video+audio"]
    dev = read_hazumi(folder)["dev"]
    assert grades["acc"] == IntentClassifier.load(model).score(dev.samples, dev.labels)
    assert grades["rows"] == 24, "dev, because there is no test"
    assert {path.name for path in output.iterdir()} == {"grades.json", "confusion.png", "embedding.png"}
    table = moiety("evaluate", model, folder, "--masks", "-o", output)
    assert "weighted f1" in table.stdout
    masks = json.loads((output / "grades.json").read_text())
    assert len(masks) == 7
    assert masks["text+video+audio"] == grades
    hidden = moiety("evaluate", model, folder, "--hide", "audio,video", "--json", "-o", tmp_path / "hidden")
    assert json.loads(hidden.stdout) == {"text": masks["text"]}
    assert [path.name for path in (tmp_path / "hidden").iterdir()] == ["grades.json"], "pictures show the whole input"


def test_each_model_and_data_has_an_evaluation_of_its_own(
    fitted: tuple[Result, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other" / "model"
    shutil.copytree(fitted[1], other)
    questions = [(fitted[1],), (other,), (other, "--split", "train"), (other, "--hide", "audio"), (other, "--masks")]
    for model, *options in questions:
        assert moiety("evaluate", model, folder, *options).exit_code == 0
    found = sorted(path.name for path in (tmp_path / "runs" / "intent" / "evaluate").iterdir())
    assert len(found) == len(questions)
    assert sum(name.startswith("amess-seed4-model-data-") for name in found) == 1
    moiety("evaluate", other, folder)
    assert len(list((tmp_path / "runs" / "intent" / "evaluate").iterdir())) == len(questions), "asked again"


def test_outputs_are_tried_before_the_work(
    fitted: tuple[Result, Path], recipe: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    below, model = tmp_path / "file" / "x", fitted[1]
    refusal = f"error: {below} cannot be written: {tmp_path / 'file'} is a file, not a folder"
    assert refused("evaluate", model, folder, "-o", below) == f"{refusal}\n"
    assert refused("predict", model, folder, "--out", below) == f"{refusal}\n"
    assert refused("describe-labels", folder, "--out", below) == f"{refusal}\n"
    assert refused("demo", "-o", below) == f"{refusal}\n"
    assert refused("compare", recipe, f"output={below}") == f"{refusal}\n"
    of_fit = refusal.replace(str(below), str(below / "fit"))
    assert refused("fit", recipe, f"output={below}", "data.path=no-data") == f"{of_fit}\n", "before any reading"
    assert f"{tmp_path} is a folder; name a file" in refused("predict", model, folder, "--out", tmp_path)
    told = f"{tmp_path / 'file'} is a file, so nothing can be written below it; name a folder"
    assert told in refused("evaluate", model, folder, "-o", tmp_path / "file")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"], "nothing is left behind"


def test_a_folder_without_features_says_what_would_do(
    fitted: tuple[Result, Path], folder: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    with np.load(folder / "features.npz") as file:
        np.savez(bare / "features.npz", **{name: file[name] for name in file.files if name != "text_bert"})
    assert "features.npz lacks text_bert; it holds audio, video, text_pos" in refused("evaluate", fitted[1], bare)
    (bare / "features.npz").unlink()
    assert "no features.npz in" in refused("evaluate", fitted[1], bare)
    mintrec = tmp_path / "mintrec"
    mintrec.mkdir()
    for name in ("train", "dev", "test"):
        (mintrec / f"{name}.tsv").write_text("season\tepisode\tclip\ttext\tlabel\nS01\tE01\t1\thello\tgo\n")
    said = refused("evaluate", fitted[1], mintrec)
    assert "has video or audio, which the model reads (expected video: one of video_data/video_feats.pkl, " in said
    assert said.endswith("; add it, or grade without it: --hide video,audio\n")
    (mintrec / "train.tsv").unlink()
    assert "no train.tsv in" in refused("evaluate", fitted[1], mintrec)


def test_compare_plans_and_runs(recipe: Path, tmp_path: Path) -> None:
    words = ("compare", recipe, f"output={tmp_path / 'out'}", "--methods", "majority, amess", "--seeds", "0")
    plan = moiety(*words, "--dry-run")
    assert plan.exit_code == 0, plan.stderr
    assert "No contrast can be shown" in plan.stdout
    assert "2 runs planned, none made yet" in plan.stdout
    assert not (tmp_path / "out").exists()
    result = moiety(*words)
    assert result.exit_code == 0, result.stderr
    assert f"open {tmp_path / 'out' / 'report.html'}" in result.stderr
    assert "2 of 2 runs are finished" in result.stdout
    assert "one seed: no verdict" in result.stdout
    assert "synchronisation" not in result.stdout, "its second method was not asked for"
    assert (tmp_path / "out" / "report.html").is_file()


def refused(*words: object) -> str:
    """What is said when something given cannot be used."""
    result = moiety(*words)
    assert result.exit_code == 2, result.stdout
    assert "\nerror: " in f"\n{result.stderr}"
    assert "Traceback" not in result.stderr
    return result.stderr


def test_what_cannot_be_used_is_refused(
    fitted: tuple[Result, Path], recipe: Path, folder: Path, tmp_path: Path
) -> None:
    model = fitted[1]
    assert "did you mean 'max_epochs'?" in refused("fit", recipe, "model.max_epoch=1")
    assert "was made with other settings: model.max_epochs was 2, is 3" in refused("fit", recipe, "--seeds", "4")
    assert "is not of the form key=value, for instance model.hidden=64" in refused("fit", recipe, "hidden")
    assert "for instance data.target=ui_ternary" in refused("evaluate", model, folder, "--set", "ui_ternary")
    assert "--set model.hidden=3: this command reads the keys below 'data' only; leave it out" in refused(
        "predict", model, folder, "--set", "model.hidden=3"
    )
    assert "--seeds 'one': expected whole numbers" in refused("fit", recipe, "--seeds", "one")
    assert "no recipe file gone" in refused("fit", "gone")
    assert "conflict.yaml is no recipe for intents (its data has no kind)" in refused("fit", "conflict")
    assert "did you mean 'concat'?" in refused("compare", recipe, "--methods", "concta", "--dry-run")
    assert "no intent classifier at" in refused("predict", tmp_path, folder)
    assert f"nothing at {tmp_path / 'x.mp4'}; give a clip" in refused("predict", model, tmp_path / "x.mp4")
    assert "text belongs to one clip" in refused("predict", model, folder, "--text", "hello")
    assert "--cache and --on-error belong to clips" in refused("predict", model, folder, "--on-error", "skip")
    assert "no split 'tset'" in refused("predict", model, folder, "--split", "tset")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"key": "a", "text": "hello"}\n')
    assert "was fitted on video and audio frames that you made" in refused("predict", model, rows)
    assert "settings target=da belong to a data folder, and" in refused("predict", model, rows, "--set", "target=da")
    assert "--hide and --masks exclude each other" in refused("evaluate", model, folder, "--hide", "text", "--masks")
    assert "cannot hide 'smell'" in refused("evaluate", model, folder, "--hide", "smell")
    assert "cannot hide 'smell'" in refused("evaluate", "no-model", "no-rows", "--hide", "smell"), "before any reading"
    assert "no row of" in refused("evaluate", model, folder, "--hide", "text,audio,video", "-o", tmp_path / "o")
    for override in ("data.target=ui_ternary", "target=ui_ternary"):  # the second is the spelling of earlier releases
        assert "labels that fit never saw: high, low, middle" in refused("evaluate", model, folder, "--set", override)
    assert "is no data set moiety knows" in refused("predict", model, tmp_path)


def test_recipes_of_the_other_wing_are_told_apart(recipe: Path) -> None:
    with pytest.raises(
        ValueError, match="is a recipe for intents; give it to `moiety intent fit` or `moiety intent co"
    ):
        recipes.load(str(recipe))  # what `moiety train` and `moiety compare` read recipes with
    checked = CliRunner().invoke(app, ["recipes", "validate", str(recipe)])
    assert "ok · data hazumi · method amess · 2 seeds" in checked.stdout


def test_clips_from_rows_to_a_label(clip: Path, tmp_path: Path) -> None:
    rows = [
        {"key": f"k{i}", "clip": str(clip), "text": f"{'yes' if i % 2 else 'no'} {i}", "label": "ab"[i % 2],
         "split": "test" if i >= 12 else "train"}
        for i in range(16)
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "name": "clips", "output": str(tmp_path / "out"), "seeds": [0],
        "data": {"kind": "clips", "path": str(tmp_path / "rows.jsonl"), "choose": None, "cache": str(tmp_path / "c")},
        "model": {**SMALL, "label_descriptions": None, "max_epochs": 1},
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    result = moiety("fit", tmp_path / "r.yaml")
    assert result.exit_code == 0, result.stderr
    assert "clips 16/16" in result.stderr
    model = tmp_path / "out" / "fit" / "runs" / "amess-seed0" / "model"
    answered = moiety("predict", model, clip, "--text", "yes 1", "--explain")
    row = json.loads(answered.stdout)
    assert (row["key"], row["modalities"]) == ("clip", ["text", "video", "audio"])
    assert {anchor["seconds"] is None for anchor in row["anchors"] if anchor["modality"] == "audio"} == {False}
    graded = moiety("evaluate", model, tmp_path / "rows.jsonl", "--json", "-o", tmp_path / "grades")
    assert json.loads(graded.stdout)["text+video+audio"]["rows"] == 4, "split test"
    assert "holds no row of split 'dev'; its splits are: test, train" in refused(
        "predict", model, tmp_path / "rows.jsonl", "--split", "dev"
    )
    (tmp_path / "bare.csv").write_text("key,text,label\na,yes,b\nc,no,\n")
    assert "1 of 2 rows have no label: c; grades need a label" in refused("evaluate", model, tmp_path / "bare.csv")
    (tmp_path / "broken.mp4").write_bytes(clip.read_bytes()[:200])
    assert "broken" in refused("predict", model, tmp_path / "broken.mp4")


def test_a_refused_fit_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    output = f"output={tmp_path / 'out'}"
    assert "no features.npz in" in refused("fit", recipe, output, f"data.path={tmp_path}")
    assert "no description of 1 of 3 labels: 'wait'" in refused(
        "fit", recipe, output, "model.label_descriptions={go: Leaves., stay: Remains.}"
    )
    assert not (tmp_path / "out").exists()
    assert moiety("fit", recipe, output, "--seeds", "0", "model.max_epochs=1").exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert "model.max_epochs was 1, is 2" in refused("fit", recipe, output, "--seeds", "1,0", "model.max_epochs=2")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_stopped_verb_says_what_was_kept(fitted: tuple[Result, Path], tmp_path: Path) -> None:
    before = stop.keeps
    try:
        keeps_runs(tmp_path / "out", str(tmp_path / "cache"))
        assert farewell("intent", stop.kept()).startswith("stopped; nothing was kept yet")
        (tmp_path / "cache" / "kind").mkdir(parents=True)
        (tmp_path / "cache" / "kind" / "clip.safetensors").touch()
        assert farewell("intent", stop.kept()).endswith("to go on from the features of the clips that were read")
        keeps_runs(fitted[1].parents[2], None)
        assert farewell("intent", stop.kept()).endswith("to go on from the finished runs")
    finally:
        stop.keeps = before
    assert farewell("intent") == "stopped", "predict and evaluate keep nothing"


def test_samples_at_a_folder_carry_their_labels(fitted: tuple[Result, Path], folder: Path) -> None:
    split = samples_at(IntentClassifier.load(fitted[1]), folder, settings=["data.view=history", "data.history=2"])
    assert len(split) == 84
    assert np.mean([len(sample.frames("audio")) for sample in split.samples]) > 1.5


def test_descriptions_are_written_and_checked(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.yaml"
    table.write_text(yaml.safe_dump(TEXTS))
    written = moiety("describe-labels", folder, "--source", table, "--out", tmp_path / "d.json")
    assert written.exit_code == 0, written.stderr
    tree = json.loads((tmp_path / "d.json").read_text())
    assert {entry["label"]: entry["description"] for entry in tree["labels"]} == {k: [v] for k, v in TEXTS.items()}
    names = tmp_path / "labels.txt"
    names.write_text("go\n\nstay\nleave\n")
    found = moiety("describe-labels", names, "--source", table, "--check")
    assert found.exit_code == 1
    assert "no description of 'leave'" in found.stdout
    assert "3 labels, 1 without description" in found.stdout
    assert moiety("describe-labels", folder, "--source", table, "--check").exit_code == 0
    assert "give --out FILE for the table, or --check" in refused("describe-labels", names)
    assert "no labels at" in refused("describe-labels", tmp_path / "gone.txt", "--check")
    names.write_text("\n")
    assert "holds no label" in refused("describe-labels", names, "--check")
    assert "unknown provider 'gpt'" in refused("describe-labels", folder, "--provider", "gpt", "--out", tmp_path / "x")
