import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moiety.groups import ExpertGroup, ExpertGroups, Modality, nearest_name

COUNT = st.integers(1, 16)
TWO = {0: "text", 1: "vision"}


def table(vision: int, inter: int, text: int) -> ExpertGroups:
    groups = (
        ExpertGroup("vision", vision, ("vision",)),
        ExpertGroup("inter", inter, ("vision", "text")),
        ExpertGroup("text", text, ("text",)),
    )
    return ExpertGroups(groups, TWO, (("vision",), ("text",)))


@given(COUNT, COUNT, COUNT)
def test_tables_of_any_size(vision: int, inter: int, text: int) -> None:
    groups = table(vision, inter, text)
    assert groups.num_experts == vision + inter + text
    assert groups.visible("vision") == tuple(range(vision + inter))
    assert groups.visible("text") == tuple(range(vision, groups.num_experts))
    assert groups.inter == tuple(range(vision, vision + inter))
    assert [groups.group_of_expert(index).name for index in range(groups.num_experts)] == (
        ["vision"] * vision + ["inter"] * inter + ["text"] * text
    )
    for name, row in zip(groups.names, groups.allowed, strict=True):
        assert tuple(index for index, allowed in enumerate(row) if allowed) == groups.visible(name)
    groups.check_top_k(min(2, 1 + inter), norm_topk=True)


def test_three_modality_groups_see_what_the_specification_lists() -> None:
    groups = ExpertGroups(
        (
            ExpertGroup("vision", 1, ("vision",)),
            ExpertGroup("audio", 1, ("audio",)),
            ExpertGroup("inter", 2, ("vision", "audio", "text")),
            ExpertGroup("text", 1, ("text",)),
        ),
        {0: "text", 1: "vision", 2: "vision", 3: "audio"},
        (("vision",), ("audio",), ("text",)),
    )
    assert groups.names == ("vision", "audio", "text")
    assert [groups.visible(name) for name in groups.names] == [(0, 2, 3), (1, 2, 3), (2, 3, 4)]
    assert [groups.index_of_modality(modality) for modality in Modality] == [-1, 2, 0, 0, 1]
    assert groups.describe() == "vision×1 + audio×1 + inter×2 + text×1"
    assert [groups.gate_of(name) for name in groups.names] == [0, 1, 2]
    assert groups.gate_rows(1) == (1, 2, 3)


def test_nearest_name() -> None:
    assert nearest_name("x", ["b", "a"]) == "known: a, b"
    assert nearest_name("moie", ["moiie"]).endswith("; did you mean 'moiie'?")


@pytest.mark.parametrize(
    ("groups", "modalities", "message"),
    [
        ([("a", 1, ("text",)), ("a", 1, ("text",))], {0: "text"}, "expert groups need distinct names, got ['a', 'a']"),
        ([("a", -1, ("text",))], {0: "text"}, "expert group 'a' has -1 experts; give 0 or more"),
        ([("a", 1, ("txt",))], {0: "text"}, "expert group 'a' admits 'txt'; known: text; did you mean 'text'?"),
        (
            [("a", 1, ("text",)), ("b", 2, ())],
            {0: "text"},
            "expert group 'b' admits no modality: its 2 experts are unre",
        ),
        ([("a", 1, ("vision",))], TWO, "tokens of modality group 'text' see no expert in a×1; give 'text' experts of"),
    ],
)
def test_impossible_tables(groups: Any, modalities: dict[int, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ExpertGroups(tuple(ExpertGroup(*group) for group in groups), modalities)


def test_questions_without_an_answer() -> None:
    groups = table(1, 2, 1)
    with pytest.raises(KeyError, match="no expert group 'intre'; known: inter, text, vision; did you mean 'inter'"):
        groups.slice_of("intre")
    with pytest.raises(IndexError, match="expert 4 of a bank of 4"):
        groups.group_of_expert(4)
    with pytest.raises(ValueError, match=r"modality id 3 has no modality group; known ids: \[0, 1\]\. Add it to"):
        groups.index_of_modality(3)
    assert ExpertGroups((ExpertGroup("all", 1, ("text",)),), {0: "text"}).gate_of("text") is None


@pytest.mark.parametrize(
    ("top_k", "norm_topk", "message"),
    [
        (0, True, "top_k=0, but tokens of modality group 'vision' see 3 experts in vision×1 + inter×2 + text×1"),
        (4, True, "choose 1 <= top_k <= 3 or more experts"),
        (1, True, "top_k=1 with norm_topk=true makes every weight 1"),
    ],
)
def test_impossible_top_k(top_k: int, norm_topk: bool, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        table(1, 2, 1).check_top_k(top_k, norm_topk)


def test_possible_top_k() -> None:
    table(1, 2, 1).check_top_k(3, True)
    table(1, 2, 1).check_top_k(1, False)
    table(1, 0, 1).check_top_k(1, True)  # the hard switch: one visible expert, weight 1
