"""NLVR2: the numbers of the released scorer and its development set."""

import json
from pathlib import Path

import pytest

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.sets.nlvr2 import NLVR2
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores


def test_equals_the_released_scorer(shared: Path) -> None:
    lines = golden_rows(shared, "nlvr2")
    assert lines
    rows = [asked(line["identifier"], "?", answers=[line["label"]]) for line in lines]
    score = checked_score(NLVR2, rows, {line["identifier"]: line["text"] for line in lines}, "official")
    wanted = golden_scores(shared, "nlvr2")["official"]
    assert score.numbers == {name: pytest.approx(100 * value, abs=1e-9) for name, value in wanted.items()}


def test_the_development_set(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/benchmark_formats/nlvr2/dev.json.gz"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    rows = NLVR2.read(tmp_path)
    assert len(rows) == 6982
    assert rows[0].images == ("dev-850-0-img0.png", "dev-850-0-img1.png")
    assert rows[0].turns[0].text.startswith("<image>\n<image>\nThe right image shows a curving walkway")
    perfect = {row.id: row.answers[0] for row in rows}
    for rule in NLVR2.rules:
        assert checked_score(NLVR2, rows, perfect, rule).numbers == {"accuracy": 100, "consistency": 100}
        silent = checked_score(NLVR2, rows, dict.fromkeys(perfect, ""), rule)
        assert silent.headline[1] == NLVR2.floor(rows, rule) == 0


def test_one_wrong_pair_spoils_its_sentence() -> None:
    rows = [asked(name, "?", answers=["True"]) for name in ("dev-1-0-0", "dev-1-1-0", "dev-1-0-1", "dev-2-0-0")]
    answers = {"dev-1-0-0": "True", "dev-1-1-0": "No", "dev-1-0-1": "yes", "dev-2-0-0": "True."}
    assert NLVR2.score(rows, answers).numbers == {"accuracy": 75, "consistency": pytest.approx(200 / 3)}


@pytest.mark.parametrize(("name", "label"), [("dev-1-0-0", "Maybe"), ("dev-1-0", "True")])
def test_an_entry_that_is_none(tmp_path: Path, name: str, label: str) -> None:
    entry = {"identifier": name, "sentence": "?", "label": label}
    (tmp_path / "dev.json").write_text(json.dumps(entry))
    with pytest.raises(
        ValueError, match=r"dev.json:1: got label '\w+' and identifier 'dev-[\d-]+'; expected True or F"
    ):
        NLVR2.read(tmp_path)
