"""The parameters of the classifier are its settings: one list, shown with kind, range, default and meaning."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from sklearn.utils import estimator_checks

from moiety.intent import IntentClassifier, IntentSettings
from moiety.intent.parameters import default_of, parameters_text


@pytest.mark.parametrize("name", list(IntentSettings.model_fields))
def test_every_setting_is_a_parameter_with_its_default_and_a_meaning(name: str) -> None:
    field = IntentSettings.model_fields[name]
    assert field.description, "a reader of help(IntentClassifier) wants to know what it means"
    assert inspect.signature(IntentClassifier).parameters[name].default == default_of(field)
    entry = re.search(rf"^{name} : (.+), default=(.+)\n    (.+)$", IntentClassifier.__doc__, re.MULTILINE)
    assert entry is not None
    assert entry[2] == repr(default_of(field))
    assert "null" not in entry[3], "parameters are written as in Python"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dropout", "float in [0, 1)"),
        ("hidden", "int in [8, inf)"),
        ("temperature", "float in (0, inf)"),
        ("warmup_share", "float in [0, 1]"),
        ("monitor", "{'f1', 'acc'}"),
        ("modalities", "tuple of str or None"),
        ("num_anchors", "int or dict of str to int"),
        ("anchor_weighting", "bool"),
        ("label_descriptions", "str, dict, path or None"),
    ],
)
def test_kinds_and_ranges_are_those_that_are_checked(name: str, kind: str) -> None:
    assert f"\n{name} : {kind}, default=" in f"\n{parameters_text(IntentSettings)}"


CHECKS = (
    "check_estimator_cloneable", "check_estimator_repr", "check_get_params_invariance", "check_set_params",
    "check_no_attributes_set_in_init", "check_parameters_default_constructible", "check_mixin_order",
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_checks_of_scikit_learn_that_need_no_table_of_numbers(check: str) -> None:
    run: Any = getattr(estimator_checks, check)
    run("IntentClassifier", IntentClassifier())
