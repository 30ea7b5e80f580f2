"""Two processes give the gradients of one (I12, trap 13); a rank without pictures stops nobody (D23, traps 14, 15)."""

from pathlib import Path
from typing import Any

import pytest
from asymmetric_toy import gradients as asymmetric_gradients
from rank_worker import DOMINANT, LOPSIDED, MIXED, PAIR
from toy import gradients, largest_difference, scratch_folder
from two_processes import run_in_two_processes

pytestmark = pytest.mark.ranks
WORKER = Path(__file__).with_name("rank_worker.py")


@pytest.fixture(scope="module")
def ranks(world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saw."""
    scratch_folder(world)  # the processes only read it
    work = tmp_path_factory.mktemp("ranks")
    return run_in_two_processes(WORKER, world, work)


def test_ranks_and_accumulation_change_no_gradient(ranks: list[dict[str, Any]], world: Path, tmp_path: Path) -> None:
    once, _ = gradients(world, PAIR, 2, 1, tmp_path, **DOMINANT)
    for rank in ranks:
        assert largest_difference(rank["copies"], once) < 1e-5
        assert largest_difference(rank["copies_accumulated"], once) < 1e-5


@pytest.mark.parametrize(("name", "rows"), [("global", MIXED), ("lopsided", LOPSIDED)])
def test_global_statistics_equal_one_process_with_all_rows(
    ranks: list[dict[str, Any]], world: Path, tmp_path: Path, name: str, rows: list[dict[str, Any]]
) -> None:
    once, trainer = gradients(world, rows, 4, 1, tmp_path, aux_stats="global", **DOMINANT)
    for rank in ranks:
        assert largest_difference(rank[name], once) < 1e-5
    if name == "global":
        alone, log = trainer.state.log_history[0], ranks[0]["global_log"]
        same = [
            key
            for key in alone
            if key.startswith(("load", "inter", "entropy", "z_loss", "tokens")) and "per" not in key
        ]
        assert len(same) > 10
        assert {key: log[key] for key in same} == pytest.approx({key: alone[key] for key in same}, rel=1e-5)
        assert log["cross_entropy"] == pytest.approx(alone["cross_entropy"], rel=1e-5)


def test_ranks_change_no_gradient_of_order_and_gates(ranks: list[dict[str, Any]], world: Path, tmp_path: Path) -> None:
    """Parameters that no output depends on, as the cones of the cone loss, count once as well."""
    once = asymmetric_gradients(world, tmp_path)
    for rank in ranks:
        assert largest_difference(rank["asymmetric"], once) < 5e-5


@pytest.mark.parametrize("kind", ["sparse", "dense", "asymoe"])
def test_text_alone_on_one_rank_neither_hangs_nor_loses_a_gradient(ranks: list[dict[str, Any]], kind: str) -> None:
    """With gradient checkpointing the Trainer turns the search for unused parameters off; the tower trains, too."""
    for rank in ranks:
        seen = rank[f"checkpointed_{kind}"]
        assert seen["without_gradient"] == []
        assert [line["step"] for line in seen["log"]] == [1, 2, 3]
        assert seen["log"][-1]["loss"] < seen["log"][0]["loss"]
    assert ranks[0][f"checkpointed_{kind}"]["log"][0]["loss"] == ranks[1][f"checkpointed_{kind}"]["log"][0]["loss"]
