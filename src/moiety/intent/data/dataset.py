"""What a data set is: utterances with their labels, by split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moiety.groups import nearest_name
from moiety.intent.data.samples import IntentSample
from moiety.records.text_files import TextFileError, read_text


class IntentDataError(ValueError):
    """A data folder cannot be used; the text names the file and the line."""


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Args:
        samples: The utterances.
        labels: The label of each sample.
        groups: The speaker of each sample; empty where the data does not name speakers.
    """

    samples: list[IntentSample]
    labels: list[str]
    groups: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class IntentDataset:
    """A data set by split.

    Args:
        name: Kind of the data, for messages.
        splits: Name of a split -> its rows.
    """

    name: str
    splits: Mapping[str, Split]

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise KeyError(f"{self.name} has no split {split!r}; {nearest_name(split, self.splits)}")
        return self.splits[split]


def text_of(path: Path) -> str:
    """What a text file of a data set says.

    Raises:
        IntentDataError: it is not text; says where.
    """
    try:
        return read_text(path)
    except TextFileError as error:
        raise IntentDataError(str(error)) from error
