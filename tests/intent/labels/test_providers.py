"""Tables of label descriptions: what is asked, what counts as an answer, the file, the cache, the check (P24)."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.intent import IntentClassifier
from moiety.intent.labels.descriptions import descriptions_for, load_table, shipped_tables
from moiety.intent.labels.prompt import Message, ReplyError, label_prompt, parse_reply
from moiety.intent.labels.providers import check_table, describe_labels, write_table

law = settings(max_examples=25, deadline=None, derandomize=True, database=None)
SENTENCE = st.text(min_size=1, max_size=12).filter(lambda text: bool(text.split()))
WAYS = {"stay": "Asks somebody to remain.", "go": ["Sends somebody away.", "Says good-bye."]}


class Echo:
    """A writer of one's own: repeats the label in question, and counts how often it was asked."""

    name, model = "echo", "parrot"

    def __init__(self, **decoding: Any) -> None:
        self.decoding, self.asked = decoding, 0

    def settings(self) -> dict[str, Any]:
        return self.decoding

    def reply(self, messages: Sequence[Message]) -> str:
        self.asked += 1
        label = messages[0]["content"].split("in question: ")[1].split("\n")[0]
        return json.dumps([f"Means {label}, {number}." for number in range(1, 3)])


@law
@given(st.lists(SENTENCE, min_size=1, max_size=5, unique_by=lambda text: " ".join(text.split())))
def test_every_list_of_sentences_is_read_back(sentences: list[str]) -> None:
    tidy = [" ".join(text.split()) for text in sentences]
    reply = json.dumps(sentences)
    assert parse_reply(reply, len(sentences)) == tidy
    assert parse_reply(f" ```json\n{reply}\n``` ", len(sentences)) == tidy
    assert parse_reply(f"<think>[1,\n2]</think>\n\n{reply}", len(sentences)) == tidy


@law
@given(st.text(max_size=30))
def test_any_other_text_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ReplyError, match=r"^it |^a string"):
        parse_reply(text, 2)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (" ", "it is empty"),
        ('["a.", "b."] Done!', "it is no JSON"),
        ('["a.", "b', "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ('{"a": "b"}', "it is JSON, but no list of 2 strings"),
        ('["a.", 1]', "it is JSON, but no list of 2 strings"),
        ('["a."]', "it lists 1 strings, 2 were asked for"),
        ('["a.", "\\n"]', "a string in it is blank"),
        ('["a b", "a  b"]', "a string is in it twice"),
    ],
)
def test_what_is_wrong_with_a_reply(reply: str, said: str) -> None:
    with pytest.raises(ReplyError, match=said):
        parse_reply(reply, 2)


def test_the_prompt_names_everything_and_labels_cannot_break_out_of_their_quotes() -> None:
    prompt = label_prompt('a"\nb', ['a"\nb', "お礼"], domain=" news ", num=1)
    assert 'The label in question: "a\\"\\nb"\n' in prompt
    assert 'All labels: ["a\\"\\nb", "お礼"]\n' in prompt
    assert "domain: news\n" in prompt
    assert "list of 1 string." in prompt
    assert "domain" not in label_prompt("a", ["a"], domain=" ", num=2)


def test_the_written_table_is_what_the_classifier_reads(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    table = describe_labels(
        {"go": "Leave", "stay": "Stay"}, provider=Echo(), num=2, on_progress=lambda *step: told.append(step)
    )
    path = write_table(table, tmp_path / "deep" / "table.json")
    assert json.loads(path.read_text("utf-8")) == table
    assert told == [(0, 2, "go"), (1, 2, "stay")]
    found = descriptions_for(path, ["stay", "go"])
    assert found["go"].texts() == ['Leave. Means "Leave", 1.', 'Leave. Means "Leave", 2.']
    assert all(len(entry["prompt_sha256"]) == 64 for entry in table["labels"])


@pytest.mark.parametrize("name", ["mintrec", "mintrec2", "hazumi_da"])
def test_the_file_provider_gives_the_shipped_table_back(name: str, tmp_path: Path) -> None:
    shipped = shipped_tables()[name]
    path = write_table(describe_labels(list(shipped)), tmp_path / "table.json")
    assert load_table(path) == shipped


def test_the_file_provider_takes_another_field_and_other_files(tmp_path: Path) -> None:
    acts = list(shipped_tables()["hazumi_da"])
    table = describe_labels(acts, field="description_ja")
    assert any("あ" <= sign <= "ん" for sign in table["labels"][0]["description"][0])
    own = describe_labels(["go"], source=WAYS)
    assert own["labels"] == [{"label": "go", "description": WAYS["go"]}]
    with pytest.raises(ValueError, match=r"no description of 1 of 2 labels: 'gone'.*'moiety intent describe-labels'"):
        describe_labels(["go", "gone"], source=WAYS)
    with pytest.raises(ValueError, match="provider 'file' asks no model; leave out model, base_url, or choose"):
        describe_labels(["go"], source=WAYS, model="m", base_url="http://x")


def test_a_cached_reply_is_not_asked_for_again(tmp_path: Path) -> None:
    ask = {"num": 2, "cache": tmp_path}
    first, second = Echo(), Echo()
    table = describe_labels(["go", "stay"], provider=first, **ask)
    assert describe_labels(["go", "stay"], provider=second, **ask) == table
    assert (first.asked, second.asked) == (2, 0)
    changed: list[tuple[dict[str, Any], list[str], Echo]] = [
        ({"domain": "news"}, ["go", "stay"], Echo()),
        ({}, ["go", "stay", "wait"], Echo()),
        ({}, ["go", "stay"], Echo(seed=1)),
    ]
    for settings_, labels, writer in changed:
        describe_labels(labels, provider=writer, **ask | settings_)
        assert writer.asked == len(labels)
    other = Echo()
    other.model = "crow"
    describe_labels(["go", "stay"], provider=other, **ask)
    assert other.asked == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"description": ["a", "b"]}', None])
def test_a_damaged_cache_file_is_asked_for_again(
    tmp_path: Path, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    table = describe_labels(["go"], provider=Echo(), num=2, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_text("utf-8")
    path.write_text(whole.replace("Means", " ").replace(", 1", "").replace(", 2", "") if damage is None else damage)
    again = Echo()
    assert describe_labels(["go"], provider=again, num=2, cache=tmp_path) == table
    assert again.asked == 1
    assert "in the cache is damaged; the label is asked for again" in caplog.text
    assert path.read_text("utf-8") == whole


@pytest.mark.parametrize(
    ("labels", "settings_", "said"),
    [
        ([], {}, r"with at least one, got \[\]"),
        ("go", {}, "a list of strings or a mapping label -> name with at least one, got 'go'"),
        (["go", " ", ""], {}, "labels cannot be used: ' ' is blank; '' is blank"),
        (["go", "go", "a", "a"], {}, "labels cannot be used: 'a' is given 2 times; 'go' is given 2 times"),
        (["go", 3], {}, r"labels cannot be used: \(3, 3\) is no string"),
        (["go"], {"num": 0}, "num is the number of descriptions of a label, at least 1, got 0"),
        (["go"], {"provider": "opnai"}, "unknown provider 'opnai'; known: file, hf, openai; did you mean 'openai'"),
        (["go"], {"provider": "hf"}, "provider 'hf' needs a model; give an id or folder"),
        (["go"], {"provider": "openai"}, "provider 'openai' needs a model; give its name at the server"),
        (["go"], {"provider": "openai", "model": "m"}, "provider 'openai' needs base_url"),
        (["go"], {"provider": Echo(), "model": "m"}, "model: the writer that you gave has its settings already"),
        (["go"], {"provider": "hf", "model": "m", "key_variable": "K"}, "provider 'hf' runs on this machine"),
    ],
)
def test_arguments_that_cannot_be_used(labels: Any, settings_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        describe_labels(labels, **settings_)


def test_the_check_names_what_is_missing_and_what_is_too_much(tmp_path: Path) -> None:
    path = write_table(describe_labels(["go"], source=WAYS), tmp_path / "table.json")
    assert check_table(path, ["go", "go"]).complete
    found = check_table({"ask_help": "Wants help.", "Leave": "Goes."}, ["Ask for help", "Thank", "Leave", "Leave"])
    assert not found.complete
    assert found.missing == {"Ask for help": "ask_help", "Thank": None}
    assert found.lines() == [
        "no description of 'Ask for help'; nearest: 'ask_help'",
        "no description of 'Thank'",
        "'ask_help' is described, but is no label of the data; nearest: 'Ask for help'",
    ]
    more = check_table(WAYS, ["go"])
    assert more.complete
    assert more.lines() == ["'stay' is described, but is no label of the data"]
    with pytest.raises(FileNotFoundError, match="'moiety intent describe-labels' write one"):
        check_table(tmp_path / "none.json", ["go"])


def test_training_on_a_table_opens_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_table(describe_labels(["go", "stay"], provider=Echo(), num=2), tmp_path / "table.json")

    def closed(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", closed)
    draw = np.random.default_rng(0)
    samples = [{"text": f"word {i % 2}", "audio": draw.normal(size=(2, 3)) + i % 2} for i in range(12)]
    model = IntentClassifier(
        hidden=16, num_heads=2, num_anchors=2, max_epochs=2, label_descriptions=str(table), batch_size=6
    ).fit(samples, ["go", "stay"] * 6)
    assert model.label_descriptions_["go"].descriptions == ('Means "go", 1.', 'Means "go", 2.')
    assert "triplet" in model.history_[0]
