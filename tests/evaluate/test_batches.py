"""Windows hold all questions about a picture, and few pictures at a time."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moiety.evaluate.batches import AHEAD, Shown, cut, windows
from moiety.vlm.rows import parse_row


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_windows_keep_a_picture_together_and_are_bounded(numbers: list[int], batch_size: int) -> None:
    rows = [
        parse_row({"id": f"{name}-{k}", "image": [f"{name}"], "conversations": [_question("<image>" + "x" * k)]})
        for k in range(9)
        for name, number in enumerate(numbers)
        if k < number
    ]
    made = list(windows(rows, Shown({}, False), batch_size))
    assert sorted(row.id for window in made for same in window for row in same) == sorted(row.id for row in rows)
    seen: set[str] = set()
    for window in made:
        pictures = list(dict.fromkeys(same[0].images[0] for same in window))
        assert not seen & set(pictures), "no picture is computed in two windows"
        seen |= set(pictures)
        assert len(pictures) <= batch_size
        assert len(pictures) == 1 or len(window) <= AHEAD * batch_size


@given(st.lists(st.integers()), st.integers(1, 9))
def test_parts_are_small_and_even(items: list[int], size: int) -> None:
    parts = [list(part) for part in cut(items, size)]
    assert [item for part in parts for item in part] == items
    sizes = [len(part) for part in parts]
    assert len(parts) == -(-len(items) // size)
    assert not sizes or (max(sizes) <= size and max(sizes) - min(sizes) <= 1)


def _question(text: str) -> dict[str, Any]:
    return {"from": "human", "value": text}
