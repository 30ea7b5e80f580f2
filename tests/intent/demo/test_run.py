"""The embedded demo from raw clip to page; interrupted once, so that everything here also went on where it was."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from moiety.intent import IntentClassifier
from moiety.intent.clips import built_in
from moiety.intent.compare.grading import grade
from moiety.intent.data.dataset import Split
from moiety.intent.data.rows import ClipRow
from moiety.intent.demo.pictures import open_clips
from moiety.intent.demo.run import RECIPE, ask, run_demo, work
from moiety.intent.recipe import IntentRecipe, load_intent_recipe
from moiety.intent.world import files as world
from moiety.intent.world.files import IntentWorldFiles
from moiety.intent.world.signs import INTENTS, MASKS, SIGNS

SIZES = {"num_train": 24, "num_dev": 12, "num_test": 24, "seeds": [0], "processes": 1}


def small_recipe() -> IntentRecipe:
    return load_intent_recipe(
        RECIPE,
        [
            "model.hidden=16",
            "model.max_epochs=2",
            "model.num_heads=2",
            "compare.methods=[majority,concat,amess]",
            "compare.variants={}",
        ],
    )


class Stopped(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture(scope="module")
def told() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, told: list[tuple[str, int, int]]) -> Path:
    """Folder of a small demo that was stopped after its first run and called again."""
    folder = tmp_path_factory.mktemp("demo") / "d"

    def stop(what: str, done: int, total: int) -> None:
        told.append((what, done, total))
        if what == "training" and done == 1:
            raise Stopped

    with pytest.raises(Stopped):
        run_demo(folder, **SIZES, recipe=small_recipe(), on_progress=stop)
    assert not (folder / "report.html").exists()
    finished = folder / "compare" / "runs" / "majority" / "result.json"
    kept = {path: path.stat().st_mtime_ns for path in (finished, folder / "world" / "rows.jsonl")}
    page = run_demo(folder, **SIZES, recipe=small_recipe())
    assert page == folder / "report.html"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    return folder


def test_progress_tells_of_clips_written_clips_read_and_runs(demo: Path, told: list[tuple[str, int, int]]) -> None:
    assert list(dict.fromkeys(what for what, _, _ in told)) == ["writing clips", "reading clips", "training"]
    assert [done for what, done, _ in told if what == "writing clips"] == list(range(1, 61))
    assert {total for what, _, total in told if what == "training"} == {3}


def test_a_finished_demo_makes_nothing_again(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (demo / "report.html").read_text("utf-8")
    read = []
    monkeypatch.setattr(world, "write_clip", lambda *_, **__: pytest.fail("it was written again"))
    for name in ("prosody", "motion"):
        made = getattr(built_in, name)
        monkeypatch.setattr(built_in, name, lambda *a, made=made, **k: (read.append(made), made(*a, **k))[1])
    monkeypatch.setattr(IntentClassifier, "fit", lambda *_, **__: pytest.fail("it was fitted again"))
    run_demo(demo, **SIZES, recipe=small_recipe())
    assert (demo / "report.html").read_text("utf-8") == before
    assert len(read) == 2  # sound and pictures of the one clip that is asked about, as a user would


def test_measured_stands_beside_attainable(demo: Path) -> None:
    rows = json.loads((demo / "subsets.json").read_text("utf-8"))
    assert [row["modalities"] for row in rows] == ["+".join(kept) for kept in MASKS]
    best = IntentWorldFiles.below(demo / "world").attainable()
    run = json.loads((demo / "compare" / "runs" / "amess-seed0" / "result.json").read_text("utf-8"))
    for row in rows:
        assert row["attainable"] == best[row["modalities"]]
        assert set(row["modalities"].split("+")) | set(row["hide"].split("+")) - {""} == set(SIGNS)
        grades = run["hidden"][row["hide"]] if row["hide"] else run["grades"]
        assert row["measured"]["amess"]["mean"] == grades["acc"]
        assert set(row["measured"]) == {"majority", "concat", "amess"}


def test_the_rows_of_every_set_are_those_that_have_something_of_it(demo: Path) -> None:
    signs = [json.loads(line) for line in (demo / "world" / "signs.jsonl").read_text("utf-8").splitlines()]
    test = [one for one in signs if one["split"] == "test"]
    for row in json.loads((demo / "subsets.json").read_text("utf-8")):
        assert row["rows"] == sum({one["missing"]} != set(row["modalities"].split("+")) for one in test)


def test_the_answer_is_that_of_the_saved_model_about_the_raw_clip(demo: Path) -> None:
    answer = json.loads((demo / "answer.json").read_text("utf-8"))
    model = IntentClassifier.load(demo / "compare" / "runs" / "amess-seed0" / "model")
    assert (answer["drawn"]["words"], answer["drawn"]["split"], answer["drawn"]["missing"]) == ("outcome", "test", None)
    sample = model.read_clips([ClipRow("c", clip=Path(answer["clip"]), text=answer["drawn"]["text"])]).samples
    for kept, row in answer["said"].items():
        hide = [name for name in SIGNS if name not in kept.split("+")]
        chances = model.predict_proba(sample, hide=hide)[0]
        assert row["label"] == model.classes_[chances.argmax()]
        assert row["probability"] == pytest.approx(chances.max(), abs=1e-6)
    assert set(answer["said"]) == {"text+video+audio", "text+video", "text+audio", "text"}


def test_the_models_of_the_demo_are_graded_on_clips_they_can_read_again(demo: Path) -> None:
    """The table's number comes back from the saved model and the rows file alone."""
    model = IntentClassifier.load(demo / "compare" / "runs" / "amess-seed0" / "model")
    reading = model.read_clips(demo / "world" / "rows.jsonl", cache=demo / "features")
    test: Split = reading.dataset["test"]
    graded = grade(model, test)
    row = json.loads((demo / "subsets.json").read_text("utf-8"))[0]
    assert graded is not None
    assert graded.grades["acc"] == pytest.approx(row["measured"]["amess"]["mean"], abs=1e-9)


class Sources(HTMLParser):
    """Collects what a page asks for, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "poster")]
        assert tag not in ("script", "link", "iframe")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_else_and_names_every_intent_and_number(demo: Path) -> None:
    page = Sources()
    page.feed((demo / "report.html").read_text("utf-8"))
    assert len(page.sources) >= 4  # clips, subsets, confusion, embedding
    assert {source.split(";base64,")[0] for source in page.sources} == {"data:image/png", "data:video/mp4"}
    text = " ".join(page.text)
    assert text.index("a reader of all signs can know 96.6 %") < text.index("modalities given")
    for intent in INTENTS:
        assert intent.label in text
    for row in json.loads((demo / "subsets.json").read_text("utf-8")):
        assert f"{100 * row['attainable']:.1f}" in text
        assert f"{100 * row['measured']['amess']['mean']:.2f}" in text
    model, clip = re.search(r"moiety intent predict (\S+) (\S+) --text", text).groups()
    assert (demo / model / "config.json").is_file()
    assert (demo / clip).is_file()
    said = json.loads((demo / "answer.json").read_text("utf-8"))["said"]["text+video+audio"]
    first = next(one for one in said["anchors"] if one["seconds"] is not None)
    assert f"The frames with the largest weights (anchors) are {first['modality']} at {first['seconds']:.2f} s" in text


def test_the_film_strips_show_one_clear_clip_of_each_intent_that_shares_its_words(tmp_path: Path) -> None:
    files = IntentWorldFiles.below(tmp_path)
    clear = {"split": "test", "words": "outcome", "missing": None}
    lines = [
        {**clear, "key": "a", "label": "Praise", "tone": "plain", "gesture": "nod"},
        {**clear, "key": "b", "label": "Praise", "tone": "bright", "gesture": "nod"},
        {**clear, "key": "c", "label": "Praise", "tone": "bright", "gesture": "nod"},
        {**clear, "key": "d", "label": "Complain", "tone": "low", "gesture": "shake", "missing": "audio"},
        {**clear, "key": "e", "label": "Taunt", "tone": "bright", "gesture": "shake"},
        {**clear, "key": "f", "label": "Comfort", "tone": "low", "gesture": "nod", "split": "train"},
    ]
    files.signs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [one["key"] for one in open_clips(files)] == ["b", "e"]
    files.signs.write_text("")
    with pytest.raises(ValueError, match="has no test clip with all modalities whose words leave four intents open"):
        ask(tmp_path / "model", files)


def test_a_demo_of_other_sizes_is_refused_and_nothing_is_lost(demo: Path) -> None:
    before = set(demo.rglob("*"))
    with pytest.raises(FileExistsError, match=r"counts.train was 24, is 36"):
        run_demo(demo, **{**SIZES, "num_train": 36}, recipe=small_recipe())
    assert set(demo.rglob("*")) == before


def test_a_recipe_without_its_own_method_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    recipe = load_intent_recipe(RECIPE, ["compare.methods=[majority,concat]"])
    with pytest.raises(ValueError, match=r"compare.methods lacks 'amess', whose model answers the one clip; add it"):
        run_demo(tmp_path / "d", **SIZES, recipe=recipe)
    assert not (tmp_path / "d").exists()


def test_the_second_process_takes_what_is_left_and_stops_when_it_is_alone(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_intent_recipe(demo / "compare" / "recipe.yaml")
    tree = recipe.model_dump(mode="json") | {"data": recipe.data.given(), "output": str(tmp_path / "compare")}
    tree["compare"] = tree["compare"] | {"methods": ["majority", "concat"]}
    parents = iter([1, 1, 2])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    with pytest.raises(SystemExit, match="the demo that started this process is gone; it stops at run 2 of 2"):
        work(json.dumps(tree))
    assert [path.parent.name for path in (tmp_path / "compare").rglob("result.json")] == ["majority"]


@pytest.mark.slow
def test_fusion_is_needed_and_is_learned(tmp_path: Path) -> None:
    """The demo as shipped, one seed: what voice and gesture add, and that A-MESS gets nearly all of it."""
    run_demo(tmp_path, seeds=[0])
    found = {row["modalities"]: row for row in json.loads((tmp_path / "subsets.json").read_text("utf-8"))}
    measured = {kept: row["measured"]["amess"]["mean"] for kept, row in found.items()}
    for kept, row in found.items():
        spread = np.sqrt(row["attainable"] * (1 - row["attainable"]) / row["rows"])
        assert measured[kept] < row["attainable"] + 4 * spread  # nobody reads more than there is
    whole = "text+video+audio"
    assert measured[whole] > 0.85
    for kept in ("text+video", "text+audio", "text"):
        assert measured[whole] - measured[kept] > 0.1
    assert found["text"]["measured"]["text"]["mean"] == pytest.approx(found["text"]["attainable"], abs=0.1)
