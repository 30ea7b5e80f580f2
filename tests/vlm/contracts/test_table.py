"""Every outside name that moiety relies on is there in the installed releases; a missing one is named with its user."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import moiety
from moiety.vlm.contracts import ContractBroken
from moiety.vlm.contracts.behaviour import BEHAVIOURS, Behaviour, _equal
from moiety.vlm.contracts.table import CONTRACTS, Contract, applicable

SOURCE = Path(moiety.__file__).parent
INNER = {"transformers.models.auto.modeling_auto", "transformers.initialization"}
"""Modules that are imported like names."""


@pytest.mark.parametrize("contract", list(applicable()), ids=lambda contract: contract.name)
def test_contract(contract: Contract) -> None:
    contract.check()


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_behaviour(behaviour: Behaviour) -> None:
    behaviour.check()


def test_what_is_gone_is_named_with_what_needs_it() -> None:
    missing = Contract("transformers", "transformers:Trainer", members=("train", "fly"), used_for="training")
    with pytest.raises(ContractBroken, match=r"Trainer has no member fly; training needs it.*moiety env --check"):
        missing.check()
    gone = Contract("transformers", "transformers:Coach", used_for="training")
    with pytest.raises(ContractBroken, match=r"transformers:Coach is gone .*; training needs it"):
        gone.check()
    renamed = Contract("transformers", "transformers:Trainer.train", keywords=(("fly", "walk"),), used_for="training")
    with pytest.raises(ContractBroken, match=r"train has no parameter fly or walk"):
        renamed.check()
    found = Contract("transformers", "transformers:Trainer", members=(("fly", "train"), "train"), used_for="training")
    assert found.check() == "train"


def test_a_behaviour_that_fails_is_told_as_a_broken_contract() -> None:
    import torch

    def falls() -> str:
        raise KeyError("logits")

    with pytest.raises(ContractBroken, match="it flies: KeyError: 'logits'"):
        Behaviour("transformers", "it flies", falls).check()
    with pytest.raises(ContractBroken, match=r"a is b: logits differ by 1; 0.0001 is accepted"):
        _equal(torch.zeros(2), torch.ones(2), "a is b")


def imports() -> set[str]:
    """Modules of transformers and gradio from which the package imports, or which it imports itself."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"transformers", "gradio"}:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found.add(inner if inner in INNER else str(node.module))
    return found


def test_every_inner_module_that_is_imported_stands_in_the_table() -> None:
    """Names at the top of transformers are public; what lies deeper may move without a word."""
    listed = {contract.place.partition(":")[0] for contract in CONTRACTS}
    public = {"transformers", "transformers.utils", "transformers.utils.import_utils", "transformers.trainer_callback"}
    deeper = imports() - public
    assert deeper <= listed, sorted(deeper - listed)
