"""The sentences above the tables of intents: computed from the runs, and never more than their intervals show."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from moiety.intent.clips.writer import plays, write_clip
from moiety.intent.compare.outcome import IntentComparison
from moiety.intent.compare.report import report_page
from moiety.intent.compare.run_record import IntentRun
from moiety.intent.compare.sentences import fusion, limits, luck, made, result
from moiety.intent.demo.pictures import still
from moiety.intent.recipe import IntentRecipe


def comparison(seeds: int = 3, hide: list[str] | None = None, **scores: list[float]) -> IntentComparison:
    """Methods with one accuracy a seed; a floor has one."""
    recipe = IntentRecipe.model_validate(
        {
            "name": "toy",
            "output": "out",
            "data": {"kind": "clips", "path": "rows.jsonl"},
            "seeds": list(range(seeds)),
            "compare": {"methods": list(scores), "measures": ["acc"], "hide": hide or []},
        }
    )
    runs = [
        IntentRun(name, seed, {}, {"acc": value}, {}, 48, {}, {"labels": ["a"], "counts": [[1]]}, {})
        for name, values in scores.items()
        for seed, value in enumerate(values)
    ]
    planned = [(run.name, run.seed) for run in runs]
    context = {"rows": {"train": 120, "score": 48}}
    return IntentComparison(recipe, list(scores), runs, planned, Path("nowhere"), context)


def test_who_learned_from_what() -> None:
    assert made(comparison(majority=[0.1], amess=[0.5, 0.6, 0.7])) == (
        "Two methods (majority, amess) learned from 120 rows and are scored on 48 others (split 'test'). Methods that "
        "depend on a seed ran with three seeds."
    )


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([0.5] * 8, "amess reaches 80.0 % [80.0, 80.0] accuracy, the others 50.0 %; it beats concat (by 30.0 points)."),
        ([0.9] * 8, "it is beaten by concat (by 10.0 points)."),
        ([0.7, 0.9] * 4, "it cannot be told from concat."),
    ],
)
def test_verdicts_are_those_of_the_corrected_test(others: list[float], said: str) -> None:
    assert result(comparison(seeds=8, concat=others, amess=[0.8] * 8)).endswith(said)


@pytest.mark.parametrize(
    ("seeds", "names", "said"),
    [
        (3, ["majority"], "three seeds are too few (the test needs 6) to show a difference from majority."),
        (5, ["majority"], "five seeds are too few (the test needs 6) to show a difference from majority."),
        (6, ["majority"], "it beats majority (by 88.2 points)."),
        (6, ["majority", "concat"], "six seeds are too few (the test needs 7) to show a difference from majority and "
         "concat."),
        (7, ["majority", "concat"], "it beats majority (by 88.2 points) and concat (by 88.2 points)."),
    ],
)  # fmt: skip
def test_too_few_seeds_are_said_to_be_too_few(seeds: int, names: list[str], said: str) -> None:
    others = {name: [0.083] * (1 if name == "majority" else seeds) for name in names}
    assert result(comparison(seeds=seeds, **others, amess=[0.965] * seeds)).endswith(f"; {said}")


def test_one_seed_is_no_verdict_and_nothing_scored_is_said() -> None:
    one = comparison(seeds=1, concat=[0.5], amess=[0.8])
    assert result(one) == "amess reaches 80.0 % accuracy, the others 50.0 %; one seed cannot tell them apart."
    assert "that takes a second seed" in limits(one)
    assert result(replace(one, runs=[])) == "Nothing is scored yet."
    assert result(comparison(seeds=1, concat=[0.5])) == "concat reaches 50.0 % accuracy."
    assert "A-MESS" in limits(one)
    assert "A-MESS" not in limits(comparison(concat=[0.5] * 3))


def rows(reached: float = 0.5, whole: float = 0.966) -> list[dict]:
    shares = {"text+video+audio": whole, "text+video": 0.727, "text": 0.487}
    found = {"amess": {"mean": reached}}
    return [{"modalities": name, "rows": 48, "attainable": share, "measured": found} for name, share in shares.items()]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([0.95, 0.96, 0.97], "Fusion is learned: amess reaches 96.0 % [93.5, 98.5], more than two modalities allow."),
        ([0.5, 0.5, 0.5], "Fusion is not learned here: amess reaches 50.0 % [50.0, 50.0], no more than two modalities"),
        (
            [0.6, 0.8, 0.9],
            "It is not shown whether fusion is learned: amess reaches 76.7 % [38.7, 114.6], but the interval ",
        ),
        (
            [0.9],
            "amess reaches 90.0 %, more than two modalities allow; one seed has no interval, so this is no verdict",
        ),
    ],
)
def test_the_demo_answers_its_own_question(scores: list[float], said: str) -> None:
    text = fusion(comparison(seeds=len(scores), amess=scores), rows())
    assert text.startswith("Fusion is needed: a reader of all signs can know 96.6 % of the intents, a reader of two")
    assert "at most 72.7 % (text and video). " in text
    assert said in text
    assert "Fusion is not needed" in fusion(comparison(amess=[0.5] * 3), rows(whole=0.7))
    assert fusion(comparison(concat=[0.5] * 3), rows()).endswith("; amess has no result yet.")


def test_luck_is_spoken_of_only_where_there_is_some() -> None:
    assert luck(rows(reached=0.3)) == ""
    assert luck(rows(reached=0.75)).startswith(
        "Some scores are above the attainable: amess with text and video, amess with text. "
    )


def test_the_report_names_its_question_first_and_folds_the_settings() -> None:
    page = report_page(comparison(concat=[0.5] * 3, amess=[0.8] * 3))
    assert "<h1>Recognising intents, two methods side by side: toy</h1>" in page
    assert page.index("amess reaches 80.0 %") < page.index("<table")
    assert page.index("<details>") < page.index("<pre>")
    assert "When a modality is missing" not in page
    assert "with these modalities hidden in all rows" in report_page(comparison(hide=["audio"], amess=[0.8] * 3))


def test_clips_play_where_browsers_know_their_format(tmp_path: Path) -> None:
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[2] = 200
    known = write_clip(tmp_path / "known.mp4", frames, None, fps=10, rate=16000)
    assert plays(known) == ("libx264" in av.codecs_available)
    assert still(known).startswith(b"\x89PNG")
    sound = write_clip(tmp_path / "sound.mp4", None, np.zeros(3200, np.float32), fps=10, rate=16000)
    assert plays(sound)
    assert still(sound) == b""
    with av.open(str(tmp_path / "old.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for packet in stream.encode(av.VideoFrame.from_ndarray(frames[0])):
            file.mux(packet)
        file.mux(stream.encode(None))
    assert not plays(tmp_path / "old.mp4")
