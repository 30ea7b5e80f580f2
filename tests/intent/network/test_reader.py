"""A text encoder that learns with the rest: it reads, learns, is saved whole, and disturbs nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from moiety.intent import IntentClassifier, IntentSample
from moiety.intent.data.encoders import TextEncoder, encoder_of
from moiety.intent.network.reader import MAX_PIECES, TextReader, piece_frames
from tests import apart

WORDS = ["go", "stay", "wait", "now", "here", "please", "then", "away"]
TABLE = {"go": "away now", "stay": "stay here", "wait": "please wait"}
SMALL: dict[str, Any] = {
    "hidden": 16, "num_heads": 2, "num_anchors": 2, "max_epochs": 8, "learning_rate": 6e-3, "batch_size": 16,
    "dropout": 0.0, "encoder_learning_rate": 3e-3, "train_text_encoder": True, "label_descriptions": TABLE,
}  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random BERT without pooler, with a word each for :data:`WORDS`."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=MAX_PIECES, hidden_dropout_prob=0.1,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


def world(rows: int, seed: int, audio: bool = False) -> tuple[list[IntentSample], list[str]]:
    """Labels that are told by the order of two words: a bag of words knows nothing."""
    draw = np.random.default_rng(seed)
    samples, y = [], []
    for number in range(rows):
        first, second = draw.choice(3, size=2, replace=False)
        text = f"{WORDS[first]} then {WORDS[second]}"
        frames = draw.normal(size=(3, 5)).astype(np.float32) if audio else None
        samples.append(IntentSample(f"row {number}", text, audio=frames))
        y.append(sorted(TABLE)[first])
    return samples, y


@pytest.fixture(scope="module")
def fitted(bert: str) -> IntentClassifier:
    return IntentClassifier(**SMALL, text_encoder=bert, label_encoder="shared").fit(*world(120, 0, audio=True))


def test_it_learns_what_a_frozen_random_encoder_does_not_show(fitted: IntentClassifier, bert: str) -> None:
    before, after = encoder_of(bert)[1].state_dict(), fitted.model_.reader.model.state_dict()
    assert fitted.score(*world(60, 1, audio=True)) > 0.9
    assert not before["embeddings.word_embeddings.weight"].equal(after["embeddings.word_embeddings.weight"])
    fresh = TextReader.pretrained(bert).model.state_dict()
    assert all(value.equal(before[name]) for name, value in fresh.items()), "the kept copy does not learn"


@pytest.mark.parametrize("method", ["text", "concat", "mult", "mag"])
def test_every_method_takes_its_states(bert: str, method: str) -> None:
    model = IntentClassifier(**{**SMALL, "max_epochs": 2}, method=method, text_encoder=bert)
    model.fit(*world(60, 0, audio=True))
    before = encoder_of(bert)[1].state_dict()
    still = [name for name, value in model.model_.reader.model.named_parameters() if value.equal(before[name])]
    assert not [name for name in still if "key.bias" not in name], "a key's bias moves no softmax"
    assert model.predict_proba(world(5, 1, audio=True)[0]).shape == (5, 3)


def test_states_are_those_of_the_encoder(bert: str) -> None:
    """With weights that did not move, pieces through the reader are the frames that the frozen encoder makes."""
    reader, texts = TextReader.pretrained(bert).eval(), ["go then stay", "wait"]
    frames = TextEncoder(bert).frames(texts)
    pieces = piece_frames(reader.tokenizer, texts)
    assert [len(row) for row in pieces] == [len(row) for row in frames] == [5, 3]
    network = IntentClassifier(**{**SMALL, "max_epochs": 1}, text_encoder=bert).fit(*world(40, 0))
    samples = [IntentSample("a", texts[0]), IntentSample("b", texts[1])]
    batch = network.preparation_.batch(network.preparation_.transform(samples))
    states = reader(batch).x["text"].detach()
    for row, expected in enumerate(frames):
        torch.testing.assert_close(states[row, : len(expected)], torch.from_numpy(expected), rtol=0, atol=1e-6)
        assert not states[row, len(expected) :].any()
    torch.testing.assert_close(reader.vectors(texts), TextEncoder(bert).vectors(texts), rtol=0, atol=1e-6)


def test_company_and_absence_change_nothing(fitted: IntentClassifier) -> None:
    samples, _ = world(6, 3, audio=True)
    samples.append(IntentSample("silent", " ", audio=samples[0].audio))
    together = fitted.predict_proba(samples)
    alone = np.concatenate([fitted.predict_proba([sample]) for sample in samples])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    hidden = fitted.predict_proba(samples[:1], hide=("text",))
    np.testing.assert_allclose(hidden, together[-1:], atol=1e-5)
    assert np.isfinite(fitted.predict_proba(samples[-1:])).all()


def test_same_seed_same_weights_and_descriptions_follow_the_encoder(fitted: IntentClassifier, bert: str) -> None:
    again = IntentClassifier(**SMALL, text_encoder=bert, label_encoder="shared").fit(*world(120, 0, audio=True))
    other = fitted.model_.state_dict()
    assert all(value.equal(other[name]) for name, value in again.model_.state_dict().items())
    frozen = TextEncoder(bert).vectors([f"{label}. {text}" for label, text in sorted(TABLE.items())])
    assert (fitted.model_.label_embeddings - frozen).abs().max() > 1e-3


def test_a_saved_one_answers_bit_for_bit_elsewhere(fitted: IntentClassifier, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "model")
    samples, _ = world(8, 4, audio=True)
    np.save(tmp_path / "expected.npy", fitted.predict_proba(samples))
    assert "text (word pieces), audio (5)" in (folder / "README.md").read_text(encoding="utf-8")
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    program = (
        "import sys, numpy as np, torch; torch.set_num_threads(1)\n"
        "from moiety.intent import IntentClassifier\n"
        "from tests.intent.network.test_reader import world\n"
        "found = IntentClassifier.load(sys.argv[1]).predict_proba(world(8, 4, audio=True)[0])\n"
        "assert np.array_equal(found, np.load(sys.argv[2])), abs(found - np.load(sys.argv[2])).max()\n"
    )
    (tmp_path / "program.py").write_text(program)
    words = (folder.rename(tmp_path / "moved"), tmp_path / "expected.npy")
    asking = apart.start(tmp_path / "program.py", *words, log=tmp_path / "log.txt")
    assert apart.end_of(asking) == 0, (tmp_path / "log.txt").read_text()


def test_long_texts_are_cut_where_the_encoder_ends(bert: str) -> None:
    (frames,) = piece_frames(TextReader.pretrained(bert).tokenizer, ["go " * 500])
    assert frames.shape == (MAX_PIECES, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_encoder": "hashing"}, "train_text_encoder needs a text_encoder that can learn, and hashing cannot"),
        ({"train_text_encoder": False, "label_encoder": "shared"}, "set train_text_encoder=True"),
        ({"text_encoder": "no-such-folder/x"}, "no text encoder in the Hugging Face id 'no-such-folder/x'"),
    ],
)
def test_settings_that_do_not_fit(bert: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IntentClassifier(**{**SMALL, "text_encoder": bert, **settings}).fit(*world(40, 0))


def test_without_text_among_the_modalities_nothing_is_read(bert: str) -> None:
    """An ablation of a recipe takes text away and leaves the rest of the settings as they are."""
    settings = {**SMALL, "max_epochs": 1, "text_encoder": bert, "modalities": ("audio",)}
    model = IntentClassifier(**settings).fit(*world(40, 0, audio=True))
    assert model.model_.reader is None
    with pytest.raises(ValueError, match="keep text among the modalities"):
        IntentClassifier(**settings, label_encoder="shared").fit(*world(40, 0, audio=True))


def test_frames_of_ones_own_are_refused(bert: str) -> None:
    samples, y = world(40, 0)
    samples[3] = IntentSample("mine", "go", text_features=np.zeros((2, 16), np.float32))
    with pytest.raises(ValueError, match=r"1 samples bring text frames \(mine\), but train_text_encoder reads words"):
        IntentClassifier(**SMALL, text_encoder=bert).fit(samples, y)


def test_no_words_anywhere(bert: str) -> None:
    samples, y = world(40, 0, audio=True)
    silent = [IntentSample(sample.key, None, audio=sample.audio) for sample in samples]
    with pytest.raises(ValueError, match="no training sample has text"):
        IntentClassifier(**SMALL, text_encoder=bert).fit(silent, y)
