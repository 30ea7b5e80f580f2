"""NLVR2: questions whether a sentence is true of two photos.

Suhr et al. 2019 (1811.00491), development set. No project prescribes a prompt; moiety uses :data:`PROMPT`.

- ``sound`` (default): true or yes, and false or no, as :func:`moiety.evaluate.statements.stated_word` reads them. Any
  other answer is wrong.
- ``official``: the text is equal to the label, except for case and blanks at its end.

An empty answer scores 0 under both rules.

Source:
    clic-lab/nlvr @ 3afe9e5, ``nlvr2/eval/metrics.py``. Consistency is the share of sentences that are right for all
    their pairs of photos. As there, sentences are grouped by the identifier without its third part.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score
from moiety.evaluate.benchmarks.files.entries import entry_with
from moiety.evaluate.benchmarks.files.layouts import SITE, Layout, Questions, beside, first_of, hub_layout, parts_by
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_entries
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.statements import stated_word
from moiety.vlm.rows import Row

SPLITS = ("dev", "test1", "balanced_dev", "balanced_test1", "unbalanced_dev", "unbalanced_test1")
"""Splits with public labels. The first is the benchmark itself."""
_SIDES = (("left_image", "image_0"), ("right_image", "image_1"))
PROMPT = "{sentence}\nIs this true of the left and the right image? Answer with True or False."
_WORDS = {"true": "true", "yes": "true", "false": "false", "no": "false"}


def stated_truth(text: str, label: str) -> bool:
    """Whether the text states the same as the label.

    Example:
        >>> stated_truth("Yes, it is.", "True"), stated_truth("untrue", "True"), stated_truth("Answer: no.", "False")
        (True, False, True)
    """
    return stated_word(text, _WORDS) == _WORDS[label.lower()]


def same_but_for_case(text: str, label: str) -> bool:
    """The released comparison. A blank before the word makes it wrong; a blank after it does not.

    Example:
        >>> same_but_for_case("TRUE ", "True"), same_but_for_case(" True", "True")
        (True, False)
    """
    return text.rstrip().lower() == label.lower()


RULES: Mapping[str, Callable[[str, str], bool]] = {"sound": stated_truth, "official": same_but_for_case}


def read(release: Release) -> Questions:
    """The sentences of the first split in :data:`SPLITS` that is there, each with its left and right picture."""
    split, path = next((split, path) for split in SPLITS for path in [release.find(*_files(split))] if path is not None)
    rows = []
    for line, entry in read_entries(path):
        entry = entry_with(entry, dict.fromkeys(("identifier", "sentence", "label"), str), f"{path}:{line}")
        pair = entry["identifier"].rpartition("-")[0]
        rows.append(_row(entry, [f"{pair}-img0.png", f"{pair}-img1.png"], split, str(path), line))
    folder = split.rpartition("_")[2]
    return Questions(rows, beside(release, folder, f"images/{folder}", "images"))


def read_hub(table: HubTable) -> Questions:
    """The sentences of a table from the Hugging Face Hub, which holds both pictures."""
    rows = []
    for file, line, entry in table.rows():
        shown = entry.get("images") or [entry.get(left) or entry.get(right) for left, right in _SIDES]
        label = first_of(entry, "label", "answer")
        known = {
            "identifier": first_of(entry, "identifier", "question_id", "uid"),
            "sentence": first_of(entry, "sentence", "question", "caption"),
            "label": str(bool(label)) if isinstance(label, int) else label,
        }
        split = PurePosixPath(file).name.split("-")[0].replace("validation", SPLITS[0])
        rows.append(_row(known, [str(name) for name in shown], split, file, line))
    return Questions(rows, table.pictures)


def _row(entry: Mapping[str, Any], pictures: Sequence[str], split: str, file: str, line: int) -> Row:
    entry_with(dict(entry), dict.fromkeys(("identifier", "sentence", "label"), str), f"{file}:{line}")
    name, label = entry["identifier"], entry["label"].capitalize()
    if label not in ("True", "False") or name.count("-") != 3:
        raise ValueError(
            f"{file}:{line}: got label {label!r} and identifier {name!r}; expected True or False, and an identifier of "
            "the form split-number-pair-number"
        )
    prompt = PROMPT.format(sentence=entry["sentence"])
    return asked(name, prompt, pictures, answers=[label], extra={"split": split}, file=file, line=line)


def _files(split: str) -> tuple[str, ...]:
    if "_" in split:
        return (f"{split}.json",)
    return tuple(f"{place}/{split}.json" for place in ("nlvr2/data", "data", "."))


def sentence_of(row: Row) -> Hashable:
    """The identifier without its third part, which numbers the pair of pictures."""
    split, sentence, _, number = row.id.split("-")
    return split, sentence, number


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy and consistency in percent."""
    correct = {row.id: float(RULES[rule](answers[row.id], row.answers[0])) for row in rows}
    sentences: dict[Hashable, bool] = {}
    for row in rows:
        sentences[sentence_of(row)] = sentences.get(sentence_of(row), True) and correct[row.id] == 1
    numbers = {"consistency": 100 * sum(sentences.values()) / len(sentences)}
    said = (answers[row.id] for row in rows)
    official = rule == "official"
    unread = sum(
        text.rstrip().lower() not in ("true", "false") if official else stated_word(text, _WORDS) is None
        for text in said
    )
    return mean_score("nlvr2", rule, "accuracy", correct, numbers, unread=unread)


NLVR2 = Benchmark(
    name="nlvr2",
    title="NLVR2 dev",
    layouts=(
        Layout(
            SITE,
            (tuple(name for split in SPLITS for name in _files(split)),),
            read,
            "nlvr2/data/dev.json or dev.json (one object a line)",
            "pictures dev-850-0-img0.png, ... there or in dev/",
        ),
        hub_layout("{dev,validation,balanced_dev}", read_hub),
    ),
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=8,
    together=sentence_of,
    portion=parts_by(lambda row: str(row.extra.get("split", SPLITS[0])), SPLITS[:1]),
)
