"""Tables in terminals of every width: no number and no name loses a letter."""

from __future__ import annotations

import re

import pytest

from moiety.cli import screen
from moiety.cli.screen import show, table

HEADS = ("scheme", "#total", "#activated", "#tokens a second", "#peak memory GiB", "#against reference")
ROWS = [("two_router-of_a_long_name", 13_555_200, 13_555_199, 123_456, 0.683, "+0.02 %"), ("moiie", 1, 2, 3, 0.5, "")]
WORDS = ("two_router-of_a_long_name", "13,555,200", "13,555,199", "123,456", "0.683", "moiie")


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, *drawn: object) -> str:
    from rich.console import Console

    monkeypatch.setattr(screen, "screen", lambda: Console(width=width, highlight=False, markup=False, emoji=False))
    show(*drawn)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 140, 300])
def test_no_word_is_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int) -> None:
    text = shown(monkeypatch, capsys, width, table("title", HEADS, ROWS, "note"))
    assert "…" not in text
    for word in WORDS:
        assert re.search(rf"(?<![\w,]){re.escape(word)}(?![\w,])", text), word
    assert (text.count("activated") == 1) == (width >= 100), "blocks repeat their heads"


def test_titles_notes_and_texts_are_left_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/".join(["/a/folder/that/must/be/typed"] * 5)
    text = shown(monkeypatch, capsys, 60, table(path, ("a",), [("b",)], path), path)
    assert text.splitlines().count(path) == 3


def test_blocks_join_lines_of_a_cell_and_leave_out_what_is_empty(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = table("", ("scheme", "widths", "note"), [("asymoe-twin-of-a-long-name", "vision 184\nspace 64", "")])
    assert shown(monkeypatch, capsys, 30, drawn).splitlines() == [
        "", "scheme  asymoe-twin-of-a-long-name", "widths  vision 184, space 64",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [20, 45, 60, 80])
def test_a_number_and_its_interval_stay_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    drawn = table(
        "", ("type", "#accuracy %", "more"), [("exist", "50.0 [9.5, 90.5]", "precision 0.0, recall 0.0, f1 0.0")]
    )
    assert "50.0 [9.5, 90.5]" in shown(monkeypatch, capsys, width, drawn)
