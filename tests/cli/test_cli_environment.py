"""``moiety env`` and its check of what the installed packages promise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moiety.vlm.contracts import ContractBroken
from moiety.vlm.contracts import behaviour as behaviour_module
from moiety.vlm.contracts import table as table_module


def test_check_says_what_holds_and_what_does_not(moiety: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ContractBroken("transformers", "the moon is gone")

    one = behaviour_module.Behaviour("transformers", "the moon is up", broken)
    monkeypatch.setattr(behaviour_module, "BEHAVIOURS", ())
    monkeypatch.setattr(table_module, "CONTRACTS", table_module.CONTRACTS[:2])
    good = moiety("env", "--check")
    assert good.exit_code == 0, good.output
    assert "all 2 hold" in good.output
    monkeypatch.setattr(behaviour_module, "BEHAVIOURS", (one,))
    bad = moiety("env", "--check")
    assert bad.exit_code == 1, bad.output
    assert "the moon is gone" in bad.output
    assert "1 of 3 do not hold" in bad.output
    told = json.loads(moiety("env", "--check", "--json").output)
    assert [row["holds"] for row in told["contracts"]] == [True, True, False]
