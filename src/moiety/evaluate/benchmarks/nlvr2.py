"""NLVR2: is a sentence true of two photos?

Suhr et al. 2019 (1811.00491), development set. No project prescribes a prompt for it; ours is :data:`PROMPT`.

- ``sound`` (default): true or yes, false or no as :func:`moiety.evaluate.statements.stated_word` reads it; anything
  else is wrong.
- ``official``: the text equals the label but for case and blanks at its end.

No answer scores 0 under both.

Source:
    clic-lab/nlvr @ 3afe9e5, ``nlvr2/eval/metrics.py``; consistency counts sentences right over all their pairs, grouped
    as there by the identifier without its third part.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score
from moiety.evaluate.benchmarks.entries import entry_with, pictures_below
from moiety.evaluate.benchmarks.files import published, read_lines
from moiety.evaluate.statements import stated_word
from moiety.vlm.rows import Row

QUESTIONS = "dev.json"
PROMPT = "{sentence}\nIs this true of the left and the right image? Answer with True or False."
_WORDS = {"true": "true", "yes": "true", "false": "false", "no": "false"}


def stated_truth(text: str, label: str) -> bool:
    """Whether what the text states is what the label says.

    Example:
        >>> stated_truth("Yes, it is.", "True"), stated_truth("untrue", "True"), stated_truth("Answer: no.", "False")
        (True, False, True)
    """
    return stated_word(text, _WORDS) == _WORDS[label.lower()]


def same_but_for_case(text: str, label: str) -> bool:
    """The released comparison; a blank in front is wrong, one behind is not.

    Example:
        >>> same_but_for_case("TRUE ", "True"), same_but_for_case(" True", "True")
        (True, False)
    """
    return text.rstrip().lower() == label.lower()


RULES: Mapping[str, Callable[[str, str], bool]] = {"sound": stated_truth, "official": same_but_for_case}


def read(folder: Path) -> list[Row]:
    """The sentences of the development set, each with the left and the right picture."""
    path = published(folder, QUESTIONS)
    rows = []
    for line, entry in read_lines(path):
        entry = entry_with(entry, dict.fromkeys(("identifier", "sentence", "label"), str), f"{path}:{line}")
        name, label = entry["identifier"], entry["label"]
        if label not in ("True", "False") or name.count("-") != 3:
            raise ValueError(
                f"{path}:{line}: label {label!r} of {name!r}; expected True or False, of split-number-pair-number"
            )
        pair = name.rpartition("-")[0]
        pictures = [f"{pair}-img0.png", f"{pair}-img1.png"]
        prompt = PROMPT.format(sentence=entry["sentence"])
        rows.append(asked(name, prompt, pictures, answers=[label], file=str(path), line=line))
    return rows


def sentence_of(row: Row) -> Hashable:
    """The identifier without its third part, the pair of pictures."""
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
    files=f"{QUESTIONS} (one object a line), pictures dev-850-0-img0.png, ... there or in dev/",
    reader=read,
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=8,
    together=sentence_of,
    pictures=pictures_below("dev", "dev.tar"),
)
