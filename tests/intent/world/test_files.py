"""The small spoken world: its law, its files, and that voice and figure carry the signs they are meant to carry."""

import itertools
import json
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.intent import IntentClassifier, IntentSample
from moiety.intent.clips.media import decode_audio, decode_video
from moiety.intent.clips.signal_audio import prosody
from moiety.intent.clips.signal_video import motion
from moiety.intent.clips.writer import write_clip
from moiety.intent.data.rows import read_clip_rows
from moiety.intent.labels.descriptions import descriptions_for
from moiety.intent.world import files as world
from moiety.intent.world.figure import FPS, SIDE, Look, move
from moiety.intent.world.figure import GESTURES as DRAWN
from moiety.intent.world.files import IntentWorldFiles, write_intent_world
from moiety.intent.world.phrases import SENTENCES, sentence, vowels
from moiety.intent.world.signs import GESTURES, INTENTS, MASKS, OUTSIDE, SIGNS, TONES, WORDS, attainable, law
from moiety.intent.world.utterance import SPEAKERS, clip_of, drawn_utterance
from moiety.intent.world.voice import RATE, Voice, speak
from moiety.intent.world.voice import TONES as SPOKEN

SMALL = {"num_train": 24, "num_dev": 12, "num_test": 12, "missing": 0.3, "outside": 0.1}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> IntentWorldFiles:
    return write_intent_world(tmp_path_factory.mktemp("world") / "w", **SMALL)


# -- the law -----------------------------------------------------------------------------------------------------------
def best_by_hand(kept: tuple[str, ...], unclear: Fraction) -> Fraction:
    """Accuracy of the best reader, by going through every combination of signs with exact fractions."""

    def chance(value: str, likely: tuple[str, ...], values: tuple[str, ...]) -> Fraction:
        clear = (1 - unclear) / len(likely) if value in likely else Fraction(0)
        return clear + (unclear if value == values[-1] else 0)

    total = Fraction(0)
    for seen in itertools.product(*(SIGNS[name] for name in kept)):
        shares = []
        for intent in INTENTS:
            share = Fraction(1, len(INTENTS))
            for name, value in zip(kept, seen, strict=True):
                likely = {"text": (intent.words,), "video": intent.gestures, "audio": intent.tones}[name]
                share *= chance(value, likely, SIGNS[name])
            shares.append(share)
        total += max(shares)
    return total


@given(unclear=st.fractions(0, 1, max_denominator=50), kept=st.sampled_from(MASKS))
@settings(max_examples=40, deadline=None)
def test_the_attainable_accuracy_is_that_of_every_combination_by_hand(unclear: Fraction, kept: tuple[str, ...]) -> None:
    # both sum at most 7 * 7 * 5 terms; worst difference seen 3e-16
    assert attainable(kept, unclear=float(unclear)) == pytest.approx(float(best_by_hand(kept, unclear)), abs=1e-12)


@given(unclear=st.fractions(0, 1, max_denominator=20), missing=st.fractions(0, 1, max_denominator=20))
@settings(max_examples=8, deadline=None)
def test_rows_that_lack_a_modality_are_read_by_what_is_left(unclear: Fraction, missing: Fraction) -> None:
    for kept in MASKS:
        whole, parts = Fraction(0), Fraction(0)
        for lacking, weight in ((None, 1 - missing), *((name, missing / 3) for name in SIGNS)):
            left = tuple(name for name in kept if name != lacking)
            if left:
                whole, parts = whole + weight * best_by_hand(left, unclear), parts + weight
        if parts:
            known = attainable(kept, unclear=float(unclear), missing=float(missing))
            assert known == pytest.approx(float(whole / parts), abs=1e-12)


def test_without_unclear_signs_the_numbers_can_be_counted() -> None:
    found = {kept: round(12 * attainable(kept), 6) for kept in MASKS}
    assert found[("text",)] == 6  # one intent of each group of words
    assert found[("text", "video")] == found[("text", "audio")] == 9
    assert found[("text", "video", "audio")] == 12
    assert law(0.0).sum() == pytest.approx(1)
    assert law(1.0)[:, -1, -1, -1].sum() == pytest.approx(1)
    assert attainable(("text", "video", "audio"), unclear=1.0) == pytest.approx(1 / 12)


@pytest.mark.parametrize("unclear", [0.0, 0.03, 0.1])
def test_every_modality_is_needed(unclear: float) -> None:
    everything = attainable(tuple(SIGNS), unclear=unclear)
    for kept in MASKS[1:]:
        assert attainable(kept, unclear=unclear) < everything - 0.15


def test_what_is_drawn_follows_the_law() -> None:
    """The best reader of the law, asked about drawn utterances, is right as often as the law says, for every mask."""
    unclear, missing, count = 0.1, 0.3, 2400
    drawn = [drawn_utterance("test", n, seed=5, unclear=unclear, missing=missing, outside=0.0) for n in range(count)]
    table, labels = law(unclear), [intent.label for intent in INTENTS]
    for kept in MASKS:
        hopes, hits = [], 0
        for one in drawn:
            seen = {"text": one.words, "video": one.gesture, "audio": one.tone}
            left = [name for name in kept if name != one.missing]
            if not left:
                continue
            place = tuple(SIGNS[name].index(seen[name]) if name in left else slice(None) for name in SIGNS)
            chances = table[(slice(None), *place)].reshape(len(INTENTS), -1).sum(1)
            hits += labels[int(chances.argmax())] == one.label
            hopes.append(chances.max() / chances.sum())
        expected = attainable(kept, unclear=unclear, missing=missing)
        spread = math.sqrt(expected * (1 - expected) / len(hopes))
        assert abs(hits / len(hopes) - expected) < 4 * spread
        assert abs(np.mean(hopes) - expected) < 4 * spread


def test_a_hidden_modality_costs_what_the_law_says() -> None:
    """With signs that cannot be misread a classifier reaches the attainable accuracy, and loses as much as it says."""
    unclear = 0.03
    vectors = {name: np.eye(len(values), dtype=np.float32) for name, values in SIGNS.items()}

    def rows(split: str, count: int) -> tuple[list[IntentSample], list[str]]:
        drawn = [drawn_utterance(split, n, seed=1, unclear=unclear, missing=0, outside=0) for n in range(count)]
        frames = [
            {
                name: vectors[name][[SIGNS[name].index(sign)]]
                for name, sign in (("text", one.words), ("video", one.gesture), ("audio", one.tone))
            }
            for one in drawn
        ]
        return [
            IntentSample(one.key, None, given["text"], given["video"], given["audio"])
            for one, given in zip(drawn, frames, strict=True)
        ], [one.label for one in drawn]

    model = IntentClassifier(
        hidden=16, num_heads=2, fusion_layers=1, learning_rate=0.01, max_epochs=6, batch_size=24,
        label_descriptions=None, modality_dropout=0.3,
    ).fit(*rows("train", 192), *rows("dev", 48))  # fmt: skip
    grades = model.evaluate_masks(*rows("test", 360))
    for kept in (("text", "video", "audio"), ("text", "video"), ("text", "audio"), ("text",)):
        best = attainable(kept, unclear=unclear)
        # rows that the best reader has to guess are right by chance: 4 deviations of a binomial of 360
        assert grades["+".join(kept)]["acc"] == pytest.approx(best, abs=4 * math.sqrt(0.25 / 360) + 0.02)


# -- the files ---------------------------------------------------------------------------------------------------------
def test_rows_and_their_clips(written: IntentWorldFiles) -> None:
    rows = read_clip_rows(written.rows)
    signs = {tree["key"]: tree for tree in map(json.loads, written.signs.read_text("utf-8").splitlines())}
    assert Counter(row.split for row in rows) == {"train": 24, "dev": 12, "test": 12}
    assert len(signs) == 48
    assert {tree["missing"] for tree in signs.values()} == {None, *SIGNS}
    for row in rows:
        one = signs[row.key]
        assert row.label == one["label"]
        assert row.clip is not None
        assert row.text == (None if one["missing"] == "text" else one["text"])
        with av.open(str(row.clip)) as file:
            assert bool(file.streams.video) == (one["missing"] != "video")
            assert bool(file.streams.audio) == (one["missing"] != "audio")


def test_nobody_speaks_in_two_splits_and_every_twelve_clips_hold_every_intent() -> None:
    drawn = {
        split: [drawn_utterance(split, n, seed=0, unclear=0.1, missing=0, outside=0) for n in range(120)]
        for split in SPEAKERS
    }
    people = [{one.speaker for one in part} for part in drawn.values()]
    assert not people[0] & people[1]
    assert not people[1] & people[2]
    assert not people[0] & people[2]
    assert all(len(group) <= count for group, count in zip(people, SPEAKERS.values(), strict=True))
    for part in drawn.values():
        for start in range(0, 120, 12):
            assert len({one.label for one in part[start : start + 12]}) == 12


def test_the_facts_are_those_of_the_law(written: IntentWorldFiles) -> None:
    for kept in MASKS:
        value = attainable(kept, unclear=0.03, missing=0.3)
        assert written.attainable()["+".join(kept)] == pytest.approx(value, abs=1e-6)
        assert f"| {'+'.join(kept)} | {100 * value:.1f} |" in (written.folder / "README.md").read_text("utf-8")


def test_labels_are_described_and_outside_is_not_one_of_them(written: IntentWorldFiles) -> None:
    table = descriptions_for(written.labels, [intent.label for intent in INTENTS])
    assert len(table) == 12
    assert OUTSIDE not in table
    assert len({entry.descriptions for entry in table.values()}) == 12
    labels = {row.label for row in read_clip_rows(written.rows)}
    assert labels <= {*table, OUTSIDE}
    assert OUTSIDE in labels


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_arguments_write_the_same_bytes(written: IntentWorldFiles, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    again = write_intent_world(tmp_path / "w", **SMALL, on_progress=lambda done, of: told.append((done, of)))
    assert content(again.folder) == content(written.folder)
    assert told == [(n, 48) for n in range(1, 49)]


def test_another_seed_draws_another_world() -> None:
    few = {"unclear": 0.2, "missing": 0.2, "outside": 0.2}
    ones, others = ([drawn_utterance("train", n, seed=seed, **few) for n in range(30)] for seed in (0, 1))
    for trait in ("label", "text", "tone", "gesture", "speaker", "missing"):
        assert [getattr(one, trait) for one in ones] != [getattr(other, trait) for other in others]
    (first, sound), (second, other) = (clip_of(ones[0], seed, 1.0) for seed in (0, 1))  # the same words by two people
    assert len(sound) != len(other) or (sound != other).any()
    assert len(first) != len(second) or (first != second).any()


def test_a_stopped_world_stops_soon_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    monkeypatch.setattr(world, "write_clip", lambda path, *_, **__: written.append(path))

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_intent_world(tmp_path / "w", num_train=240, num_dev=12, num_test=12, on_progress=stop)
    assert 1 <= len(written) < 100
    assert not list(tmp_path.iterdir())


def test_a_world_that_is_there_is_left(written: IntentWorldFiles) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.folder.rglob("*")}
    write_intent_world(written.folder, **SMALL, on_progress=lambda done, of: pytest.fail("it was written again"))
    assert {path: path.stat().st_mtime_ns for path in written.folder.rglob("*")} == before
    with pytest.raises(
        FileExistsError, match=r"holds a world that was made with other arguments: seed was 0, is 3; .*or delete it"
    ):
        write_intent_world(written.folder, **SMALL, seed=3)
    assert {path: path.stat().st_mtime_ns for path in written.folder.rglob("*")} == before


def test_clips_decode_to_what_was_drawn(written: IntentWorldFiles) -> None:
    whole = [tree for tree in map(json.loads, written.signs.read_text("utf-8").splitlines()) if not tree["missing"]]
    for tree in whole[:6]:
        split, number = tree["key"].split("-")
        one = drawn_utterance(split, int(number), seed=0, unclear=0.03, missing=0.3, outside=0.1)
        pictures, sound = clip_of(one, 0, 1.0)
        path = written.folder / "clips" / f"{tree['key']}.mp4"
        frames, heard = decode_video(path, fps=FPS, max_frames=200), decode_audio(path, rate=RATE)
        assert frames is not None
        assert heard is not None
        assert pictures is not None
        assert sound is not None
        assert len(frames.images) == len(pictures)
        # half the colour samples and coarse steps: worst mean difference seen 6.0 of 255
        assert np.abs(np.stack(frames.images).astype(float) - pictures).mean() < 10
        shared = min(len(sound), len(heard.samples))
        assert shared > 0.95 * len(sound)
        # 48 kbit/s: worst correlation seen 0.985
        assert np.corrcoef(sound[:shared], heard.samples[:shared])[0, 1] > 0.95


# -- the signs ---------------------------------------------------------------------------------------------------------
def heard(tone: str, person: int) -> dict[str, float]:
    """Where the pitch lies, goes and spreads, how loud and how long: of one sentence by one person."""
    voice = Voice.drawn(np.random.default_rng(person))
    sound = speak("you did it again today", tone, voice, np.random.default_rng(person))
    columns, _ = prosody(sound, RATE)
    pitch, voicing, energy = columns[:, 25], columns[:, 26], columns[:, 24]
    pitch = pitch[voicing > 0.7]
    third = len(pitch) // 3
    return {
        "slope": float(np.median(pitch[-third:]) - np.median(pitch[:third])),
        "range": float(np.subtract(*np.percentile(pitch, [90, 10]))),
        "loud": float(energy.max()),
        "long": len(sound) / RATE,
    }


def test_each_tone_has_its_own_melody_loudness_and_tempo() -> None:
    ears = {tone: [heard(tone, person) for person in range(6)] for tone in SPOKEN}
    for person in range(6):
        rising, firm, low, bright, plain = (ears[t][person] for t in ("rising", "firm", "low", "bright", "plain"))
        assert rising["slope"] > 0.3 > firm["slope"]  # octaves
        assert low["slope"] < -0.2
        assert bright["range"] > 0.35 > plain["range"]
        assert firm["loud"] > plain["loud"] > low["loud"]
        assert firm["long"] < plain["long"] < low["long"]


def seen(gesture: str, person: int) -> dict[str, float]:
    """How much moves vertically and horizontally, and how much is left of the figure at the end."""
    look = Look.drawn(np.random.default_rng(person), noise=0.0)
    pictures = move(gesture, look, 2.0, np.random.default_rng(person))
    velocity = motion(pictures, np.arange(len(pictures)) / FPS)[:, -2:]
    figure = np.abs(pictures.astype(float) - look.background).sum((1, 2, 3))
    y, x = (float(np.abs(column).mean()) for column in velocity.T)
    return {"y": y, "x": x, "left": float(figure[-1] / figure[0])}


def test_each_gesture_moves_what_its_name_says() -> None:
    eyes = {gesture: [seen(gesture, person) for person in range(6)] for gesture in DRAWN}
    for person in range(6):
        nod, shake, walk, shrug, still = (eyes[g][person] for g in ("nod", "shake", "walk", "shrug", "still"))
        assert nod["y"] > 2 * nod["x"]
        assert shake["x"] > 2 * shake["y"]
        assert shrug["y"] > 2 * still["y"]
        assert nod["y"] > 4 * still["y"]
        assert walk["left"] < 0.5
        assert still["left"] == pytest.approx(1, abs=0.1)


def test_a_left_handed_person_is_the_mirror_of_a_right_handed_one() -> None:
    colours = {"colour": (200.0, 100.0, 50.0), "background": (0.0, 0.0, 0.0)}
    same = {"size": 0.9, "place": (0.5, 0.5), "noise": 0.0}
    for gesture in ("wave", "point", "walk"):
        right, left = (
            move(gesture, Look(**colours, **same, hand=hand), 1.0, _Calm(np.random.PCG64(0))) for hand in (1, -1)
        )
        assert right.shape == (10, SIDE, SIDE, 3)
        assert np.abs(right[:, :, ::-1].astype(int) - left).max() <= 1  # rounding


class _Calm(np.random.Generator):
    """No sway: it goes the same way for everybody, so a mirrored person would sway the other way."""

    def uniform(self, low=0.0, high=1.0, size=None):  # type: ignore[no-untyped-def]
        drawn = super().uniform(low, high, size)
        return drawn if size is None or high != 0.008 else np.zeros(size)


def test_every_sign_of_the_law_can_be_made() -> None:
    assert set(DRAWN) == set(GESTURES)
    assert set(SPOKEN) == set(TONES)
    assert {*SENTENCES} == {*WORDS, "outside"}


def test_the_sentences_of_a_group_are_its_own() -> None:
    owners = Counter(text for group in SENTENCES.values() for text in group)
    assert set(owners.values()) == {1}
    rng = np.random.default_rng(0)
    for group in SENTENCES:
        said = sentence(group, rng)
        assert [other for other, parts in SENTENCES.items() if any(part in said for part in parts)] == [group]


@given(st.text("abcdefghijklmnopqrstuvwxyz ", max_size=40))
def test_every_sentence_can_be_spoken(text: str) -> None:
    assert vowels(text)
    assert set(vowels(text)) <= set("aeiou")


# -- messages ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_dev": 5}, "num_dev=5: give every split at least 12 clips"),
        ({"unclear": 1.5}, r"unclear=1.5: give probabilities within 0..1"),
        ({"missing": -0.1, "noise": -1.0}, r"missing=-0.1, noise=-1.0: give probabilities within 0..1, and noise of 0"),
    ],
)
def test_numbers_that_make_no_world_are_refused(arguments: dict, text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        write_intent_world(tmp_path / "w", **arguments)
    assert not (tmp_path / "w").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other files; choose a new folder for the world"):
        write_intent_world(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_clip_of_nothing_or_of_odd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a clip needs frames or sound; got neither"):
        write_clip(tmp_path / "c.mp4", None, None, fps=12, rate=RATE)
    with pytest.raises(ValueError, match="pictures of 4 x 5 pixels; give even numbers"):
        write_clip(tmp_path / "c.mp4", np.zeros((2, 4, 5, 3), np.uint8), None, fps=12, rate=RATE)
    assert not (tmp_path / "c.mp4").exists()
