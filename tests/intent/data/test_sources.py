"""Which rows teach, choose and score; what floors do with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.intent.compare.floors import Majority, PooledLogistic
from moiety.intent.data.dataset import IntentDataset, Split
from moiety.intent.data.hazumi import read_hazumi
from moiety.intent.data.samples import MODALITIES, IntentSample, has_input
from moiety.intent.data.sources import fingerprint, parts_of, read_source, rows_of, set_aside, source_at
from moiety.intent.metrics import closed_set_metrics
from moiety.intent.recipe import IntentDataSettings
from moiety.intent.settings import IntentSettings
from moiety.recipe.reader import RecipeError
from tests.intent.small import utterances
from tests.intent.small_folder import write_folder

HAZUMI = IntentDataSettings(kind="hazumi", path="x", choose=None, score="dev")


def split_of(groups: list[int], labels: list[str]) -> Split:
    return Split([IntentSample(f"r{i}", text="x") for i in range(len(groups))], labels, [f"g{g}" for g in groups])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from("abc")), min_size=12, max_size=80), st.integers(0, 9))
def test_whole_groups_are_set_aside_and_no_label_is_lost(rows: list[tuple[int, str]], seed: int) -> None:
    split = split_of([group for group, _ in rows], [label for _, label in rows])
    try:
        taken = set_aside(split, seed, 0.2)
    except ValueError:
        return
    inside = {split.groups[i] for i in taken}
    assert inside.isdisjoint({split.groups[i] for i in range(len(rows)) if i not in taken})
    assert set(split.labels) == {split.labels[i] for i in range(len(rows)) if i not in taken}
    assert 0 < len(taken) <= (1.5 * 0.2 if len(inside) > 1 else 0.5) * len(rows)
    assert taken == set_aside(split, seed, 0.2)


def test_a_single_person_cannot_be_set_aside() -> None:
    with pytest.raises(ValueError, match=r"none of 1 groups can be set aside .* name a split as data.choose"):
        set_aside(split_of([0, 0, 0, 0], ["a", "b", "a", "b"]), 0, 0.1)


def test_another_seed_sets_other_persons_aside() -> None:
    split = split_of([i // 4 for i in range(80)], ["a", "b"] * 40)
    assert len({frozenset(set_aside(split, seed, 0.1)) for seed in range(6)}) > 2


def test_no_row_has_two_roles_and_rows_that_score_choose_nothing(tmp_path: Path) -> None:
    data = IntentDataSettings(kind="hazumi", path=str(write_folder(tmp_path)), choose=None, score="dev")
    parts = parts_of(read_source(data), data, seed=1)
    assert parts.choose is not None
    roles = Counter(sample.key for split in (parts.train, parts.choose, parts.score) for sample in split.samples)
    assert set(roles.values()) == {1}
    assert len(parts.train) + len(parts.choose) == len(parts.all_train) == 60
    assert {*parts.train.groups}.isdisjoint(parts.choose.groups)
    assert "whole persons drawn by the seed" in parts.notes[0]


def test_choosing_on_the_rows_that_score_is_said() -> None:
    dataset = IntentDataset("toy", {"train": split_of([0, 1], ["a", "b"]), "dev": split_of([2], ["a"])})
    same = parts_of(dataset, HAZUMI.model_copy(update={"choose": "dev"}), 0)
    assert same.notes == ["the best epoch was chosen on dev, the rows that are scored: these numbers are optimistic"]
    assert same.train is same.all_train
    bare = IntentDataset("toy", {name: replace(split, groups=[]) for name, split in dataset.splits.items()})
    assert parts_of(bare, HAZUMI, 0).choose is None
    with pytest.raises(ValueError, match="split 'dev' of x holds no rows; its splits: train, dev"):
        parts_of(IntentDataset("toy", {**dataset.splits, "dev": Split([], [])}), HAZUMI, 0)
    with pytest.raises(KeyError, match="no split 'test'"):
        parts_of(dataset, HAZUMI.model_copy(update={"score": "test"}), 0)


def test_fingerprints_see_every_number_label_and_word_and_no_path() -> None:
    samples = utterances()
    split = Split(samples, ["a"] * len(samples))
    audio = np.array(samples[0].audio)
    audio[-1, -1] += 1
    changed = [
        Split([replace(samples[0], audio=audio), *samples[1:]], split.labels),
        Split([replace(samples[0], text="yes"), *samples[1:]], split.labels),
        Split([replace(samples[0], video=None), *samples[1:]], split.labels),
        Split([replace(samples[0], key="other"), *samples[1:]], split.labels),
        Split(samples, ["b", *split.labels[1:]]),
        rows_of(split, range(len(samples) - 1, -1, -1)),
    ]
    assert len({fingerprint(other) for other in [split, *changed]}) == len(changed) + 1
    assert fingerprint(split) == fingerprint(Split(list(samples), list(split.labels), ["g"] * len(samples)))


def test_what_lies_at_a_path(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "h")
    assert source_at(folder, ["target=ui_ternary"]).given()["target"] == "ui_ternary"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "train.tsv").touch()
    (tmp_path / "m2" / "in-scope").mkdir(parents=True)
    (tmp_path / "rows.csv").touch()
    kinds = [source_at(tmp_path / name).kind for name in ("m", "m2", "rows.csv")]
    assert kinds == ["mintrec", "mintrec2", "clips"]
    with pytest.raises(FileNotFoundError, match=r"no data at .*gone; give a data folder, or a rows file"):
        source_at(tmp_path / "gone")
    with pytest.raises(RecipeError, match=r"is no data set moiety knows: expected features.npz \(Hazumi\)"):
        source_at(tmp_path)
    with pytest.raises(RecipeError, match="data: 1 problem\n  target: unknown target 'x'"):
        source_at(folder, ["target=x"])


def test_clips_without_labels_are_named(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("key,text,label,split\na,yes,go,train\nb,no,,train\nc,no,,dev\n")
    with pytest.raises(RecipeError, match=r"2 of 3 rows have no label: b, c; rows that teach or are scored need one"):
        read_source(IntentDataSettings(kind="clips", path=str(rows)))
    rows.write_text("key,text,label,split\na,yes,go,train\nb,no,stay,dev\n")
    found = read_source(IntentDataSettings(kind="clips", path=str(rows)))
    assert {name: split.labels for name, split in found.splits.items()} == {"train": ["go"], "dev": ["stay"]}


def test_input_is_what_is_left_of_a_sample() -> None:
    sample = IntentSample("s", text=" ", audio=np.ones((2, 3)), video=np.ones((0, 3)))
    assert has_input(sample, None)
    assert [has_input(sample, (name,)) for name in MODALITIES] == [False, False, True]


def test_majority_takes_the_first_name_of_a_tie_and_reads_nothing() -> None:
    samples = utterances()[:4]
    floor = Majority(IntentSettings()).fit(samples, ["b", "a", "b", "a"])
    assert floor.predict(samples, hide=MODALITIES).tolist() == ["a"] * 4


def speaking(rows: int, seed: int, scale: float = 1.0) -> tuple[list[IntentSample], list[str]]:
    """Frames of text whose mean tells the label; audio is noise."""
    draw, samples, labels = np.random.default_rng(seed), [], []
    for number in range(rows):
        label = number % 3
        text = draw.normal(size=(int(draw.integers(1, 5)), 6)) + 1.5 * np.eye(6)[label]
        audio = draw.normal(size=(2, 4)) if number % 4 else None
        samples.append(IntentSample(f"s{number}", None, scale * text, None, audio, text_marks=True))
        labels.append("abc"[label])
    return samples, labels


def test_logistic_regression_learns_from_means_whatever_the_scale_of_text_vectors() -> None:
    answers = []
    for scale in (1.0, 1e-3, 1e3):
        floor = PooledLogistic(IntentSettings()).fit(*speaking(90, 0, scale))
        samples, labels = speaking(60, 1, scale)
        answers.append(floor.predict(samples).tolist())
    assert np.mean(np.array(answers[0]) == labels) > 0.8
    # 1 of 60 rows may lie so near a border that rounding decides; measured: none
    assert all(sum(a != b for a, b in zip(answers[0], other, strict=True)) <= 1 for other in answers[1:])


def test_hidden_and_absent_modalities_are_zeros_for_logistic_regression() -> None:
    samples, labels = speaking(90, 0)
    floor = PooledLogistic(IntentSettings()).fit(samples, labels)
    seen, hidden = floor.vectors(samples), floor.vectors(samples, hide=("audio",))
    assert (hidden[:, 6:] == 0).all()
    assert (hidden[:, :6] == seen[:, :6]).all()
    assert [not row[6:].any() for row in seen] == [sample.audio is None for sample in samples]


@pytest.mark.slow
def test_the_floor_of_hazumi_is_that_of_the_readme(shared: Path) -> None:
    dataset = read_hazumi(shared / "data" / "hazumi_online")
    train, dev = dataset["train"], dataset["dev"]
    floor = PooledLogistic(IntentSettings()).fit(train.samples, train.labels)
    grades = closed_set_metrics(dev.labels, list(floor.predict(dev.samples)))
    # the README clips at 20 deviations and finds 69.66 and 63.46; the specification clips at 10: 69.74 and 63.45
    assert grades["acc"] == pytest.approx(0.6974, abs=2e-3)
    assert grades["f1"] == pytest.approx(0.6345, abs=2e-3)
    majority = Majority(IntentSettings()).fit(train.samples, train.labels).predict(dev.samples)
    assert closed_set_metrics(dev.labels, list(majority))["acc"] == pytest.approx(0.2303, abs=1e-4)
