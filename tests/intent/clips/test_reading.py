"""From rows of clips to samples, and classifiers that know what made their frames."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety.intent import IntentClassifier, IntentSample, SampleError, read_clips
from moiety.intent.clips.reading import ClipError, checked_rows, clip_samples
from moiety.intent.clips.registry import extractor_for
from moiety.intent.data.prepare import Preparation
from moiety.intent.data.rows import ClipRow, RowsError
from moiety.intent.data.samples import fingerprint_of
from moiety.intent.settings import IntentSettings
from tests.intent.clips.clip_files import RATE, tone, write_clip, write_wav

SMALL: dict[str, Any] = {"hidden": 8, "num_heads": 1, "num_anchors": 2, "max_epochs": 1, "triplet_weight": 0.0}


@pytest.fixture
def folder(tmp_path: Path, clip: Path) -> Path:
    """A rows file over one whole clip, a silent one, a wav, words alone, a text file named mp4, and a missing file."""
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    write_clip(tmp_path / "silent.mp4", sound=False, seconds=0.2)
    write_wav(tmp_path / "voice.wav", tone(0.2))
    (tmp_path / "bad.mp4").write_text("no media")
    rows = [
        {"key": "whole", "clip": "a.mp4", "text": "hello there", "label": "Greet", "split": "train"},
        {"key": "silent", "clip": "silent.mp4", "label": "Leave", "split": "train"},
        {"key": "voice", "audio": "voice.wav", "text": "go", "label": "Leave", "split": "dev"},
        {"key": "words", "text": "thank you"},
        {"key": "bad", "clip": "bad.mp4", "text": "still readable", "label": "Leave", "split": "dev"},
        {"key": "gone", "clip": "gone.mp4", "label": "Leave", "split": "dev"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


REASON = "bad.mp4: it cannot be decoded (Invalid data found when processing input); is it whole, and a media file?"


def test_rows_become_samples(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps: list[tuple[int, int]] = []
    with caplog.at_level(logging.WARNING):
        found = read_clips(
            folder / "rows.jsonl", on_error="skip", on_progress=lambda done, total: steps.append((done, total))
        )
    assert steps == [(number, 6) for number in range(1, 7)]
    assert [sample.key for sample in found.samples] == ["whole", "silent", "voice", "words"]
    names = ("video", "audio")
    present = {one.key: [name for name in names if one.frames(name) is not None] for one in found.samples}
    assert present == {"whole": ["video", "audio"], "silent": ["video"], "voice": ["audio"], "words": []}
    assert found.problems[0] == ("bad", f"video and audio: {REASON}")
    assert found.problems[1][0] == "gone"
    assert "gone.mp4: there is no such file in" in found.problems[1][1]
    assert "2 of 6 rows are left out. 2 problems: bad: video and audio" in caplog.text
    assert found.labels == ["Greet", "Leave", "Leave", None]
    data = found.dataset
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "dev": 1}
    assert data["dev"].labels == ["Leave"]
    whole = found.samples[0]
    assert whole.text == "hello there"
    for name in ("video", "audio"):
        assert len(whole.times[name]) == len(whole.frames(name))  # type: ignore[arg-type]
        assert whole.extractors[name] == fingerprint_of(json.loads(whole.extractors[name]))
    assert list(found.samples[3].extractors) == []


def test_by_default_every_problem_is_raised_at_once_when_all_are_tried(folder: Path) -> None:
    with pytest.raises(ClipError, match=r"2 problems: bad: .*; gone: .*pass on_error='skip' to leave") as caught:
        read_clips(folder / "rows.jsonl", cache=folder / "cache")
    assert [key for key, _ in caught.value.problems] == ["bad", "gone"]
    kept = [path.name for path in (folder / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 7, "two frames of the whole clip, two of the silent one (one absent), one wav, two settings"


def test_masked_rows_go_on_without_what_failed(folder: Path) -> None:
    found = read_clips(folder / "rows.jsonl", on_error="mask")
    assert [sample.key for sample in found.samples] == ["whole", "silent", "voice", "words", "bad"]
    bad = found.samples[-1]
    assert (bad.text, bad.video, bad.audio, dict(bad.extractors)) == ("still readable", None, None, {})
    assert found.problems[0] == ("bad", f"video and audio: {REASON}")
    assert found.problems[1][1].endswith("; the row then has no modality left")


def test_modalities_that_are_not_asked_for_are_not_read(folder: Path) -> None:
    rows = [row for row in checked_rows(folder / "rows.jsonl") if row.key in ("whole", "bad", "words")]
    found = read_clips(rows, audio=None, video=None)
    assert [sample.key for sample in found.samples] == ["whole", "words", "bad"]
    assert not found.problems
    deaf = read_clips(rows, audio=None, text=None, on_error="skip")
    assert [sample.key for sample in deaf.samples] == ["whole"]
    assert deaf.samples[0].text is None
    assert dict(deaf.problems)["words"] == "it has none of video"


def test_rows_may_be_given_as_they_are(clip: Path) -> None:
    given = [{"key": "a", "clip": clip, "text": "hi", "end_s": 0.3}, ClipRow("b", clip, end_s=0.3)]
    one, two = read_clips(given).samples
    assert (one.frames("video") == two.frames("video")).all()
    extractors = {name: extractor_for(name, spec) for name, spec in (("audio", "prosody"), ("video", "motion"))}
    three = clip_samples([ClipRow("c", clip, end_s=0.3)], extractors).samples[0]
    assert (one.frames("audio") == three.frames("audio")).all()
    assert read_clips([]).samples == []


@pytest.mark.parametrize(
    ("rows", "options", "error", "message"),
    [
        ([{"key": "a", "text": "x"}] * 2, {}, RowsError, "rows: 1 problem: row 1: key 'a' is given twice"),
        ([{"text": "x"}, 3, {"key": "b"}], {}, RowsError, "3 problems: row 0: no key.*row 1: int, exp.*row 2: no clip"),
        (ClipRow("a", text="x"), {}, TypeError, "rows are ClipRow; give the path of a rows file, or a list of rows"),
        (7, {}, TypeError, "rows are int; give the path"),
        ([], {"on_error": "ignore"}, ValueError, "unknown on_error 'ignore'; known: mask, raise, skip"),
        ([], {"audio": None, "video": None, "text": None}, ValueError, "all None; give at least one extractor"),
        ([], {"audio": "motion"}, ValueError, "extractor 'motion' is for video, not for audio"),
        ([{"key": "a", "text": " ", "label": "x"}], {}, RowsError, "row 0: no clip, audio or text"),
    ],
)  # fmt: skip
def test_bad_requests(rows: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_clips(rows, **options)


# -- classifiers -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> IntentClassifier:
    """Fitted on parts of one clip with prosody in steps of 50 ms, motion and words."""
    rows = [ClipRow(f"r{n}", clip, "hi" if n % 2 else "bye", None, n / 50, n / 50 + 0.3) for n in range(12)]
    samples = read_clips(rows, audio={"extractor": "prosody", "hop_s": 0.05}).samples
    return IntentClassifier(**SMALL).fit(samples, ["Greet" if n % 2 else "Leave" for n in range(12)])


@pytest.mark.parametrize("signal", ["audio", "video"])
def test_from_raw_clips_to_labels(tmp_path: Path, signal: str) -> None:
    """A voice that rises or falls, or a square that walks right or left, and nothing else tells the label."""
    draw = np.random.default_rng(0)
    whole = {sign: write_clip(tmp_path / f"{sign}.mp4", sound=False, seconds=1.8, step=sign) for sign in (1, -1)}
    rows = []
    for number in range(44):
        sign = 1 if number % 2 else -1
        start = float(draw.uniform(0, 1.2))
        row = ClipRow(f"r{number}", whole[sign], None, None, start, start + 0.5, "up" if number % 2 else "down")
        if signal == "audio":
            hertz = draw.uniform(100, 200) * 2 ** (sign * np.linspace(-0.5, 0.5, 3200))
            voice = np.sin(2 * np.pi * np.cumsum(hertz) / RATE) * draw.uniform(0.1, 0.9)
            row = ClipRow(row.key, audio=write_wav(tmp_path / f"{number}.wav", voice), label=row.label)
        rows.append(row)
    found = read_clips(rows)
    settings = {**SMALL, "hidden": 16, "max_epochs": 8, "learning_rate": 1e-2, "batch_size": 8, "dropout": 0.0}
    model = IntentClassifier(**settings).fit(found.samples[:28], found.labels[:28])
    assert model.score(found.samples[28:], found.labels[28:]) >= 0.9  # 1.0 seen for both


def test_a_classifier_reads_clips_as_its_training_clips_were_read(
    fitted: IntentClassifier, clip: Path, tmp_path: Path
) -> None:
    rows = [ClipRow("a", clip, "hi", end_s=0.3), ClipRow("b", clip)]
    expected = read_clips(rows, audio={"extractor": "prosody", "hop_s": 0.05}).samples
    loaded = IntentClassifier.load(fitted.save(tmp_path / "model"))
    assert loaded.extractors_ == fitted.extractors_
    assert loaded.extractors_["audio"]["hop_s"] == 0.05
    assert "Extractors: video by motion, audio by prosody" in (tmp_path / "model" / "README.md").read_text()
    for model in (fitted, loaded):
        found = model.read_clips(rows).samples
        for one, two in zip(found, expected, strict=True):
            assert (one.text, dict(one.extractors)) == (two.text, dict(two.extractors))
            assert (one.frames("audio") == two.frames("audio")).all()
            assert (one.frames("video") == two.frames("video")).all()
    assert (loaded.predict_proba(found) == fitted.predict_proba(expected)).all()


def test_frames_of_another_extractor_are_refused_and_both_are_shown(fitted: IntentClassifier, clip: Path) -> None:
    rows = [ClipRow("a", clip, "hi"), ClipRow("b", clip, "hi")]
    message = (
        r"audio of a, b was made by prosody \(hop_s 0.025\), expected prosody \(hop_s 0.05\). Read all clips with one"
    )
    with pytest.raises(SampleError, match=message):
        fitted.predict(read_clips(rows).samples)
    slow = fitted.read_clips(rows[1:], video={"extractor": "motion", "fps": 5}).samples
    good = fitted.read_clips(rows[:1]).samples
    with pytest.raises(SampleError, match=r"video of b was made by motion \(fps 5.0\), expected motion \(fps 10.0\)"):
        fitted.predict([*good, *slow])
    own = {"key": "mine", "audio": np.zeros((4, 56), np.float32)}
    with pytest.raises(SampleError, match=r"audio of mine was made by no extractor .*, expected prosody \(hop_s 0.05"):
        fitted.predict([own])
    named = [{**own, "key": f"k{n}"} for n in range(8)]
    with pytest.raises(SampleError, match="audio of k0, k1, k2, k3, k4 and 3 more was made by"):
        fitted.predict(named)
    assert len(fitted.predict([{"text": "hi"}])) == 1, "words need no extractor"
    with pytest.raises(ValueError, match="extractor 'nobody/nothing' has no option 'hop_s'"):
        fitted.read_clips(rows, audio="nobody/nothing")


def test_training_rows_must_agree(clip: Path) -> None:
    fine, coarse = (
        read_clips([ClipRow(f"{hop}", clip)], audio={"extractor": "prosody", "hop_s": hop}, video=None).samples
        for hop in (0.025, 0.05)
    )
    with pytest.raises(SampleError, match=r"audio of 0.05 was made by prosody \(hop_s 0.05\), expected prosody"):
        IntentClassifier(**SMALL).fit([*fine * 4, *coarse], ["a", "b", "a", "b", "a"])
    with pytest.raises(SampleError, match=r"audio of 0.05 was made by"):
        IntentClassifier(**SMALL).fit(fine * 4, ["a", "b", "a", "b"], coarse, ["a"])


def test_a_classifier_of_own_frames_reads_no_clips(clip: Path) -> None:
    samples = [{"audio": np.full((2, 3), n, np.float32)} for n in range(8)]
    model = IntentClassifier(**SMALL).fit(samples, ["a", "b"] * 4)
    assert model.extractors_ == {}
    with pytest.raises(ValueError, match="fitted on audio frames that you made, so moiety cannot make them of clips"):
        model.read_clips([ClipRow("a", clip)])
    made = read_clips([ClipRow("a", clip)], video=None).samples[0]
    with pytest.raises(SampleError, match=r"audio of a was made by prosody \(hop_s .*, expected no extractor"):
        model.predict([made])


def test_numbers_of_pretrained_encoders_are_left_as_they_are(clip: Path) -> None:
    hand = read_clips([ClipRow("a", clip)], video=None).samples[0]
    encoder = fingerprint_of({"extractor": "some/wavlm", "weights_sha256": "12", "layer": None})
    learned = replace(hand, extractors={"audio": encoder})
    assert "audio" in Preparation.fit([hand], IntentSettings()).mean
    preparation = Preparation.fit([learned], IntentSettings())
    assert not preparation.mean
    # the same weights in another folder make the same frames; other weights do not
    moved = fingerprint_of({"extractor": "elsewhere", "weights_sha256": "12", "layer": None})
    assert preparation.transform([replace(hand, extractors={"audio": moved})])
    other = fingerprint_of({"extractor": "some/wavlm", "weights_sha256": "13", "layer": None})
    with pytest.raises(SampleError, match=r"some/wavlm \(weights_sha256 13\), expected some/wavlm \(weights_sh"):
        preparation.transform([replace(hand, extractors={"audio": other})])


def test_older_classifiers_without_extractors_load(tmp_path: Path) -> None:
    samples = [IntentSample(f"s{n}", video=np.full((2, 3), n, np.float32)) for n in range(8)]
    folder = IntentClassifier(**SMALL).fit(samples, ["a", "b"] * 4).save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["extractors"]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = IntentClassifier.load(folder)
    assert loaded.extractors_ == {}
    assert len(loaded.predict(samples)) == 8
