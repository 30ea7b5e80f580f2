"""scikit-learn manners, learning, saving, and what is said to bad input (P05, P17 to P19, P26)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline

from moiety.intent import IntentClassifier, IntentSample
from moiety.intent.data.prepare import _tell_that_hashing_is_weak
from moiety.intent.network.baselines import METHODS
from moiety.intent.training import train
from tests import apart

SMALL: dict[str, Any] = {
    "hidden": 16, "num_heads": 2, "num_anchors": 2, "max_epochs": 6, "learning_rate": 6e-3, "batch_size": 16,
    "triplet_weight": 0.0, "dropout": 0.0, "fusion_layers": 1,
}  # fmt: skip
BRIEF = {**SMALL, "max_epochs": 1}
"""For what does not depend on how much is learned."""
TABLE = {"go": "The speaker leaves.", "stay": "The speaker remains here.", "wait": "The speaker asks for time."}


def world(rows: int, seed: int, signal: str = "audio") -> tuple[list[IntentSample], list[str]]:
    """Three labels told by one modality alone: one frame of several points to the label."""
    draw, labels = np.random.default_rng(seed), sorted(TABLE)
    samples, y = [], []
    for number in range(rows):
        label = int(draw.integers(3))
        frames = {
            name: draw.normal(size=(int(draw.integers(2, 6)), 6)).astype(np.float32) for name in ("video", "audio")
        }
        frames["text"] = draw.normal(size=(1, 6)).astype(np.float32)
        place = int(draw.integers(len(frames[signal])))
        frames[signal][place] += 6 * np.eye(6, dtype=np.float32)[label]
        samples.append(IntentSample(f"row {number}", None, frames["text"], frames["video"], frames["audio"]))
        y.append(labels[label])
    return samples, y


@pytest.fixture(scope="module")
def fitted() -> IntentClassifier:
    settings = {**SMALL, "triplet_weight": 1.0, "label_descriptions": TABLE, "max_epochs": 12}
    return IntentClassifier(**settings).fit(*world(120, 0))


# MAG's shift is at most 0.005 of the text's length, too little to learn from the audio alone in ten epochs
TAUGHT = [
    (method, signal) for method in METHODS for signal in ("text", "audio") if (method, signal) != ("mag", "audio")
]


@pytest.mark.parametrize(("method", "signal"), TAUGHT)
def test_every_method_learns_from_the_modality_that_speaks_and_from_no_other(method: str, signal: str) -> None:
    taken = method != "text" or signal == "text"
    rows, epochs = (80, 8) if method in ("amess", "mult") else (110, 10)  # the two that cost most learn from less
    model = IntentClassifier(**{**SMALL, "method": method, "max_epochs": epochs}).fit(*world(rows, 1, signal))
    samples, y = world(60, 2, signal)
    if not taken:
        assert model.score(samples, y) < 0.55
        return
    assert model.score(samples, y) > 0.8
    if method != "text":
        hidden = model.predict(samples, hide=(signal,))
        assert (hidden == np.array(y)).mean() < 0.6


def test_synchronisation_moves_samples_to_their_descriptions() -> None:
    settings = {**SMALL, "triplet_weight": 1.0, "label_descriptions": TABLE}
    history = IntentClassifier(**settings).fit(*world(120, 0)).history_
    assert history[-1]["dev_own_distance"] < history[0]["dev_own_distance"]
    assert history[-1]["triplet"] < history[0]["triplet"]


def test_manners_of_scikit_learn() -> None:
    model = IntentClassifier(margin=0.7, hidden=32)
    assert clone(model).get_params() == model.get_params()
    assert model.set_params(margin=0.1).margin == 0.1
    assert "margin=0.1" in repr(model)
    with pytest.raises(NotFittedError, match=r"not fitted; call fit\(X, y\) first"):
        model.predict([])


def test_fit_returns_itself_and_forgets() -> None:
    model, (samples, y) = IntentClassifier(**BRIEF), world(60, 0)
    assert model.fit(samples, ["left" if label == "go" else "right" for label in y]) is model
    assert list(model.classes_) == ["left", "right"]
    assert list(model.fit(samples, y).classes_) == ["go", "stay", "wait"]


def test_grid_search() -> None:
    search = GridSearchCV(IntentClassifier(**BRIEF), {"margin": [0.1, 0.5]}, cv=2)
    assert search.fit(*world(60, 0)).best_params_["margin"] in (0.1, 0.5)


def test_cross_validation_and_pipelines() -> None:
    samples, y = world(60, 0)
    model = IntentClassifier(**{**SMALL, "max_epochs": 8})
    answers = cross_val_predict(model, samples, y, cv=3)
    assert (answers == np.array(y)).mean() > 0.6  # measured 0.92; a third by chance
    assert (cross_val_predict(model, samples, y, cv=3) == answers).all(), "same seeds, same answers"
    brief = IntentClassifier(**BRIEF)
    assert cross_val_score(brief, samples, y, cv=3, scoring="f1_macro").shape == (3,)
    assert set(make_pipeline(brief).fit(samples, y).predict(samples)) <= set(TABLE)


def test_integer_labels_are_served_as_strings_are(tmp_path: Path) -> None:
    samples, y = world(60, 0)
    numbers = np.array([10 * sorted(TABLE).index(label) for label in y])
    table = {str(10 * place): TABLE[label] for place, label in enumerate(sorted(TABLE))}
    told = {**SMALL, "triplet_weight": 1.0, "max_epochs": 3, "label_text": "description_only"}
    of_words = IntentClassifier(**told, label_descriptions=TABLE).fit(samples, y)
    of_numbers = IntentClassifier(**told, label_descriptions=table).fit(samples, numbers)
    assert of_numbers.classes_.tolist() == [0, 10, 20]
    assert (of_numbers.predict_proba(samples) == of_words.predict_proba(samples)).all()
    assert of_numbers.predict(samples).dtype.kind == "i"
    assert of_numbers.score(samples, numbers) == of_words.score(samples, y)
    assert of_numbers.evaluate(samples, numbers) == of_words.evaluate(samples, y)
    loaded = IntentClassifier.load(of_numbers.save(tmp_path / "model"))
    assert (loaded.predict(samples) == of_numbers.predict(samples)).all()
    with pytest.raises(ValueError, match=r"no description of 3 of 3 labels: '0'"):
        IntentClassifier(**told, label_descriptions=TABLE).fit(samples, numbers)


def test_scikit_learn_numbers_the_labels_where_it_asks_for_probabilities() -> None:
    samples, y = world(60, 0)
    model = IntentClassifier(**BRIEF)
    p = cross_val_predict(model, samples, y, cv=3, method="predict_proba")
    np.testing.assert_allclose(p.sum(1), 1)
    by_hand = np.zeros_like(p)
    for teach, ask in StratifiedKFold(3).split(samples, y):
        once = clone(model).fit([samples[i] for i in teach], [y[i] for i in teach])
        by_hand[ask] = once.predict_proba([samples[i] for i in ask])
    np.testing.assert_array_equal(p, by_hand)


def test_probabilities(fitted: IntentClassifier) -> None:
    samples, y = world(30, 3)
    p = fitted.predict_proba(samples)
    np.testing.assert_allclose(p.sum(1), 1)
    assert (fitted.classes_[p.argmax(1)] == fitted.predict(samples)).all()
    assert fitted.score(samples, y) == pytest.approx((fitted.predict(samples) == np.array(y)).mean())


def test_seeds_decide(fitted: IntentClassifier) -> None:
    samples, y = world(60, 0)
    asked, _ = world(10, 5)
    same = [IntentClassifier(**BRIEF, random_state=1).fit(samples, y).predict_proba(asked) for _ in range(2)]
    other = IntentClassifier(**BRIEF, random_state=2).fit(samples, y).predict_proba(asked)
    assert (same[0] == same[1]).all()
    assert not np.allclose(same[0], other)


def test_shuffled_rows_keep_the_classes() -> None:
    samples, y = world(60, 0)
    assert list(IntentClassifier(**BRIEF).fit(samples[::-1], y[::-1]).classes_) == sorted(TABLE)


def test_saved_and_loaded_in_another_process_it_answers_bit_for_bit(fitted: IntentClassifier, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "label_descriptions.json", "metrics.json", "model.safetensors",
    ]  # fmt: skip
    samples, _ = world(8, 4)
    np.savez(
        tmp_path / "asked.npz",
        **{f"{n}-{m}": s.frames(m) for n, s in enumerate(samples) for m in ("text", "video", "audio")},
    )
    program = (
        "import sys, numpy as np, torch; torch.set_num_threads(1)\n"
        "from moiety.intent import IntentClassifier, IntentSample\n"
        "z = dict(np.load(sys.argv[2]))\n"
        "s = [IntentSample('', None, *(z[f'{n}-{m}'] for m in ('text', 'video', 'audio'))) for n in range(8)]\n"
        "np.save(sys.argv[3], IntentClassifier.load(sys.argv[1]).predict_proba(s))\n"
    )
    (tmp_path / "program.py").write_text(program)
    words = (folder, tmp_path / "asked.npz", tmp_path / "p.npy")
    asking = apart.start(tmp_path / "program.py", *words, log=tmp_path / "log.txt")
    assert apart.end_of(asking) == 0, (tmp_path / "log.txt").read_text()
    assert (np.load(tmp_path / "p.npy") == fitted.predict_proba(samples)).all()


def test_a_failed_save_leaves_the_earlier_one(
    fitted: IntentClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fitted.save(tmp_path / "model")
    before = load_file(folder / "model.safetensors")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moiety.intent.storage.card_of", full)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(folder)
    assert all((before[name] == value).all() for name, value in load_file(folder / "model.safetensors").items())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_damage_is_named(fitted: IntentClassifier, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no intent classifier at"):
        IntentClassifier.load(tmp_path)
    folder = fitted.save(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 9}))
    with pytest.raises(ValueError, match="has format 9, this moiety reads up to 1; update moiety"):
        IntentClassifier.load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="is damaged"):
        IntentClassifier.load(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds other files; choose a new folder"):
        fitted.save(tmp_path / "other")


@pytest.fixture(scope="module")
def trained_once() -> Callable[..., Any]:
    """``train``, whose second and later calls get the weights of the first: a rule is fitted after the training."""
    done: list[tuple[Any, Any]] = []

    def once(network: torch.nn.Module, *rows: Any) -> Any:
        if not done:
            done.append((train(network, *rows), network.state_dict()))
        network.load_state_dict(done[0][1])
        network.eval()
        return done[0][0]

    return once


@pytest.mark.parametrize("rule", ["doc", "msp", "energy", "max_logit", "distance"])
def test_out_of_scope_rules(rule: str, trained_once: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moiety.intent.classifier.train", trained_once)
    samples, y = world(100, 0)
    settings = {**SMALL, "oos": rule, "oos_label": "wait", "label_descriptions": {k: TABLE[k] for k in ("go", "stay")},
                "triplet_weight": 1.0, "max_epochs": 12, "fusion_layers": 2}  # fmt: skip
    model = IntentClassifier(**settings).fit(samples, y)
    assert list(model.classes_) == ["go", "stay"]
    asked, truth = world(60, 6)
    grades = model.evaluate(asked, truth)
    assert grades["acc"] > 0.9
    assert grades["oid_acc"] > 0.6
    if rule != "distance":
        assert grades["auroc"] > 0.75
    outside = np.array(truth) == "wait"
    scores = model.oos_score(asked)
    assert roc_auc_score(outside, scores) == pytest.approx(grades["auroc"]), "higher: further out of scope"
    if rule != "doc":
        # the threshold of a saved folder keeps its sign, so folders of any age decide alike
        said = np.array(model.predict(asked)) == "wait"
        assert (said == (scores > (1 - model.thresholds_ if rule == "msp" else -model.thresholds_))).all()
    else:
        np.testing.assert_allclose(scores, 1 - model.predict_proba(asked).max(1), atol=1e-6)


def test_hashing_says_once_that_it_is_weak(caplog: pytest.LogCaptureFixture) -> None:
    _tell_that_hashing_is_weak.cache_clear()
    rows = [{"text": word, "audio": np.full((2, 3), number)} for number, word in enumerate(["go", "stay"] * 6)]
    settings = {**SMALL, "triplet_weight": 0, "max_epochs": 1}
    with caplog.at_level(logging.WARNING, "moiety"):
        IntentClassifier(**{**settings, "modalities": ("audio",)}).fit(rows, ["go", "stay"] * 6)
    assert "weak" not in caplog.text, "no word is read"
    with caplog.at_level(logging.WARNING, "moiety"):
        for _ in range(2):
            IntentClassifier(**settings).fit(rows, ["go", "stay"] * 6)
    assert caplog.text.count("text_encoder='hashing' (groups of letters): it needs no model, and is weak.") == 1
    assert "text_encoder='bert-base-uncased' with train_text_encoder=True" in caplog.text


def test_every_set_of_modalities_is_graded(fitted: IntentClassifier) -> None:
    found = fitted.evaluate_masks(*world(30, 7))
    assert len(found) == 7
    assert found["text+video+audio"]["acc"] > 0.8 > found["text+video"]["acc"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": -1.0}, "margin: Input should be greater than or equal to 0"),
        ({"anchor_score": "best"}, "anchor_score: Input should be 'attention'"),
        ({"modalities": ("smell",)}, "unknown modality 'smell'; known: audio, text, video"),
        ({"triplet_weight": 1.0}, "no shipped table describes the 3 labels go, stay, wait"),
        ({"triplet_weight": 1.0, "label_descriptions": {"go": "Leaves."}}, r"no description of 2 of 3 labels: 'stay'"),
        ({"triplet_weight": 1.0, "label_descriptions": "gone.json"}, "no label descriptions at gone.json"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        IntentClassifier(**{**SMALL, **settings}).fit(*world(30, 0))


def test_bad_rows(fitted: IntentClassifier) -> None:
    samples, y = world(9, 0)
    with pytest.raises(TypeError, match=r"no setting 'marign'; known: .*did you mean 'margin'"):
        IntentClassifier(marign=1)
    with pytest.raises(ValueError, match="9 samples, but 2 labels"):
        fitted.fit(samples, y[:2])
    with pytest.raises(ValueError, match=r"labels are strings, or integers in all rows, got float 3\.5"):
        IntentClassifier().fit(samples, [3.5] * 9)
    with pytest.raises(ValueError, match="oos_label is the string 'UNK', and the labels are integers such as 3"):
        IntentClassifier(oos_label="UNK").fit(samples, [3, 4, 5] * 3)
    with pytest.raises(ValueError, match="fit needs rows of at least 2 labels"):
        IntentClassifier().fit(samples, ["go"] * 9)
    with pytest.raises(ValueError, match="label 'rare' has 1 row, so no dev share"):
        IntentClassifier().fit(samples, ["rare", *["go"] * 8])
    with pytest.raises(ValueError, match="y holds labels that fit never saw: fly"):
        fitted.score(samples, ["fly"] * 9)
    with pytest.raises(TypeError, match=r"sample 0 has unknown fields \['speech'\]; known: key, text"):
        fitted.predict([{"speech": 1}])
    with pytest.raises(TypeError, match="sample 0 is str; give an IntentSample or a mapping"):
        fitted.predict(["hello"])
    with pytest.raises(ValueError, match="row 0: none of text, video, audio is present; leave the sample out"):
        fitted.predict([{"text": " "}])
    with pytest.raises(ValueError, match="row 0: video frames are 2 wide, the model takes 6"):
        fitted.predict([{"video": np.zeros((1, 2))}])
    with pytest.raises(ValueError, match="cannot hide 'vidio'; known: audio, text, video; did you mean 'video'"):
        fitted.predict(samples, hide=("vidio",))
