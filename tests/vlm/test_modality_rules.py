"""Which position holds what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moiety.vlm.placeholders import ids_from_placeholders, last_token_as_text, without_padding
from tests.moe.laws import law
from tests.reference import keeps_modality

rows = st.lists(st.sampled_from([-1, 0, 1, 1, 1, 2, 3]), max_size=12)


def test_placeholders_become_modalities() -> None:
    ids = ids_from_placeholders(torch.tensor([[9, 7, 7, 8], [1, 8, 9, 9]]), {7: 1, 8: 2})
    assert ids.tolist() == [[0, 1, 1, 2], [0, 2, 0, 0]]


def test_no_mask_means_no_padding_as_a_mask_of_ones() -> None:
    """D14."""
    ids = torch.tensor([[0, 1, 0]])
    assert without_padding(ids, None).equal(without_padding(ids, torch.ones(1, 3)))


def test_the_last_columns_of_the_mask_count() -> None:
    """With a cache the mask also covers what stands before."""
    mask = torch.tensor([[0, 1, 1, 1, 0]])
    assert without_padding(torch.tensor([[1, 1]]), mask).tolist() == [[1, -1]]
    assert without_padding(torch.zeros(1, 0).long(), mask).shape == (1, 0)


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (1, 2), (2, 3)])
def test_a_mask_that_cannot_tell_padding_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="need an attention mask of shape") as error:
        without_padding(torch.zeros(1, 3).long(), torch.ones(shape))
    assert str(shape) in str(error.value)
    assert "-1 on padding yourself" in str(error.value)


@law
@given(ids=rows)
def test_released_rule_position_by_position(ids: list[int]) -> None:
    expected = [i if i <= 0 or keeps_modality(ids, s) else 0 for s, i in enumerate(ids)]
    assert last_token_as_text(torch.tensor([ids]).long()).tolist() == [expected]


@law
@given(ids=rows)
def test_rules_differ_only_at_the_ends_of_runs(ids: list[int]) -> None:
    """I13, second half."""
    changed = last_token_as_text(torch.tensor([ids]).long())[0] != torch.tensor(ids).long()
    for position in changed.nonzero().flatten().tolist():
        assert position + 1 == len(ids) or ids[position + 1] != ids[position]


def test_padding_ends_a_run_and_its_own_id_does_not_matter() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    for padded_with in (0, 1, 2):
        ids = torch.tensor([[0, 1, 1, padded_with, padded_with]])
        assert last_token_as_text(without_padding(ids, mask)).tolist() == [[0, 1, 0, -1, -1]]
