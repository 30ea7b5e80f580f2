"""``IntentClassifier``: recognises intents from text, audio and video, used as every scikit-learn classifier."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from moiety.groups import nearest_name
from moiety.intent.data.dev_rows import dev_split
from moiety.intent.data.prepare import Preparation
from moiety.intent.data.samples import (
    MODALITIES,
    IntentSample,
    SampleError,
    check_hidden,
    check_oos_label,
    has_input,
    in_scope,
    labels_of,
    samples_of,
)
from moiety.intent.explanation import Explanation, explanations
from moiety.intent.labels.descriptions import SHARED, descriptions_for, encode_descriptions
from moiety.intent.metrics import closed_set_metrics
from moiety.intent.network.baselines import network_for
from moiety.intent.network.openset import open_set_metrics, score_metrics
from moiety.intent.network.reader import TextReader
from moiety.intent.parameters import default_of, with_parameters_of
from moiety.intent.scope import ScopeRule
from moiety.intent.settings import IntentSettings
from moiety.intent.storage import load_classifier, save_classifier
from moiety.intent.training import Rows, outputs_of, predict_logits, train
from moiety.intent.word_blend import WordBlend
from moiety.recipe.recipe import describe_errors

Labels = Sequence[str] | Sequence[int] | np.ndarray
OUTSIDE = "out of scope"
"""The answer for samples beyond every class where no ``oos_label`` is given."""


@with_parameters_of(IntentSettings)
class IntentClassifier(ClassifierMixin, BaseEstimator):
    """Recognises what a speaker wants from what is said, heard and seen.

    The parameters are keyword arguments, and ``fit`` checks them. They are the fields of
    ``moiety.intent.settings.IntentSettings``, from which this list is made; section ``model`` of a recipe has the same.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of str or int
        Sorted labels, without the out-of-scope label; integers where ``fit`` got integers.
    model_ : torch.nn.Module
        The trained network, with the weights of the best epoch.
    history_ : list of dict
        Losses and dev scores of each epoch.
    best_epoch_ : int
        The number of the best epoch, from 1.
    scope_ : ScopeRule
        The out-of-scope rule; ``oos_rule_`` is its kind and ``thresholds_`` what it compares with.
    extractors_ : dict
        Modality -> settings of the extractor that made its training frames; ``read_clips`` uses the same.
    blend_ : TF-IDF beside the network (``word_blend``), or None.
    label_descriptions_ : dict or None
        Label -> its description; None where nothing synchronises.

    Example:
        ``IntentClassifier(random_state=0).fit(samples, labels).predict(others)`` with samples like
        ``{"text": "thank you", "audio": array (frames, dim), "video": None}``.

    Source:
        A-MESS (arXiv 2503.19474) as reconstructed by moiety; baselines as in ``moiety.intent.network.baselines``.
    """

    def __init__(self, **settings: Any) -> None:
        known = IntentSettings.model_fields
        for name in settings:
            if name not in known:
                raise TypeError(f"IntentClassifier has no setting {name!r}; {nearest_name(name, known)}")
        for name, field in known.items():
            setattr(self, name, settings.get(name, default_of(field)))

    def fit(self, X: Sequence[Any], y: Labels, X_dev: Any = None, y_dev: Any = None, X_oos: Any = None) -> Any:
        """Learn from samples and their labels; an earlier fit is forgotten.

        Args:
            X: :class:`IntentSample` objects, or mappings of their fields.
            y: One label for each sample, all strings or all integers; rows with ``oos_label``, a string, belong to no
                class. Label descriptions name integer 3 ``"3"``.
            X_dev: Rows that choose the best epoch; None: a stratified share of the rows is set aside for that.
            y_dev: Their labels.
            X_oos: More rows that belong to no class.

        Raises:
            ValueError: a setting or a row cannot be used; the text says which one.
        """
        settings = self._settings()
        samples, labels = samples_of(X), labels_of(y, len(X))
        check_oos_label(settings.oos_label, labels)
        outside = [samples[i] for i, label in enumerate(labels) if label == settings.oos_label] + samples_of(
            X_oos or []
        )
        samples, labels = in_scope(samples, labels, settings.oos_label)
        self.classes_ = np.array(sorted(set(labels)))
        if len(self.classes_) < 2:
            raise ValueError(
                f"fit needs rows of at least 2 labels, got {self.classes_.tolist()}; add rows of another label"
            )
        samples, labels, dev, dev_labels = self._dev_rows(samples, labels, X_dev, y_dev, settings)
        reader = TextReader.pretrained(settings.text_encoder) if settings.reads_words else None
        torch.manual_seed(settings.random_state)
        self.preparation_ = Preparation.fit(samples, settings, None if reader is None else reader.tokenizer)
        prepared, dev = self.preparation_.transform(samples), self.preparation_.transform(dev)
        self.dims_ = self.preparation_.dims
        self.extractors_ = {name: json.loads(known) for name, known in self.preparation_.extractors.items()}
        self.label_descriptions_ = None
        if settings.synchronises:
            self.label_descriptions_ = descriptions_for(settings.label_descriptions, [str(c) for c in self.classes_])
        encode = self._description_encoder(settings, reader)
        embeddings = None if encode is None else encode()
        self.model_ = network_for(self.dims_, len(self.classes_), settings, embeddings, reader)
        places = [torch.from_numpy(np.searchsorted(self.classes_, part)) for part in (labels, dev_labels)]
        rows, dev_rows = Rows(prepared, places[0]), Rows(dev, places[1])
        again = encode if settings.label_encoder == SHARED else None
        outside, make = self.preparation_.transform(outside), self.preparation_.batch
        self.history_, self.best_epoch_ = train(self.model_, rows, dev_rows, make, settings, outside, again)
        self.blend_, ask = None, partial(self._predict, settings=settings)
        self.blend_ = WordBlend.fit(rows, dev_rows, ask, settings.monitor) if settings.word_blend else None
        rule = ("doc" if outside else None) if settings.oos == "auto" else settings.oos
        self.scope_ = ScopeRule.fit(rule, self.model_, ask, rows, dev_rows)
        return self

    def _settings(self) -> IntentSettings:
        try:
            return IntentSettings.model_validate(self.get_params())
        except ValidationError as error:
            raise ValueError(describe_errors(error, "IntentClassifier", IntentSettings)) from error

    def _dev_rows(self, samples: list, labels: np.ndarray, X_dev: Any, y_dev: Any, settings: IntentSettings) -> tuple:
        """Samples and labels of the rows that teach, and of those that choose the epoch."""
        if X_dev is not None:
            dev, dev_labels = in_scope(samples_of(X_dev), labels_of(y_dev, len(X_dev)), settings.oos_label)
            self._check_known(dev_labels, "X_dev")
            return samples, labels, dev, dev_labels
        teach, choose = dev_split(labels, settings.validation_fraction, settings.random_state)
        return [samples[i] for i in teach], labels[teach], [samples[i] for i in choose], labels[choose]

    def _description_encoder(
        self, settings: IntentSettings, reader: TextReader | None
    ) -> Callable[[], torch.Tensor] | None:
        """A function that encodes the label descriptions, ``() -> (classes, label_dim)``; None without any."""
        if self.label_descriptions_ is None:
            return None
        is_shared = settings.label_encoder == SHARED and reader is not None
        encoder = reader.vectors if is_shared else settings.label_encoder  # type: ignore[union-attr]
        return partial(encode_descriptions, self.label_descriptions_, settings.label_text, encoder)

    @property
    def oos_rule_(self) -> str | None:
        """The out-of-scope rule in use; None: there is none."""
        return self.scope_.kind

    @property
    def thresholds_(self) -> Any:
        """What the rule compares with: one value for each class (doc), or one for all; None without a rule."""
        return self.scope_.thresholds

    def decision_function(self, X: Sequence[Any], hide: Sequence[str] = ()) -> np.ndarray:
        """Logits, ``(samples, classes)``, in the order of ``classes_``."""
        return self._asked(X, hide)[0].numpy()

    def predict_proba(self, X: Sequence[Any], hide: Sequence[str] = ()) -> np.ndarray:
        """Probabilities of the in-scope classes, ``(samples, classes)``; each row sums to 1."""
        return self._asked(X, hide)[0].double().softmax(-1).numpy()

    def predict(self, X: Sequence[Any], hide: Sequence[str] = ()) -> np.ndarray:
        """One label for each sample; with an out-of-scope rule it may be ``oos_label``.

        Args:
            X: Samples.
            hide: Modalities taken away from every sample.
        """
        return self._decided(*self._asked(X, hide))

    def _decided(self, logits: torch.Tensor, embedding: torch.Tensor) -> np.ndarray:
        """Best label of each row; what the out-of-scope rule refuses becomes ``oos_label``."""
        best = self.classes_[logits.argmax(1).numpy()]
        if self.scope_.kind is None and best.dtype.kind == "i":
            return best  # scikit-learn's scorers know integers, but no integers that are objects
        labels = best.astype(object)
        labels[self.scope_.refused(logits, embedding)] = self.oos_label or OUTSIDE
        return labels

    def embed(self, X: Sequence[Any], hide: Sequence[str] = ()) -> np.ndarray:
        """Input of the head, ``(samples, width)``."""
        return self._asked(X, hide)[1].numpy()

    def oos_score(self, X: Sequence[Any], kind: str | None = None, hide: Sequence[str] = ()) -> np.ndarray:
        """How far each sample looks out of scope, ``(samples,)``: higher = further out.

        Args:
            X: Samples.
            kind: As setting ``oos``; None: the rule in use, or msp without one. For msp the score is 1 minus the
                largest probability, for every other kind that of ``moiety.intent.network.openset``, its sign changed.
            hide: Modalities taken away from every sample.
        """
        return self.scope_.oos_scores(*self._asked(X, hide), kind)

    def score(self, X: Sequence[Any], y: Labels, sample_weight: Any = None) -> float:
        """Accuracy of :meth:`predict`.

        Raises:
            ValueError: a label was never seen in ``fit``.
        """
        labels = labels_of(y, len(X))
        self._check_known(labels[labels != self.oos_label] if self.oos_label else labels, "y")
        hits = self.predict(X) == labels
        return float(np.average(hits, weights=sample_weight))

    def explain(self, X: Sequence[Any], hide: Sequence[str] = ()) -> list[Explanation]:
        """Which frames the answer to each sample rests on, and when they were.

        Args:
            X: Samples.
            hide: Modalities taken away from every sample.

        Raises:
            ValueError: the method chooses no frames.
            SampleError: some samples have nothing left to read; their keys are listed.
        """
        if self.method != "amess":
            raise ValueError(
                f"method {self.method!r} chooses no frames, so there is nothing to explain; use method amess"
            )
        preparation, samples = self._fitted(), samples_of(X)
        check_hidden(hide)
        kept = [name for name in self.dims_ if name not in hide]
        empty = [sample.key for sample in samples if not has_input(sample, kept)]
        if empty:
            raise SampleError(f"{len(empty)} samples have none of {', '.join(kept)}: {', '.join(empty[:5])}")
        prepared, size = preparation.transform(samples), self.batch_size
        outputs = outputs_of(self.model_, prepared, partial(preparation.batch, hide=hide), size, self.device)
        batches = [prepared[start : start + size] for start in range(0, len(prepared), size)]
        return [
            found
            for batch, output in zip(batches, outputs, strict=True)
            for found in explanations(output, batch, self.classes_, tuple(self.dims_))
        ]

    def evaluate(self, X: Sequence[Any], y: Labels, hide: Sequence[str] = ()) -> dict[str, Any]:
        """All grades of ``moiety.intent.metrics`` on in-scope rows, and out-of-scope grades where there are such."""
        labels = labels_of(y, len(X))
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
            grades |= score_metrics(self.scope_.scores(logits, embedding).numpy(), ~outside)
        return grades

    def evaluate_masks(self, X: Sequence[Any], y: Labels) -> dict[str, dict[str, Any]]:
        """:meth:`evaluate` for every non-empty set of modalities left in."""
        names = [name for name in MODALITIES if name in self._fitted().dims]
        found = {}
        for bits in range(2 ** len(names) - 1, 0, -1):
            kept = [name for place, name in enumerate(names) if bits >> place & 1]
            hidden = [name for name in names if name not in kept]
            usable = [i for i, sample in enumerate(samples_of(X)) if has_input(sample, kept)]
            if usable:
                found["+".join(kept)] = self.evaluate([X[i] for i in usable], np.asarray(y)[usable], hide=hidden)
        return found

    def read_clips(self, rows: Any, **options: Any) -> Any:
        """Samples of clips, made by the extractors that made the training samples.

        Args:
            rows: As :func:`moiety.intent.clips.reading.read_clips` takes them.
            **options: ``cache``, ``on_error``, ``on_progress``, ``device``, as there; and ``text``, ``video`` or
                ``audio``: the folder in which that model lies now, if it was moved.

        Raises:
            ValueError: the model was fitted on frames that the user made, which moiety cannot make.
        """
        from moiety.intent.clips.reading import read_clips

        user_made = [name for name in self._fitted().dims if name != "text" and name not in self.extractors_]
        if user_made:
            raise ValueError(
                f"the model was fitted on {' and '.join(user_made)} frames that you made, so moiety cannot make them "
                "of clips; fit on samples of read_clips, or make those frames as you did"
            )
        words = {name: "hashing" if name == "text" and name in self.dims_ else None for name in MODALITIES}
        moved = {
            name: {**known, "extractor": options[name]}
            for name, known in self.extractors_.items()
            if isinstance(options.get(name), str)
        }
        return read_clips(rows, **{**words, **self.extractors_, **options, **moved})

    def save(self, folder: str | Path) -> Path:
        """Write a folder of JSON and safetensors, whole or not at all; see :mod:`moiety.intent.storage`."""
        self._fitted()
        return save_classifier(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> IntentClassifier:
        """Read a folder that :meth:`save` wrote; on CPU the probabilities are those of the saved one, bit for bit."""
        return load_classifier(cls, folder)

    def _fitted(self) -> Preparation:
        if not hasattr(self, "model_"):
            raise NotFittedError("this IntentClassifier is not fitted; call fit(X, y) first")
        return self.preparation_

    def _asked(self, X: Sequence[Any], hide: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        preparation = self._fitted()
        check_hidden(hide)
        return self._predict(preparation.transform(samples_of(X)), self._settings(), hide)

    def _predict(self, samples: Sequence[IntentSample], settings: IntentSettings, hide: Sequence[str] = ()) -> tuple:
        make = partial(self.preparation_.batch, hide=hide)
        logits, embedding = predict_logits(self.model_, samples, make, settings.batch_size, settings.device)
        if self.blend_ is not None and "text" not in hide:
            logits = self.blend_.mixed(logits, samples)
        return logits, embedding

    def _check_known(self, labels: np.ndarray, where: str) -> None:
        unknown = sorted(set(labels.tolist()) - set(self.classes_.tolist()))
        if unknown:
            raise ValueError(
                f"{where} holds labels that fit never saw: {', '.join(map(str, unknown[:5]))}; leave these rows "
                "out, or fit with them"
            )
