"""A stage folder says what it was made from, and is never taken for something else."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image
from toy import recipe_for, write_world

from moiety.recipe.recipe import MoESettings, Recipe
from moiety.train.ledger import (
    RECORD,
    StageChanged,
    discard_stage,
    fingerprint_of,
    finished_stage,
    identity_of,
    owned,
    read_record,
    work_folder,
    write_record,
)


def changed(recipe: Recipe, **train: object) -> Recipe:
    """The recipe with other training settings in its second stage."""
    tree = recipe.model_dump(mode="json")
    tree["stages"][1]["train"] |= train
    return Recipe.model_validate(tree)


def identity(recipe: Recipe, world: Path, seed: int = 0, moe: MoESettings | None = None) -> dict:
    return identity_of(recipe.stages[1], recipe, seed, moe, world)


def test_finished_means_finished_with_the_same_settings(world: Path, tmp_path: Path) -> None:
    recipe = recipe_for(world)
    made_from = identity(recipe, world)
    assert finished_stage(tmp_path / "tune", "tune", made_from) is None
    (tmp_path / "tune").mkdir()
    write_record(tmp_path / "tune", made_from, recipe, {"steps": 8})
    found = finished_stage(tmp_path / "tune", "tune", identity(recipe_for(world), world))
    assert found is not None
    assert found.reused
    assert found.metrics == {"steps": 8}
    record = read_record(tmp_path / "tune")
    assert record["recipe"]["stages"][1]["name"] == "tune"
    assert record["versions"]["torch"]
    assert record["command"]


@pytest.mark.parametrize("place", ["tune", "tune.unfinished"])
def test_what_changed_is_said(world: Path, tmp_path: Path, place: str) -> None:
    recipe = recipe_for(world)
    (tmp_path / place).mkdir()
    write_record(tmp_path / place, identity(recipe, world, moe=MoESettings()), recipe, {} if place == "tune" else None)
    other = identity(changed(recipe, learning_rate=0.5), world, seed=3, moe=MoESettings(top_k=1, norm_topk=False))
    with pytest.raises(StageChanged) as caught:
        finished_stage(tmp_path / "tune", "tune", other)
    text = str(caught.value)
    assert "stage.train.learning_rate: 0.002 -> 0.5" in text
    assert "seed: 0 -> 3" in text
    assert "moe.top_k: None -> 1" in text
    assert "--fresh" in text
    assert text.count("->") == 4


def test_rows_that_changed_are_another_stage(world: Path, tmp_path: Path) -> None:
    recipe = recipe_for(world)
    before = identity(recipe, world)
    (tmp_path / "questions.jsonl").write_text((world / "questions.jsonl").read_text().replace("red", "pink"))
    elsewhere = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(tmp_path)})})
    assert identity(elsewhere, world)["files"] != before["files"]
    with pytest.raises(FileNotFoundError, match=r"no conversation file at .*data\.root"):
        identity(recipe_for(tmp_path / "nowhere"), world)


def test_how_a_run_is_watched_does_not_matter(world: Path) -> None:
    recipe = recipe_for(world)
    watched = changed(recipe, logging_steps=1, save_steps=2, save_total_limit=5, dataloader_num_workers=2)
    assert identity(watched, world) == identity(recipe, world)


def test_a_new_setting_with_a_default_changes_no_stage(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Larger(MoESettings):
        new_weight: float = 0.5

    recipe, moe = recipe_for(world), {"scheme": "asymoe", "aux_coef": 0.002}
    before = identity(recipe, world, moe=MoESettings.model_validate(moe))
    assert before["moe"] == moe | {"layers": "all", "asymoe": {}}
    assert identity(recipe, world, moe=Larger.model_validate(moe)) == before
    other = identity(recipe, world, moe=Larger.model_validate(moe | {"new_weight": 0.1}))
    assert other != before
    (tmp_path / "tune").mkdir()
    write_record(tmp_path / "tune", before, recipe, {})
    monkeypatch.setattr("moiety.train.ledger.MoESettings", Larger)
    assert finished_stage(tmp_path / "tune", "tune", before) is not None
    with pytest.raises(StageChanged, match=r"moe\.new_weight: 0\.5 -> 0\.1"):
        finished_stage(tmp_path / "tune", "tune", other)


def test_stages_that_were_recorded_with_all_defaults_stay_valid(world: Path, tmp_path: Path) -> None:
    recipe, moe = recipe_for(world), MoESettings(top_k=1, norm_topk=False)
    now = identity(recipe, world, moe=moe)
    then = now | {"moe": moe.model_dump(mode="json", exclude={"asymoe"}), "model": recipe.model.model_dump(mode="json")}
    (tmp_path / "tune").mkdir()
    write_record(tmp_path / "tune", then, recipe, {})
    assert finished_stage(tmp_path / "tune", "tune", now) is not None
    write_record(tmp_path / "tune", then | {"moe": {"of_old": 1}}, recipe, {})
    with pytest.raises(StageChanged, match=r"moe\.of_old: 1 -> '\(absent\)'"):
        finished_stage(tmp_path / "tune", "tune", now)


def test_what_a_preset_fills_is_not_mistaken_for_what_was_given(world: Path, tmp_path: Path) -> None:
    """Defaults left out of a record come back as the fields' own, never as those of a preset."""
    recipe = recipe_for(world)
    (tmp_path / "tune").mkdir()
    asymoe = {"scheme": "asymoe", "asymoe": {"preset": "faithful"}}
    faithful = MoESettings.model_validate(asymoe)
    write_record(tmp_path / "tune", identity(recipe, world, moe=faithful), recipe, {})
    for change in ({"layers": "all"}, {"asymoe": {"preset": "faithful", "eta": 0.7}}):
        other = identity(recipe, world, moe=MoESettings.model_validate(asymoe | change))
        with pytest.raises(StageChanged, match=r"-> (0\.7|'all')"):
            finished_stage(tmp_path / "tune", "tune", other)


def test_a_record_with_former_names_of_keys_stays_valid(world: Path, tmp_path: Path) -> None:
    recipe = recipe_for(world)
    (tmp_path / "tune").mkdir()
    moe = MoESettings.model_validate({"scheme": "asymoe", "asymoe": {"cone_weight": 0.5}})
    now = identity(recipe, world, moe=moe)
    text = json.dumps(now).replace('"cone_weight"', '"order_weight"')
    assert text.count('"order_weight"') == 1
    write_record(tmp_path / "tune", json.loads(text), recipe, {})
    assert finished_stage(tmp_path / "tune", "tune", now) is not None
    write_record(tmp_path / "tune", json.loads(text.replace("0.5", "0.25")), recipe, {})
    with pytest.raises(StageChanged, match=r"moe\.asymoe\.cone_weight: 0\.25 -> 0\.5"):
        finished_stage(tmp_path / "tune", "tune", now)


def test_the_stage_before_counts(world: Path, tmp_path: Path) -> None:
    recipe = recipe_for(world)
    for seed in (0, 1):
        (tmp_path / f"base{seed}").mkdir()
        write_record(tmp_path / f"base{seed}", identity(recipe, world, seed), recipe, {})
    assert fingerprint_of(tmp_path / "base0") != fingerprint_of(tmp_path / "base1")
    assert fingerprint_of(tmp_path / "nowhere") == str(tmp_path / "nowhere")


def test_two_processes_do_not_train_one_stage(tmp_path: Path) -> None:
    folder = tmp_path / "tune"
    left = tmp_path / ".tune.writing-abc"
    left.mkdir()
    with owned(folder, "tune"):
        assert not left.exists()
        with (
            pytest.raises(RuntimeError, match=r"stage 'tune' in .* is being trained by another process"),
            owned(folder, "tune"),
        ):
            pass
    with owned(folder, "tune"):
        pass


def test_a_folder_of_somebody_else_is_left_alone(world: Path, tmp_path: Path) -> None:
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"no stage of moiety made it.*choose another output"):
        finished_stage(tmp_path / "tune", "tune", identity(recipe_for(world), world))
    discard_stage(tmp_path / "tune")
    assert (tmp_path / "tune" / "thesis.tex").exists()


def test_discarding_deletes_both_places(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe, folder = recipe_for(world), tmp_path / "tune"
    for place in (folder, work_folder(folder)):
        place.mkdir()
        write_record(place, identity(recipe, world), recipe, None)
    with caplog.at_level(logging.INFO, "moiety"):
        discard_stage(folder)
    assert not folder.exists()
    assert not work_folder(folder).exists()
    assert "to train it again" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"metrics": {}})])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"moiety_stage\.json is damaged.*train this stage again"):
        read_record(tmp_path)


def test_weights_and_pictures_that_changed_are_another_stage(tmp_path: Path) -> None:
    world, base = write_world(tmp_path / "world"), tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"one")
    recipe = recipe_for(world)

    def now() -> dict:
        return identity_of(recipe.stages[1], recipe, 0, None, base)

    made_from = now()
    (tmp_path / "tune").mkdir()
    write_record(tmp_path / "tune", made_from, recipe, {})
    assert finished_stage(tmp_path / "tune", "tune", now()) is not None
    (base / "model.safetensors").write_bytes(b"two")
    with pytest.raises(
        StageChanged, match=r"made with other settings or files:\n  base\.model\.safetensors: '\w+' -> "
    ):
        finished_stage(tmp_path / "tune", "tune", now())
    (base / "model.safetensors").write_bytes(b"one")
    assert now() == made_from
    Image.new("RGB", (16, 16), (1, 2, 3)).save(world / "pictures" / "red.png")
    with pytest.raises(StageChanged, match=r"  pictures\.pictures: '\w+' -> '\w+'\nNothing was overwritten"):
        finished_stage(tmp_path / "tune", "tune", now())


def test_stages_from_before_weights_and_pictures_counted_stay_valid(world: Path, tmp_path: Path) -> None:
    recipe = recipe_for(world)
    now = identity(recipe, world)
    then = {key: value for key, value in now.items() if key not in ("base", "pictures")}
    (tmp_path / "tune").mkdir()
    write_record(tmp_path / "tune", then, recipe, {})
    assert finished_stage(tmp_path / "tune", "tune", now) is not None
    with pytest.raises(StageChanged, match=r"seed: 0 -> 1\nNothing"):
        finished_stage(tmp_path / "tune", "tune", identity(recipe, world, seed=1))
