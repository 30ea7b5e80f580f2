"""The lens shows what the router decided, and nothing else."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moiety.groups import ExpertGroups, Modality
from moiety.lens import LensReport, inspect_image, numbers_of, read_trace, tinted_picture
from moiety.lens.draw.palette import colours_of, is_dark, rgb
from moiety.lens.draw.tint import CELL, most_varied_layer, tint
from moiety.lens.draw.tokens import draw_patches, draw_words, shorten
from moiety.lens.trace.observe import as_seen, grid_of, observe, split
from moiety.moe.trace import Routing, RoutingTrace, recording
from moiety.vlm.data import prompt_batch
from moiety.vlm.model import load, moe_layers
from moiety.vlm.rows import Row, Turn
from moiety.vlm.templates import load_processor
from tests import model_folders

QUESTION = "Where is the red circle?"
Both = tuple[Any, Any]


def both(scheme: str) -> Both:
    folder = model_folders.sparse_folder(scheme)
    return load(folder), load_processor(folder)


@pytest.fixture(scope="module")
def moiie() -> Both:
    return both("moiie")


@pytest.fixture(scope="module")
def report(moiie: Both, tmp_path_factory: pytest.TempPathFactory) -> LensReport:
    return inspect_image(*moiie, model_folders.picture(), QUESTION, tmp_path_factory.mktemp("look"), max_new_tokens=4)


def test_prefill_is_what_one_forward_decides(moiie: Both) -> None:
    model, processor = moiie
    seen = observe(model, processor, model_folders.picture(), QUESTION, max_new_tokens=3)
    row = Row("x", (Turn("user", f"<image>\n{QUESTION}"),), ("p",))
    batch = prompt_batch([row], processor, {"p": model_folders.picture()})
    with recording() as trace, torch.no_grad():
        model(**batch)
    for layer, (routing,) in trace.by_layer().items():
        assert torch.equal(seen.phases["prefill"][layer].index, routing.index)
        torch.testing.assert_close(seen.phases["prefill"][layer].weights, routing.weights)
    assert seen.layers == [layer.layer_index for layer in moe_layers(model)] == [1, 3]
    assert seen.is_image.sum() == 16
    assert "".join(seen.words).replace("\n", "").strip() == QUESTION


def test_decode_is_text_and_never_reaches_private_vision_experts(moiie: Both) -> None:
    seen = observe(*moiie, model_folders.picture(), QUESTION, max_new_tokens=4)
    text = seen.groups.names.index("text")
    for routing in seen.phases["decode"].values():
        assert len(seen.generated) == routing.index.shape[0] == 3, "the last token of an answer is never read"
        assert (routing.modality_group == text).all()
        assert not torch.isin(routing.index, torch.tensor(seen.groups.visible("vision")[:1])).any()
    numbers = numbers_of(seen)
    vision = seen.groups.names.index("vision")
    assert (numbers.of("decode", "tokens")[:, vision] == 0).all()
    assert (numbers.of("decode", "load_share")[:, text, 0] == 0).all()


def test_numbers_agree_with_a_slow_count(moiie: Both) -> None:
    seen = observe(*moiie, model_folders.picture(), QUESTION, max_new_tokens=2)
    numbers = numbers_of(seen)
    vision = seen.groups.names.index("vision")
    for place, layer in enumerate(seen.layers):
        index = seen.phases["prefill"][layer].index[torch.from_numpy(seen.is_image)]
        load = [(index == expert).sum().item() / index.numel() for expert in range(seen.groups.num_experts)]
        np.testing.assert_allclose(numbers.of("prefill", "load_share")[place, vision], load, rtol=1e-6)
        inter = sum(load[expert] for expert in seen.groups.inter)
        np.testing.assert_allclose(numbers.of("prefill", "inter_share")[place, vision], inter, rtol=1e-6)


def test_the_folder_holds_page_pictures_and_numbers(report: LensReport) -> None:
    assert all(path.is_file() for path in report.files)
    page = report.page.read_text()
    for word in (QUESTION, r"vision\u00d71 + inter\u00d72 + text\u00d71", "Who read the picture", "prefill"):
        assert word in page
    (inside,) = re.findall(r'<img class="plate" alt="[^"]+" src="data:image/png;base64,([^"]+)">', page)
    assert base64.b64decode(inside) == (report.folder / "grounding.png").read_bytes()
    assert read_trace(report.folder / "trace.safetensors").questions[0].question == QUESTION


def test_the_numbers_on_disk_have_the_names_of_the_specification(report: LensReport) -> None:
    with np.load(report.folder / "routing.npz") as arrays:
        for phase in ("prefill", "decode"):
            assert arrays[f"{phase}_load_share"].shape == (2, 2, 4)
            assert arrays[f"{phase}_co_select"].shape == (2, 2, 4, 4)
            assert arrays[f"{phase}_inter_mix"].shape == (2, 2, 2)
            for name in ("inter_share", "entropy", "normalised_entropy", "max_violation", "top1", "tokens"):
                assert arrays[f"{phase}_{name}"].shape == (2, 2)
        np.testing.assert_allclose(arrays["prefill_load_share"].sum(-1), 1, rtol=1e-6)
        assert arrays["layers"].tolist() == [1, 3]
        assert arrays["expert_groups"].tolist() == ["vision", "inter", "inter", "text"]
        header = json.loads(str(arrays["header"]))
    assert {"model", "scheme", "mask_rule", "samples", "decoding"} <= set(header)
    written = json.loads((report.folder / "routing.json").read_text())
    assert written["rows"] == report.rows
    assert {row["phase"] for row in report.rows} == {"prefill", "decode"}


def test_the_table_has_a_line_for_each_layer_phase_and_modality(report: LensReport) -> None:
    assert report.table().row_count == len(report.rows) == 2 * 3


def test_pictures_are_as_large_as_they_need_to_be(report: LensReport) -> None:
    for path in report.files:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert min(picture.size) > 200
                assert len(picture.convert("RGB").getcolors(2**24)) > 10


@pytest.mark.parametrize("scheme", ["vanilla", "modality", "modality_routed", "two_router", "always_on", "dense_wide"])
def test_every_scheme_with_experts_can_be_drawn(scheme: str, tmp_path: Path) -> None:
    path = tinted_picture(*both(scheme), model_folders.picture(), QUESTION, tmp_path / "deep" / "picture.png")
    with Image.open(path) as picture:
        assert picture.width > 600


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    folder = model_folders.dense_folder()
    with pytest.raises(ValueError, match="this model is dense: it has no experts to look at; make it sparse first"):
        inspect_image(load(folder), load_processor(folder), model_folders.picture(), QUESTION, tmp_path)


def test_an_empty_question_is_refused(moiie: Both, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the question is empty; ask something about the picture"):
        inspect_image(*moiie, model_folders.picture(), "  ", tmp_path)


def test_a_picture_may_be_a_file(moiie: Both, tmp_path: Path) -> None:
    given = observe(*moiie, model_folders.picture_file(), QUESTION, max_new_tokens=1)
    same = observe(*moiie, model_folders.picture(), QUESTION, max_new_tokens=1)
    assert torch.equal(given.phases["prefill"][1].index, same.phases["prefill"][1].index)
    with pytest.raises(FileNotFoundError, match=r"no picture at .*gone\.png"):
        observe(*moiie, tmp_path / "gone.png", QUESTION)


def test_a_layer_that_is_not_sparse_is_refused(moiie: Both, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layer 2 is not sparse; sparse layers: \[1, 3\]"):
        tinted_picture(*moiie, model_folders.picture(), QUESTION, tmp_path / "x.png", layer=2)


def routing_of(tokens: int, experts: int = 4) -> Routing:
    logits = torch.zeros(tokens, experts)
    index = torch.zeros(tokens, 2, dtype=torch.int64)
    return Routing(logits, index, torch.full((tokens, 2), 0.5), torch.zeros(tokens, dtype=torch.int64))


def test_prefill_in_chunks_is_refused() -> None:
    trace = RoutingTrace([(1, routing_of(4)), (1, routing_of(3))])
    with pytest.raises(RuntimeError, match="layer 1 read 4 tokens at first, the prompt has 7; prefill in chunks"):
        split(trace, 7)


def test_the_model_keeps_its_mode(moiie: Both) -> None:
    model, processor = moiie
    model.train()
    try:
        observe(model, processor, model_folders.picture(), QUESTION, max_new_tokens=1)
        assert model.training
    finally:
        model.eval()


def test_tiles_and_odd_counts_become_a_strip(moiie: Both, tmp_path: Path) -> None:
    import dataclasses

    pieces = "the model takes pictures in pieces; 64 image tokens are drawn in reading order"
    assert grid_of(64, whole=False) == (None, pieces)
    grid, note = grid_of(15, whole=True)
    seen = observe(*moiie, model_folders.picture(), QUESTION, max_new_tokens=1)
    assert grid is None
    path = draw_patches(dataclasses.replace(seen, grid=grid, note=note), tmp_path / "strip.png")
    with Image.open(path) as picture:
        assert picture.width > 1000


def test_the_picture_is_shown_as_the_model_saw_it(moiie: Both) -> None:
    seen = observe(*moiie, model_folders.picture(320), QUESTION, max_new_tokens=1)
    assert seen.picture.size == (32, 32)
    wanted = np.asarray(model_folders.picture(320).resize((32, 32), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(np.asarray(seen.picture, dtype=float) - wanted).mean() < 5


def test_pixels_that_are_no_whole_picture_are_not_shown(moiie: Both) -> None:
    processor = moiie[1]
    assert as_seen(processor, {}) is None
    assert as_seen(processor, {"pixel_values": torch.zeros(1, 4, 3, 8, 8)}) is None, "tiles"
    assert as_seen(processor, {"pixel_values": torch.zeros(16, 48)}) is None, "flattened patches"
    grey = as_seen(processor, {"pixel_values": torch.zeros(1, 3, 8, 8)})
    assert grey is not None
    assert grey.getpixel((0, 0)) == (128, 128, 128), "0 after normalising with mean 0.5 and deviation 0.5"


def moiie_groups() -> ExpertGroups:
    from moiety.moe.routers import resolve
    from moiety.recipe.recipe import MoESettings

    return resolve(MoESettings(scheme="moiie"))[1]


def test_a_patch_shows_first_and_second_choice_by_area() -> None:
    groups = moiie_groups()
    index = np.array([[1, 0], [0, 2]])
    cells = tint(index, np.array([[0.75, 0.25], [1.0, 0.0]]), (1, 2), groups)
    assert cells.shape == (CELL, 2 * CELL, 3)
    first, second = (np.array(rgb(colours_of(groups)[expert])) for expert in (1, 0))
    left = cells[:, :CELL].reshape(-1, 3)
    assert np.isclose(left, second).all(-1).mean() == pytest.approx(0.25, abs=0.04)
    assert np.isclose(left, first).all(-1).mean() == pytest.approx(0.75, abs=0.04)
    assert np.isclose(cells[:, CELL:], second).all(), "a second choice without weight is not drawn"


def test_padding_stays_white() -> None:
    groups = moiie_groups()
    cells = tint(np.array([[4, 4]]), np.zeros((1, 2)), (1, 1), groups)
    assert (cells == 1).all()


def test_colours_are_distinct_for_any_group_sizes() -> None:
    from moiety.moe.routers import resolve
    from moiety.recipe.recipe import MoESettings

    audio = {0: "text", 1: "vision", 3: "audio"}
    for experts, groups in [
        ({"vision": 1, "inter": 2, "text": 1}, {0: "text", 1: "vision"}),
        ({"vision": 4, "inter": 8, "text": 4}, {0: "text", 1: "vision"}),
        ({"vision": 3, "audio": 2, "inter": 5, "text": 3}, audio),
    ]:
        table = resolve(MoESettings(scheme="moiie", experts=experts, modality_groups=groups))[1]
        colours = colours_of(table)
        assert len(set(colours)) == len(colours) == table.num_experts
    vanilla = resolve(MoESettings(scheme="vanilla", experts={"inter": 64}))[1]
    assert len(colours_of(vanilla)) == 64
    assert is_dark("#003A5C")
    assert not is_dark("#F0E442")


def test_the_most_varied_layer_is_chosen(moiie: Both) -> None:
    import dataclasses

    seen = observe(*moiie, model_folders.picture(), QUESTION, max_new_tokens=1)
    index = torch.zeros_like(seen.phases["prefill"][1].index)
    flat = dataclasses.replace(seen.phases["prefill"][1], index=index)
    even = dataclasses.replace(flat, index=index + torch.arange(len(index)).unsqueeze(1) % 3)
    phases = {"prefill": {1: even, 3: flat}, "decode": {}}
    assert most_varied_layer(dataclasses.replace(seen, phases=phases)) == 1
    phases = {"prefill": {1: flat, 3: flat}, "decode": {}}
    assert most_varied_layer(dataclasses.replace(seen, phases=phases)) == 3


def test_long_words_and_markup_become_labels(moiie: Both, tmp_path: Path) -> None:
    import dataclasses

    assert shorten("  ") == "␣"
    assert len(shorten("a" * 40)) == 12
    assert int(Modality.IMAGE) == 1
    seen = observe(*moiie, model_folders.picture(), QUESTION, max_new_tokens=2)
    odd = [word and "$x^{2_$" for word in seen.words]
    assert draw_words(dataclasses.replace(seen, words=odd), tmp_path / "words.png").is_file()
