"""A stopped run ends with the very weights of one that was never stopped; what cannot be resumed says so (trap 3)."""

import errno
import logging
import os
import pickle
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import recipe_for, stage, write_world

from moiety.recipe.recipe import MoESettings, Recipe
from moiety.train import CheckpointError, Progress, run_recipe
from moiety.train.ledger import work_folder
from moiety.train.log_files import read_log
from tests import apart

WORKER = Path(__file__).with_name("killed_worker.py")
WEIGHTS = "model.safetensors"


def recipe_in(world: Path, output: Path, steps: int = 8) -> Recipe:
    """Everything that a resume has to put back: order across epochs, accumulation, schedule, rates, noise."""
    base = recipe_for(world)
    train = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.2, "learning_rates": {"router": 1e-2}, "save_steps": 4, "logging_steps": 4,
    }  # fmt: skip
    parts = ["projector", "decoder", "router", "experts"]
    tune = stage("tune", ["questions.jsonl"], parts, steps, sparse=True, train=train)
    tree = {**base.model_dump(mode="json"), "output": str(output), "moe": {"router_jitter": 0.1}}
    tree["stages"] = [tree["stages"][0], tune]
    return Recipe.model_validate(tree)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose first stage is done."""
    root = write_world(tmp_path_factory.mktemp("small"))
    run_recipe(recipe_for(root, steps=2), only_stage="align", quiet=True)
    return root


@pytest.fixture
def output(small: Path, tmp_path: Path) -> Path:
    shutil.copytree(small / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def train(small: Path, output: Path, **options: Any) -> dict[str, torch.Tensor]:
    tree = recipe_in(small, output).model_dump(mode="json")
    tree["stages"][0]["train"]["max_steps"] = 2  # as in `small`
    run_recipe(Recipe.model_validate(tree), only_stage="tune", quiet=True, **options)
    return load_file(output / "tune" / WEIGHTS)


@pytest.fixture(scope="module")
def uninterrupted(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "runs"
    shutil.copytree(small / "runs", folder)
    train(small, folder)
    return folder / "tune"


class Stopped(Exception):
    pass


def stop_at(step: int) -> Any:
    def on_progress(progress: Progress) -> None:
        if progress.step == step:
            raise Stopped

    return on_progress


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("moment", ["step", "writing"])
def test_kill_9_changes_no_weight(
    small: Path, output: Path, uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    (tmp_path / "recipe.json").write_text(recipe_in(small, output).model_dump_json())
    log = tmp_path / "killed.log"
    killed = apart.start(WORKER, tmp_path / "recipe.json", moment, log=log)
    assert apart.end_of(killed) == -signal.SIGKILL, log.read_text()[-3000:]
    work = work_folder(output / "tune")
    assert not (output / "tune").exists()
    assert (work / "checkpoint-4").is_dir()
    assert (work / ".writing").exists() == (moment == "writing")
    with caplog.at_level(logging.INFO, "moiety"):
        resumed = train(small, output)
    assert "goes on from" in caplog.text
    assert same(resumed, load_file(uninterrupted / WEIGHTS))
    assert not work.exists()
    assert [line["step"] for line in read_log(output / "tune")] == [1, 4, 8]
    ours, theirs = read_log(output / "tune")[-1], read_log(uninterrupted)[-1]
    for name in ("tokens", "trained_tokens", "cross_entropy", "load_balancing_loss/vision"):
        assert ours[name] == theirs[name]


def test_a_torn_checkpoint_is_ignored_with_a_line(
    small: Path, output: Path, uninterrupted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped):
        train(small, output, on_progress=stop_at(6))
    torn = work_folder(output / "tune") / "checkpoint-4"
    content = (torn / "optimizer.pt").read_bytes()
    (torn / "optimizer.pt").write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING, "moiety"):
        resumed = train(small, output)
    assert "checkpoint-4 is torn (optimizer.pt has" in caplog.text
    assert same(resumed, load_file(uninterrupted / WEIGHTS))


def damaged(work: Path, name: str, change: Any) -> None:
    """Change one file of a checkpoint and seal it again, as an attacker or a failing disk would."""
    from moiety.train.checkpoints import SEAL, seal

    folder = work / "checkpoint-4"
    change(folder / name)
    (folder / SEAL).unlink()
    seal(folder, folder.with_name("aside"), {})
    folder.with_name("aside").rename(folder)


def drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop("model.language_model.layers.1.mlp.router.gates.text.weight")
    save_file({**tensors, "stranger": torch.zeros(1)}, path, metadata={"format": "pt"})


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, ("attacked",)


def poison(path: Path) -> None:
    torch.save({"state": Attack()}, path, pickle_module=pickle)


def other_parameters(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["param_groups"].pop()
    torch.save(state, path)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (WEIGHTS, drop_a_tensor, r"1 missing \(.*router.*\); 1 unexpected \(stranger\)"),
        (WEIGHTS, lambda path: path.write_bytes(b"\xff" * 100), r"is corrupt"),
        ("optimizer.pt", poison, r"something else than tensors.*run any code.*Delete this checkpoint"),
        ("optimizer.pt", other_parameters, r"does not fit or is damaged \(.*Delete this checkpoint"),
        (
            "rng_state.pth",
            lambda path: path.rename(path.with_name("rng_state_0.pth")),
            r"has no rng_state\.pth.*as many",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    small: Path, output: Path, monkeypatch: pytest.MonkeyPatch, name: str, change: Any, said: str
) -> None:
    monkeypatch.chdir(output)
    with pytest.raises(Stopped):
        train(small, output, on_progress=stop_at(5))
    damaged(work_folder(output / "tune"), name, change)
    with pytest.raises(CheckpointError, match=said):
        train(small, output)
    assert not (output / "attacked").exists()


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.modeling_utils as hf

    def refuse(tensors: dict[str, torch.Tensor], file: Any, metadata: Any = None) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hf, "safe_save_file", refuse)


def test_a_full_disk_keeps_the_earlier_checkpoint(
    small: Path, output: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fills_up(progress: Progress) -> None:
        if progress.step == 5:
            full_disk(monkeypatch)

    with pytest.raises(
        CheckpointError,
        match=r"step 8 could not be written .*disk may be full.*No space left.*checkpoint-4 is intact; free some space",
    ):
        train(small, output, on_progress=fills_up)
    assert not (work_folder(output / "tune") / ".writing").exists()
    monkeypatch.undo()
    assert same(train(small, output), load_file(uninterrupted / WEIGHTS))


def test_a_write_that_the_system_refuses_is_reported(small: Path, output: Path) -> None:
    """The same without a patch: the system allows no file above 20 kB."""

    def limit(progress: Progress) -> None:
        if progress.step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            CheckpointError,
            match=r"step 4 could not be written.*the disk may be full.*no earlier checkpoint.*begins this stage again",
        ):
            train(small, output, on_progress=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_while_torch_writes_the_optimizer(small: Path, output: Path) -> None:
    """torch reports this as a RuntimeError of its zip writer, without a word about the disk."""

    def limit(progress: Progress) -> None:
        if progress.step == 5:  # room for the weights, not for the optimizer's two moments of each
            size = (work_folder(output / "tune") / "checkpoint-4" / WEIGHTS).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10_000, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError) as error:
            train(small, output, on_progress=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.fullmatch(
        r"checkpoint at step 8 could not be written to .*: writing failed, the disk may be full "
        r"\(reported: .*unexpected pos.*\)\. .*checkpoint-4 is intact; free some space and run the same command again, "
        r"which continues from there",
        str(error.value),
    )


def test_a_full_disk_at_the_end_loses_nothing(
    small: Path, output: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import moiety.train.stage as stage_module

    def write(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        stage_module, "write_record", lambda folder, *rest: write() if rest[-1] else original(folder, *rest)
    )
    with pytest.raises(OSError, match="No space left"):
        train(small, output)
    assert not (output / "tune").exists()
    monkeypatch.undo()
    assert same(train(small, output), load_file(uninterrupted / WEIGHTS))


def original(*args: Any) -> None:
    from moiety.train.ledger import write_record

    write_record(*args)


def test_settings_of_a_stopped_run_cannot_change(small: Path, output: Path) -> None:
    with pytest.raises(Stopped):
        train(small, output, on_progress=stop_at(5))
    changed = recipe_in(small, output).model_copy(update={"moe": MoESettings(top_k=1, norm_topk=False)})
    with pytest.raises(RuntimeError, match=r"moe\.norm_topk: True -> False"):
        run_recipe(changed, only_stage="tune", quiet=True)
