"""TF-IDF beside the network: it helps where words alone tell, its share is chosen on dev, and it is saved whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from moiety.intent import IntentClassifier, IntentSample
from moiety.intent.training import Rows
from moiety.intent.word_blend import WordBlend

SMALL = {"hidden": 16, "num_heads": 2, "max_epochs": 1, "triplet_weight": 0, "label_descriptions": None}


def rows(number: int, classes: int = 3, seed: int = 0) -> tuple[list[IntentSample], list[str]]:
    """One word among noise tells the label."""
    draw = np.random.default_rng(seed)
    y = draw.integers(classes, size=number)
    noise = ["now", "then", "here", "away", "so"]
    texts = [" ".join([*draw.choice(noise, 2), f"sign{label}", *draw.choice(noise, 2)]) for label in y]
    return [IntentSample(f"r{i}", text) for i, text in enumerate(texts)], [f"c{label}" for label in y]


def constant(samples: list[IntentSample], classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(len(samples), classes), torch.zeros(len(samples), 1)


def places(y: list[str]) -> torch.Tensor:
    return torch.tensor([int(label[1:]) for label in y])


@pytest.mark.parametrize("classes", [2, 3])
def test_the_words_are_scikit_learns(classes: int) -> None:
    (x, y), (other, z) = rows(60, classes), rows(20, classes, 1)
    blend = WordBlend.fit(Rows(x, places(y)), Rows(other, places(z)), lambda s: constant(list(s), classes), "acc")
    assert blend.share > 0, "the network knows nothing here"
    full = WordBlend(1.0, blend.vocabulary, blend.idf, blend.weight, blend.bias)
    reader = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=5000).fit(reader.fit_transform([s.text for s in x]), places(y).numpy())
    expected = model.predict_proba(reader.transform([s.text for s in other]))
    found = full.mixed(torch.randn(20, classes), other).exp().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_network_that_knows_all_keeps_its_say() -> None:
    (x, y), (other, z) = rows(60), rows(20, seed=1)
    sure = 50.0 * torch.nn.functional.one_hot(places(z), 3).float()
    blend = WordBlend.fit(Rows(x, places(y)), Rows(other, places(z)), lambda s: (sure, sure), "f1")
    assert blend.share == 0, "the smallest of equally good shares"
    torch.testing.assert_close(blend.mixed(sure, other), sure.log_softmax(-1).clamp(min=np.log(1e-30)))


def test_rows_without_text_keep_the_network() -> None:
    blend = WordBlend(1.0, {"a": 0}, np.ones(1), np.array([[9.0], [0.0]]), np.zeros(2))
    given = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    found = blend.mixed(given, [IntentSample("p", "a"), IntentSample("q", " ")]).exp()
    assert found[0, 0] > 0.99
    torch.testing.assert_close(found[1], given[1].softmax(-1))


def test_classes_without_words_are_refused() -> None:
    x, y = rows(30)
    blank = [IntentSample(s.key, None if label == "c1" else s.text) for s, label in zip(x, y, strict=True)]
    with pytest.raises(ValueError, match="1 classes have no training row with text; leave it out"):
        WordBlend.fit(Rows(blank, places(y)), Rows(x, places(y)), lambda s: constant(list(s)), "acc")


def test_the_classifier_mixes_saves_and_hides(tmp_path: Path) -> None:
    model = IntentClassifier(**SMALL, word_blend=True).fit(*rows(90))
    assert model.blend_.share > 0
    assert model.score(*rows(60, seed=2)) > 0.9 > IntentClassifier(**SMALL).fit(*rows(90)).score(*rows(60, seed=2))
    again = IntentClassifier.load(model.save(tmp_path / "model"))
    asked = rows(10, seed=3)[0]
    np.testing.assert_array_equal(again.predict_proba(asked), model.predict_proba(asked))


def test_a_rule_for_out_of_scope_does_not_go_with_it() -> None:
    with pytest.raises(ValueError, match="word_blend mixes probabilities, and rules of oos read"):
        IntentClassifier(**SMALL, word_blend=True, oos="msp").fit(*rows(30))
