"""``IntentClassifier``: intents from text, audio and video in scikit-learn manners."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import train_test_split

from moiety.groups import nearest_name
from moiety.intent.data.prepare import Preparation
from moiety.intent.data.samples import MODALITIES, IntentSample, check_hidden
from moiety.intent.labels.descriptions import SHARED, descriptions_for, encode_descriptions
from moiety.intent.metrics import closed_set_metrics
from moiety.intent.network.baselines import network_for
from moiety.intent.network.openset import (
    doc_decision,
    doc_thresholds,
    open_set_metrics,
    score_metrics,
    score_of,
    score_threshold,
)
from moiety.intent.network.reader import TextReader
from moiety.intent.settings import IntentSettings
from moiety.intent.storage import load_classifier, save_classifier
from moiety.intent.training import Rows, predict_logits, train
from moiety.recipe.recipe import describe_errors

OUTSIDE = "out of scope"
"""What rows beyond every class are called where no ``oos_label`` is given."""


class IntentClassifier(ClassifierMixin, BaseEstimator):
    """Recognises what a speaker wants from what is said, heard and seen.

    Every argument is a field of :class:`moiety.intent.settings.IntentSettings`; nothing is checked before ``fit``.

    Attributes:
        classes_: Sorted labels, without the out-of-scope label.
        model_: The trained network.
        history_: One line an epoch.
        best_epoch_: Whose weights are kept.
        thresholds_: Of the out-of-scope rule; None without one.
        extractors_: Modality -> settings of what made its frames of clips; those that ``read_clips`` uses.
        label_descriptions_: Texts behind the labels; None without synchronisation.

    Example:
        ``IntentClassifier(random_state=0).fit(samples, labels).predict(others)`` with samples like
        ``{"text": "thank you", "audio": array (frames, dim), "video": None}``.

    Source:
        A-MESS (arXiv 2503.19474) as reconstructed by moiety; baselines as in :mod:`moiety.intent.network.baselines`.
    """

    def __init__(self, **settings: Any) -> None:
        known = IntentSettings.model_fields
        for name in settings:
            if name not in known:
                raise TypeError(f"IntentClassifier has no setting {name!r}; {nearest_name(name, known)}")
        for name, field in known.items():
            setattr(self, name, settings.get(name, field.get_default(call_default_factory=True)))

    # -- learning ----------------------------------------------------------------------------------------------------
    def fit(self, X: Sequence[Any], y: Sequence[str], X_dev: Any = None, y_dev: Any = None, X_oos: Any = None) -> Any:
        """Learn from samples and their labels; an earlier fit is forgotten.

        Args:
            X: :class:`IntentSample` objects or mappings of their fields.
            y: One label a sample; rows with ``oos_label`` belong to no class.
            X_dev: Rows that choose the best epoch; None: a stratified share of the rows is split off.
            y_dev: Their labels.
            X_oos: More rows that belong to no class.

        Raises:
            ValueError: a setting or a row cannot be used; each says which.
        """
        settings = self._settings()
        samples, labels = _samples(X), _labels(y, len(X))
        inside = [i for i, label in enumerate(labels) if label != settings.oos_label]
        outside = [samples[i] for i, label in enumerate(labels) if label == settings.oos_label] + _samples(X_oos or [])
        samples, labels = [samples[i] for i in inside], labels[inside]
        self.classes_ = np.array(sorted(set(labels)))
        if len(self.classes_) < 2:
            raise ValueError(f"fit needs rows of at least 2 labels, got {self.classes_.tolist()}")
        samples, labels, dev, dev_labels = self._dev_rows(samples, labels, X_dev, y_dev, settings)
        reader = TextReader.pretrained(settings.text_encoder) if settings.reads_words else None
        torch.manual_seed(settings.random_state)
        self.preparation_ = Preparation.fit(samples, settings, None if reader is None else reader.tokenizer)
        prepared, dev = self.preparation_.transform(samples), self.preparation_.transform(dev)
        self.dims_ = self.preparation_.dims
        self.extractors_ = {name: json.loads(known) for name, known in self.preparation_.extractors.items()}
        described = self._describe(settings, reader)
        self.model_ = network_for(self.dims_, len(self.classes_), settings, described, reader)
        again = None
        if described is not None and settings.label_encoder == SHARED:
            again = partial(self._describe, settings, reader)
        rows, dev_rows = Rows(prepared, self._positions(labels)), Rows(dev, self._positions(dev_labels))
        self.history_, self.best_epoch_ = train(
            self.model_, rows, dev_rows, self._batch, settings, self.preparation_.transform(outside), again
        )
        self._fit_thresholds(settings, rows, dev_rows, bool(outside))
        return self

    def _settings(self) -> IntentSettings:
        try:
            return IntentSettings.model_validate(self.get_params())
        except ValidationError as error:
            raise ValueError(describe_errors(error, "IntentClassifier", IntentSettings)) from error

    def _dev_rows(self, samples: list, labels: np.ndarray, X_dev: Any, y_dev: Any, settings: IntentSettings) -> tuple:
        if X_dev is not None:
            dev, dev_labels = _samples(X_dev), _labels(y_dev, len(X_dev))
            kept = [i for i, label in enumerate(dev_labels) if label != settings.oos_label]
            dev, dev_labels = [dev[i] for i in kept], dev_labels[kept]
            self._check_known(dev_labels, "X_dev")
            return samples, labels, dev, dev_labels
        counts = {label: int((labels == label).sum()) for label in self.classes_.tolist()}
        rare = min(counts, key=lambda label: counts[label])
        if counts[rare] < 2:
            raise ValueError(f"label {rare!r} has 1 row, so no dev share can be split off; give X_dev and y_dev")
        share = max(settings.validation_fraction, len(self.classes_) / len(labels))
        train_rows, dev_rows = train_test_split(
            np.arange(len(labels)), test_size=share, stratify=labels, random_state=settings.random_state
        )
        pick = [samples[i] for i in sorted(train_rows)], [samples[i] for i in sorted(dev_rows)]
        return pick[0], labels[sorted(train_rows)], pick[1], labels[sorted(dev_rows)]

    def _describe(self, settings: IntentSettings, reader: TextReader | None = None) -> torch.Tensor | None:
        wanted = settings.triplet_weight or settings.batch_triplet_weight or settings.info_nce_weight
        self.label_descriptions_ = None
        if settings.method == "amess" and wanted and settings.label_descriptions is not None:
            self.label_descriptions_ = descriptions_for(settings.label_descriptions, self.classes_.tolist())
            shared = reader if settings.label_encoder == SHARED else None
            encoder = settings.label_encoder if shared is None else shared.vectors
            return encode_descriptions(self.label_descriptions_, settings.label_text, encoder)
        return None

    def _fit_thresholds(self, settings: IntentSettings, rows: Rows, dev: Rows, has_outside: bool) -> None:
        rule = settings.oos
        self.oos_rule_ = ("doc" if has_outside else None) if rule == "auto" else rule
        self.thresholds_: Any = None
        if self.oos_rule_ == "doc":
            logits, _ = self._predict(rows.samples, settings)
            self.thresholds_ = doc_thresholds(logits, rows.y)
        elif self.oos_rule_ is not None:
            logits, embedding = self._predict(dev.samples, settings)
            self.thresholds_ = score_threshold(self._score(logits, embedding).numpy())

    # -- asking --------------------------------------------------------------------------------------------------------
    def decision_function(self, X: Sequence[Any], hide: Sequence[str] = ()) -> np.ndarray:
        """Logits, ``(samples, classes)``, in the order of ``classes_``."""
        return self._asked(X, hide)[0].numpy()

    def predict_proba(self, X: Sequence[Any], hide: Sequence[str] = ()) -> np.ndarray:
        """Probabilities of the in-scope classes, ``(samples, classes)``; each row sums to 1."""
        return self._asked(X, hide)[0].double().softmax(-1).numpy()

    def predict(self, X: Sequence[Any], hide: Sequence[str] = ()) -> np.ndarray:
        """One label a sample; with an out-of-scope rule it may be ``oos_label``.

        Args:
            X: Samples.
            hide: Modalities taken away from every sample.
        """
        return self._decided(*self._asked(X, hide))

    def _decided(self, logits: torch.Tensor, embedding: torch.Tensor) -> np.ndarray:
        """Best label of each row; what the out-of-scope rule refuses becomes ``oos_label``."""
        labels = self.classes_[logits.argmax(1).numpy()].astype(object)
        if self.oos_rule_ == "doc":
            labels[doc_decision(logits, self.thresholds_).numpy() == len(self.classes_)] = self.oos_label or OUTSIDE
        elif self.oos_rule_ is not None:
            labels[self._score(logits, embedding).numpy() < self.thresholds_] = self.oos_label or OUTSIDE
        return labels

    def embed(self, X: Sequence[Any], hide: Sequence[str] = ()) -> np.ndarray:
        """Input of the head, ``(samples, width)``."""
        return self._asked(X, hide)[1].numpy()

    def oos_score(self, X: Sequence[Any], kind: str | None = None, hide: Sequence[str] = ()) -> np.ndarray:
        """How far each sample looks out of scope, ``(samples,)``: higher = further out.

        Args:
            X: Samples.
            kind: As setting ``oos``; None: the classifier's own, or msp. For msp it is 1 minus the largest probability,
                for every other kind the score of :mod:`moiety.intent.network.openset` with its sign changed.
            hide: Modalities taken away from every sample.
        """
        scores = self._score(*self._asked(X, hide), kind).numpy()
        return 1 - scores if self._kind_of_score(kind) == "msp" else -scores

    def score(self, X: Sequence[Any], y: Sequence[str], sample_weight: Any = None) -> float:
        """Accuracy of :meth:`predict`.

        Raises:
            ValueError: a label was never seen in ``fit``.
        """
        labels = _labels(y, len(X))
        self._check_known(labels[labels != self.oos_label] if self.oos_label else labels, "y")
        hits = self.predict(X) == labels
        return float(np.average(hits, weights=sample_weight))

    def explain(self, X: Sequence[Any], hide: Sequence[str] = ()) -> list[Any]:
        """Which frames each answer rests on, and when they were; see :func:`moiety.intent.explain.explain`."""
        from moiety.intent.explain import explain

        return explain(self, X, hide)

    def evaluate(self, X: Sequence[Any], y: Sequence[str] | np.ndarray, hide: Sequence[str] = ()) -> dict[str, Any]:
        """All grades of :mod:`moiety.intent.metrics` on in-scope rows, and out-of-scope grades where there are such."""
        labels = _labels(y, len(X))
        outside = labels == self.oos_label if self.oos_label else np.zeros(len(labels), dtype=bool)
        self._check_known(labels[~outside], "y")
        logits, embedding = self._asked(X, hide)
        best = self.classes_[logits.argmax(1).numpy()]
        grades: dict[str, Any] = closed_set_metrics(labels[~outside], best[~outside])
        if outside.any():
            place = {label: i for i, label in enumerate(self.classes_)}
            truth = np.array([place.get(label, len(place)) for label in labels])
            said = np.array([place.get(label, len(place)) for label in self._decided(logits, embedding)])
            grades |= open_set_metrics(truth, said, len(place))
            grades |= score_metrics(self._score(logits, embedding).numpy(), ~outside)
        return grades

    def evaluate_masks(self, X: Sequence[Any], y: Sequence[str]) -> dict[str, dict[str, Any]]:
        """:meth:`evaluate` for every non-empty set of modalities left in."""
        names = [name for name in MODALITIES if name in self._fitted().dims]
        found = {}
        for bits in range(2 ** len(names) - 1, 0, -1):
            kept = [name for place, name in enumerate(names) if bits >> place & 1]
            hidden = [name for name in names if name not in kept]
            usable = [i for i, sample in enumerate(_samples(X)) if self._fitted().has_any(sample, kept)]
            if usable:
                found["+".join(kept)] = self.evaluate([X[i] for i in usable], np.asarray(y)[usable], hide=hidden)
        return found

    def read_clips(self, rows: Any, **options: Any) -> Any:
        """Samples of clips by the extractors that made the training samples.

        Args:
            rows: As :func:`moiety.intent.clips.reading.read_clips` takes them.
            **options: ``cache``, ``on_error``, ``on_progress``, ``device``, as there; and ``text``, ``video`` or
                ``audio`` with the folder in which a model lies now, where that is another.

        Raises:
            ValueError: the model was fitted on frames of the user's own, which only the user can make.
        """
        from moiety.intent.clips.reading import read_clips

        own = [name for name in self._fitted().dims if name != "text" and name not in self.extractors_]
        if own:
            raise ValueError(
                f"the model was fitted on {' and '.join(own)} frames of your own, so moiety cannot make them of clips; "
                "fit on samples of read_clips, or make those frames as you did"
            )
        made = {name: "hashing" if name == "text" and name in self.dims_ else None for name in MODALITIES}
        moved = {
            name: {**known, "extractor": options[name]}
            for name, known in self.extractors_.items()
            if isinstance(options.get(name), str)
        }
        return read_clips(rows, **{**made, **self.extractors_, **options, **moved})

    def save(self, folder: str | Path) -> Path:
        """Write a folder of JSON and safetensors, whole or not at all; see :mod:`moiety.intent.storage`."""
        self._fitted()
        return save_classifier(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> IntentClassifier:
        """Read a folder that :meth:`save` wrote; probabilities are those of the saved one, bit for bit on CPU."""
        return load_classifier(cls, folder)

    # -- inside --------------------------------------------------------------------------------------------------------
    def _fitted(self) -> Preparation:
        if not hasattr(self, "model_"):
            raise NotFittedError("this IntentClassifier is not fitted; call fit(X, y) first")
        return self.preparation_

    def _asked(self, X: Sequence[Any], hide: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        preparation = self._fitted()
        check_hidden(hide)
        return self._predict(preparation.transform(_samples(X)), self._settings(), hide)

    def _predict(self, samples: Sequence[IntentSample], settings: IntentSettings, hide: Sequence[str] = ()) -> tuple:
        return predict_logits(
            self.model_, samples, lambda part: self._batch(part, hide), settings.batch_size, settings.device
        )

    def _batch(self, samples: Sequence[IntentSample], hide: Sequence[str] = ()) -> Any:
        return self.preparation_.batch(samples, hide)

    def _score(self, logits: torch.Tensor, embedding: torch.Tensor, kind: str | None = None) -> torch.Tensor:
        """How far each row looks in scope, as thresholds and grades take it: higher = further in."""
        kind = self._kind_of_score(kind)
        if kind == "distance":
            f, g = self.model_.synchronised(embedding.to(self.device))
            return (f @ g.T).amax(-1).detach().cpu()
        return score_of(kind, logits)

    def _kind_of_score(self, kind: str | None) -> str:
        return kind or (self.oos_rule_ if self.oos_rule_ not in (None, "doc") else "msp")

    def _positions(self, labels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.searchsorted(self.classes_, labels))

    def _check_known(self, labels: np.ndarray, where: str) -> None:
        unknown = sorted(set(labels) - set(self.classes_))
        if unknown:
            raise ValueError(
                f"{where} holds labels that fit never saw: {', '.join(unknown[:5])}; known: {len(self.classes_)}"
            )


def _samples(X: Any) -> list[IntentSample]:
    return [IntentSample.of(given, number) for number, given in enumerate(X)]


def _labels(y: Any, rows: int) -> np.ndarray:
    if y is None or len(y) != rows:
        raise ValueError(f"{rows} samples, but {0 if y is None else len(y)} labels; give one label a sample")
    labels = np.asarray(y, dtype=object)
    wrong = [label for label in labels if not isinstance(label, str)]
    if wrong:
        raise ValueError(f"labels are strings, got {type(wrong[0]).__name__} {wrong[0]!r}; write them out")
    return labels


IntentClassifier.__init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.get_default(call_default_factory=True))
        for name, field in IntentSettings.model_fields.items()
    ]
)
