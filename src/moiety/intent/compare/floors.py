"""Floors, which every method has to exceed: the most frequent label, and logistic regression on mean frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from sklearn.linear_model import LogisticRegression

from moiety.intent.data.prepare import Preparation
from moiety.intent.data.samples import MODALITIES, IntentSample
from moiety.intent.settings import IntentSettings

REGULARISATION = 0.01
"""scikit-learn's ``C``. It was chosen on training rows of Hazumi, and is the same for every data set."""
MAX_STEPS = 5000


class Floor(Protocol):
    """A method that learns from samples and answers with labels."""

    def fit(self, samples: Sequence[IntentSample], labels: Sequence[str]) -> Floor:
        """Learn, and return itself."""
        ...

    def predict(self, samples: Sequence[IntentSample], hide: Sequence[str] = ()) -> np.ndarray:
        """One label for each sample, ``(samples,)``."""
        ...


class Majority:
    """Always answers the most frequent label of the training rows; of equally frequent ones the first by name."""

    def __init__(self, settings: IntentSettings) -> None:
        self.label = ""

    def fit(self, samples: Sequence[IntentSample], labels: Sequence[str]) -> Majority:
        """Count the labels."""
        counts = Counter(labels)
        self.label = min(counts, key=lambda label: (-counts[label], label))
        return self

    def predict(self, samples: Sequence[IntentSample], hide: Sequence[str] = ()) -> np.ndarray:
        """The same label for every sample."""
        return np.array([self.label] * len(samples), dtype=object)


class PooledLogistic:
    """Logistic regression on the mean frame of each modality, side by side.

    Frames are prepared as for every method (:class:`moiety.intent.data.prepare.Preparation`: text to vectors, z-scores
    of hand-made features), so an absent or hidden modality is a vector of zeros, the training mean. Vectors without
    z-scores, such as those of a text encoder, are brought to root mean square 1: one C then suits every kind.

    Args:
        settings: Settings of the model that it is compared with; modalities, preparation and class weight count.

    Source:
        scikit-learn's ``LogisticRegression`` (lbfgs) at C = 0.01.
    """

    def __init__(self, settings: IntentSettings) -> None:
        self.settings = settings

    def fit(self, samples: Sequence[IntentSample], labels: Sequence[str]) -> PooledLogistic:
        """Learn from all rows. No epoch is chosen, so no rows are set aside."""
        self.preparation = Preparation.fit(samples, self.settings)
        self.scale = dict.fromkeys(self.preparation.dims, 1.0)
        for name in self.scale.keys() - self.preparation.mean.keys():
            given = [sample.frames(name) for sample in self.preparation.transform(samples)]
            present = [found.mean(0) for found in given if found is not None]
            self.scale[name] = 1 / max(float(np.sqrt(np.mean(np.square(present)))), 1e-12)
        self.model = LogisticRegression(
            C=REGULARISATION, max_iter=MAX_STEPS, class_weight=self.settings.class_weight
        ).fit(self.vectors(samples), np.asarray(labels, dtype=str))
        return self

    def predict(self, samples: Sequence[IntentSample], hide: Sequence[str] = ()) -> np.ndarray:
        """One label for each sample."""
        return self.model.predict(self.vectors(samples, hide)).astype(object)

    def vectors(self, samples: Sequence[IntentSample], hide: Sequence[str] = ()) -> np.ndarray:
        """Mean frames side by side, ``(samples, dims of all modalities)``; zeros where absent or hidden."""
        prepared = self.preparation.transform(samples)
        columns = []
        for name in MODALITIES:
            if name in self.preparation.dims:
                empty = np.zeros((1, self.preparation.dims[name]), dtype=np.float32)
                frames = [None if name in hide else sample.frames(name) for sample in prepared]
                limit = self.preparation.max_frames.get(name)
                pooled = np.stack([(empty if found is None else found[:limit]).mean(0) for found in frames])
                columns.append(pooled * np.float32(self.scale[name]))
        return np.concatenate(columns, axis=1)


FLOOR_METHODS: dict[str, type[Majority] | type[PooledLogistic]] = {"logistic": PooledLogistic, "majority": Majority}
"""Name in a table -> floor."""
