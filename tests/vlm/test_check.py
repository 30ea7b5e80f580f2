import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from moiety.groups import ExpertGroup, ExpertGroups
from moiety.vlm.check import check_files, check_rows, describe_sample
from moiety.vlm.data import Encoder
from moiety.vlm.images import Images
from moiety.vlm.rows import BadRows, load_rows, parse_row
from tests.conversations import NUM_PATCHES, entry, pictures, row, shared_processor, write_lines

TEXT_ONLY = ExpertGroups((ExpertGroup("text", 1, ("text",)),), {0: "text"})


def encoder(images: Any = None, max_length: int = 60) -> Encoder:
    return Encoder(shared_processor(), pictures("p") if images is None else images, max_length)


def printed(renderable: Any) -> str:
    out = io.StringIO()
    Console(file=out, width=100, no_color=True).print(renderable)
    return out.getvalue()


def test_all_problems_are_found_at_once_with_their_lines(tmp_path: Path) -> None:
    for name, picture in pictures("p").items():
        picture.save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    entries: list[Any] = [
        entry("<image>\nq", "a", image="p.png", id="good", type="x"),
        {"id": "no turns"},
        entry("<image>q", "a", image="gone.png", id="missing picture"),
        entry("<image>q", "a", image="broken.png", id="broken picture"),
        entry("<image><image>q", "a", image="p.png", id="marks"),
        entry("q " * 80, "a", id="long"),
        entry("q", "a", "r", id="last word"),
        entry("q", " ", id="empty"),
        entry("q", "an <image>", id="mark in answer"),
        entry("q", "a", id="good"),
        {"id": "system", "messages": [{"role": r, "content": "x"} for r in ("user", "system", "assistant")]},
    ]
    path = write_lines(tmp_path / "rows.jsonl", entries)
    report = check_files([path], encoder(Images([tmp_path])))
    assert [(problem.line, problem.text.split(" (")[0]) for problem in report.problems] == [
        (2, "expected one of 'conversations' and 'messages', got the keys ['id']"),
        (3, "picture 'gone.png' is missing"),
        (4, f"picture {'broken.png'!r} of {tmp_path / 'broken.png'} cannot be decoded"),
        (5, "2 <image> marks in the turns of the user, 1 pictures; each picture needs one mark"),
        (6, report.problems[4].text),
        (7, "turns must alternate user, assistant and end with assistant; got user, assistant, user"),
        (8, "turn 2: the answer is empty"),
        (9, "turn 2: <image> stands outside the turns of the user"),
        (11, "a system turn must be the first turn; this row has one later"),
    ]
    assert "tokens, data.max_length is 60; raise it to 1" in report.problems[4].text
    assert [found.line for found in report.good] == [1, 10]
    assert report.notes == (
        f"2 rows share 1 ids, for instance 'good' in {path}:1 and {path}:10; such rows are distinguished by file and "
        "line",
    )
    assert (report.num_rows, report.types) == (11, {"x": 1, "untyped": 9})
    assert report.tokens == {"text": sum(report.lengths) - NUM_PATCHES, "image": NUM_PATCHES}
    with pytest.raises(BadRows, match="9 problems in 11 rows:"):
        report.stop_on_problems()


def test_a_row_that_stands_twice_is_a_problem_of_the_later_one(tmp_path: Path) -> None:
    twice = entry("q", "a", id="one", split="train")
    other = {**twice, "split": "dev"}
    path = write_lines(tmp_path / "rows.jsonl", [twice, other, twice, entry("q", "b", id="one")])
    report = check_files([path], encoder())
    assert [str(problem) for problem in report.problems] == [
        f"{path}:3: row 'one': the same row with the same id stands already in {path}:1; remove one"
    ]
    assert [found.line for found in report.good] == [1, 2, 4]
    unnamed = write_lines(tmp_path / "unnamed.jsonl", [entry("q", "a", id=None), entry("q", "a", id="")] * 2)
    report = check_files([unnamed, unnamed], encoder())  # a file that is named twice counts twice
    assert (report.problems, report.notes, len(report.good)) == ((), (), 8)


def test_pictures_that_cannot_be_looked_up_belong_to_their_row(tmp_path: Path) -> None:
    for name, picture in pictures("p").items():
        picture.save(tmp_path / f"{name}.png")
    names = ["x" * 300 + ".png", "a/" * 3000 + "p.png", "https://example.org/p.png", "\0", "p.png"]
    rows = [row("<image>q", "a", image=name, id=str(number)) for number, name in enumerate(names)]
    report = check_rows(rows, encoder(Images([tmp_path])))
    assert [problem.text for problem in report.problems] == [
        f"picture '{'x' * 40}…' is no file and no picture in base64 that is known",
        f"picture '{'a/' * 20}…' is no file and no picture in base64 that is known",
        "picture 'https://example.org/p.png' is an address; nothing is fetched: download it and name the file",
        "picture '\\x00' is missing",
    ]
    assert [found.id for found in report.good] == ["4"]


def test_a_picture_file_that_cannot_be_read_belongs_to_its_row() -> None:
    class Torn(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise PermissionError(13, "Permission denied", name)

    report = check_rows([row("<image>q", "a", image="p"), row("q", "a")], encoder(Torn(p=None)))
    assert [problem.text for problem in report.problems] == ["[Errno 13] Permission denied: 'p'"]
    assert len(report.good) == 1


def test_sound_rows_pass_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    rows = [row("<image>q", "a", image="p", id="1"), row("q", "b", id="2")]
    report = check_rows(rows, encoder(), on_progress=lambda done, whole: told.append((done, whole)))
    report.stop_on_problems()
    assert report.good == tuple(rows)
    assert told == [(1, 2), (2, 2)]
    assert len(report.num_trained) == 2
    assert min(report.num_trained) >= 2


def test_a_modality_without_experts_is_a_problem() -> None:
    report = check_rows([row("<image>q", "a", image="p", id="1"), row("q", "b", id="2")], encoder(), TEXT_ONLY)
    assert [found.id for found in report.good] == ["2"]
    assert "modality id 1 has no modality group" in report.problems[0].text


def test_rows_are_judged_before_they_are_joined(tmp_path: Path) -> None:
    entries = [entry("<image>q", "a", image="p", id=str(number)) for number in range(3)]
    entries[1]["conversations"][1]["value"] = ""
    report = check_files([write_lines(tmp_path / "rows.jsonl", entries)], encoder(), merge_turns=True)
    assert [(problem.line, problem.text) for problem in report.problems] == [(2, "turn 2: the answer is empty")]
    assert [len(found.turns) for found in report.good] == [4]


def test_nothing_trained_is_a_problem() -> None:
    coder = encoder()
    unmarked = Encoder(_without_marks(coder.processor), coder.images, 60)
    assert "0 trained tokens" in check_rows([row("q", "a")], unmarked).problems[0].text


def test_the_own_picture_token_of_a_model_in_a_text() -> None:
    class Qwen:
        image_token = "<|image_pad|>"
        image_token_id = 5

    coder = Encoder(Qwen(), {}, 60)
    coder.processor.video_token = "<|video_pad|>"
    report = check_rows([row("<|image_pad|> q", "a <|video_pad|>")], coder)
    assert "turn 2: the text holds this model's video token <|video_pad|>; take it out" in report.problems[1].text
    assert "turn 1: the text holds this model's picture token <|image_pad|>; write <image>" in report.problems[0].text


def test_a_sample_shows_modality_labels_and_text() -> None:
    text = printed(describe_sample(row("<image>\nWhich digit?", "7", image="p"), encoder()))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "rows.jsonl:3: row 'a'"
    assert f"({NUM_PATCHES} image, " in lines[1]
    assert "2 trained; pictures: p" in lines[1]
    assert f"0-{NUM_PATCHES - 1} 1 image no <image> x {NUM_PATCHES}" in lines
    assert any(line.endswith("0 text no ⏎Which digit?⏎") for line in lines)
    assert any(line.endswith("0 text yes 7</s>") for line in lines)


def test_a_sample_is_coloured() -> None:
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system="standard")
    console.print(describe_sample(row("q", "a"), encoder()))
    assert "\x1b[1;32m" in out.getvalue()  # trained: bold green


def test_a_sample_that_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="0 <image> marks in the turns of the user, 1 pictures"):
        describe_sample(row("q", "a", image="p"), encoder())


def test_the_real_sets_are_sound(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data"
    for name, split in (("grocery", "val"), ("nlvr", "dev")):
        rows = f"conversations-{split}.jsonl"
        kept = [as_json(found) for found in load_rows([folder / name / rows])[:24]]
        coder = encoder(Images([folder / name / f"images-{split}.tar"]), 2048)
        report = check_files([write_lines(tmp_path / rows, kept)], coder)
        report.stop_on_problems()
        assert len(report.good) == 24


def as_json(found: Any) -> dict[str, Any]:
    """The row as a JSON object again."""
    turns = [{"role": turn.role, "content": turn.text} for turn in found.turns]
    again = {"id": found.id, "messages": turns, "images": list(found.images), "answers": list(found.answers)}
    assert parse_row(json.loads(json.dumps(again))).turns == found.turns
    return again


def _without_marks(processor: Any) -> Any:
    silent = copy.copy(processor)
    silent.chat_template = re.sub(r"\{%- (end)?generation -%\}", "", processor.chat_template)
    return silent
