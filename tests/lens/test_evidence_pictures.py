"""Scheme asymoe under the lens: gates over the text, points in hyperbolic space, and gates over a data file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from moiety.lens import inspect_image
from moiety.lens.draw import profiles
from moiety.lens.draw.gates import draw_gates, gate_of
from moiety.lens.draw.points import Cloud, clouds_of, drawn_layers, joined_clouds, lorentz_bank
from moiety.lens.ground.forced import force, read
from moiety.lens.ground.metrics import GATES, Grounding, ground
from moiety.lens.ground.report import COLUMNS, HEADS, write_ground_report
from moiety.lens.trace.observe import observe
from moiety.moe.asymoe import geometry
from moiety.moe.asymoe.experts.evidence import clamped_alpha
from moiety.moe.trace import recording
from moiety.vlm.data import Encoder, prompt_batch
from moiety.vlm.model import load, moe_layers
from moiety.vlm.rows import Row, Turn
from moiety.vlm.templates import load_processor
from tests import model_folders
from tests.lens.ground.test_metrics import Pictures, row_of

QUESTION = "Where is the red circle?"
Both = tuple[Any, Any]


@pytest.fixture(scope="module")
def asymoe() -> Both:
    folder = model_folders.asymoe_folder()
    return load(folder), load_processor(folder, marks=False)


@pytest.fixture(scope="module")
def found(asymoe: Both) -> Grounding:
    return ground(*asymoe, [row_of(number, answer_box=[0, 0, 0.5, 0.5]) for number in range(4)], Pictures())


def test_gates_are_those_of_one_forward(asymoe: Both) -> None:
    model, processor = asymoe
    seen = observe(model, processor, model_folders.picture(), QUESTION, max_new_tokens=3)
    row = Row("x", (Turn("user", f"<image>\n{QUESTION}"),), ("p",))
    with recording() as trace, torch.no_grad():
        model(**prompt_batch([row], processor, {"p": model_folders.picture()}))
    text = np.flatnonzero(~seen.is_image)
    for name in ("alpha", "score", "mass"):
        drawn = gate_of(seen, name, text)
        assert drawn is not None
        assert drawn.shape == (4, len(text) + len(seen.generated))
        for place, (_, routing) in enumerate(trace.entries):
            wanted = routing.extras[name].reshape(len(seen.words), -1).mean(-1)[torch.from_numpy(text)]
            np.testing.assert_allclose(drawn[place, : len(text)], wanted, atol=1e-5)  # found 4e-7
        assert len(np.unique(drawn.round(4))) > 8, "gates differ between words"


def test_inspect_draws_gates_and_points(asymoe: Both, tmp_path: Path) -> None:
    report = inspect_image(*asymoe, model_folders.picture(), QUESTION, tmp_path, max_new_tokens=3)
    names = {path.name for path in report.files}
    assert {"grounding.png", "gates.png", "radii.png", "disc.png"} < names
    page = report.page.read_text()
    assert page.count('<img class="plate"') == 4
    for head in ("Evidence or memory", "How far out", "In the Poincaré disc"):
        assert head in page
    for name in ("gates.png", "radii.png", "disc.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 400
            assert len(picture.convert("RGB").getcolors(2**24)) > 50


def test_other_schemes_have_no_gates(tmp_path: Path) -> None:
    folder = model_folders.sparse_folder("moiie")
    seen = observe(load(folder), load_processor(folder), model_folders.picture(), QUESTION, max_new_tokens=2)
    assert draw_gates(seen, tmp_path / "gates.png") is None
    assert not (tmp_path / "gates.png").exists()


def test_long_texts_are_cut_into_rows(asymoe: Both, tmp_path: Path) -> None:
    long = " ".join([QUESTION] * 7)
    seen = observe(*asymoe, model_folders.picture(), long, max_new_tokens=1)
    path = draw_gates(seen, tmp_path / "gates.png")
    assert path is not None
    with Image.open(path) as picture:
        assert picture.height > 1000


def test_points_are_where_the_experts_put_their_tokens(asymoe: Both) -> None:
    model, processor = asymoe
    forced = force(Encoder(processor, Pictures(), max_length=0), row_of(1), "top left")
    reading = read(model, forced, keeps_inputs=True)
    clouds = clouds_of(model, forced, reading)
    assert [(cloud.layer, cloud.expert) for cloud in clouds] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    for cloud in clouds:
        routing = reading.routing[cloud.layer]
        got = (routing.index == cloud.expert).any(-1)
        assert len(cloud.points["patches"]) == int((got & (forced.modality_ids == 1)).sum())
        assert cloud.points["pictures"].shape == cloud.points["phrases"].shape == (1, 1, 8)
        bank = lorentz_bank(moe_layers(model)[cloud.layer])
        assert bank is not None
        x = routing.extras["x"][got & (forced.modality_ids == 1)]
        u = bank.log_scale[cloud.expert - 1, 0].exp() * x @ bank.projection[cloud.expert - 1, 0].T
        wanted = geometry.radius_cap(u, 1.0, 3.0)
        torch.testing.assert_close(cloud.points["patches"][:, 0], wanted, rtol=1e-4, atol=1e-6)
        assert (cloud.radii("patches") <= 3).all()


def test_points_need_what_the_layers_read(asymoe: Both) -> None:
    forced = force(Encoder(asymoe[1], Pictures(), max_length=0), row_of(1), "top left")
    with pytest.raises(
        RuntimeError, match="points need the inputs of the layers; make the reading with keeps_inputs=Tr"
    ):
        clouds_of(asymoe[0], forced, read(asymoe[0], forced))


def test_the_disc_keeps_distances_from_its_centre(asymoe: Both) -> None:
    forced = force(Encoder(asymoe[1], Pictures(), max_length=0), row_of(1), "top left")
    for cloud in clouds_of(asymoe[0], forced, read(asymoe[0], forced, keeps_inputs=True)):
        drawn, held = cloud.disc()
        assert 0.25 <= held <= 1 + 1e-6, "at least as much as two of eight even directions"
        for kind, places in drawn.items():
            wanted = (cloud.radii(kind) / 2).tanh()
            torch.testing.assert_close(places.norm(dim=-1), wanted, rtol=1e-4, atol=1e-5)
            assert (places.norm(dim=-1) < 1).all()


def test_points_on_a_tree_are_as_far_apart_as_in_a_tree() -> None:
    """Three far rays from the origin are nearly a star; four corners of a small square are not."""
    rays = 9 * torch.tensor([[[1.0, 0.0]], [[-0.5, 0.87]], [[-0.5, -0.87]]])
    corners = 0.01 * torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[-1.0, 0.0]], [[0.0, -1.0]]])
    star = Cloud(0, 0, torch.ones(1), {"phrases": torch.cat([rays, 0 * rays[:1]])})
    square = Cloud(0, 0, torch.ones(1), {"phrases": corners})
    assert star.delta_hyperbolicity() < 0.02
    assert square.delta_hyperbolicity() == pytest.approx(2 - 2**0.5, abs=1e-3)  # a flat square


def test_clouds_of_samples_join(asymoe: Both, found: Grounding) -> None:
    assert len(found.clouds) == 4
    assert all(len(cloud.points["phrases"]) == len(cloud.points["pictures"]) == 4 for cloud in found.clouds)
    assert joined_clouds([[]], ("pictures",)) == []
    assert drawn_layers(load(model_folders.sparse_folder("moiie"))) == []


def test_gates_of_a_file(found: Grounding) -> None:
    assert found.has_gates
    for name in ("alpha", "score", "mass"):
        present, without = found.gate(name), found.gate(name, "exchanged")
        assert ((present >= 0) & (present <= 1)).all()
        sign = 1 if name == "alpha" else -1
        np.testing.assert_allclose(found.gate_shift(name), sign * (without - present), atol=1e-12)
        assert ((found.gate_area(name) >= 0) & (found.gate_area(name) <= 1)).all()
    assert (found.samples["mass"] != found.samples["mass_exchanged"]).any()
    assert (found.samples["mass"] != found.samples["mass_mean_patch"]).any()
    ratio = found.samples["routed_mass"].sum(0)[:, 1:] / found.samples["routed"].sum(0)[:, 1:].clip(1)
    assert ((ratio >= 0) & (ratio <= 1)).all()
    assert (found.attention("answer") > 0).all(), "rows say where the answer is"


def test_a_clamp_is_seen_in_the_trace(asymoe: Both) -> None:
    forced = force(Encoder(asymoe[1], Pictures(), max_length=0), row_of(1), "top left")
    with clamped_alpha(0.02):
        reading = read(asymoe[0], forced)
    for routing in reading.routing.values():
        torch.testing.assert_close(routing.extras["alpha"], torch.full_like(routing.extras["alpha"], 0.02))


def test_the_report_of_a_file(found: Grounding, tmp_path: Path) -> None:
    report = write_ground_report(found, tmp_path, "runs/model", found, "runs/other")
    assert {path.name for path in report.files} == {
        "grounding.png", "radii.png", "disc.png", "grounding.json", "grounding.npz", "index.html",
    }  # fmt: skip
    assert all(path.is_file() for path in report.files)
    assert [row["layer"] for row in report.rows] == [0, 1, 2, 3]
    assert all(row["context_gain"] == row["answer_gain"] == 0 for row in report.rows), "a model beside itself"
    written = json.loads((tmp_path / "grounding.json").read_text())
    assert written["rows"] == report.rows
    assert len(written["radii"]) == 4
    assert {"layer", "expert", "pictures", "phrases", "delta_hyperbolicity"} == set(written["radii"][0])
    assert all(0 <= row["delta_hyperbolicity"] <= 1 for row in written["radii"])
    with np.load(tmp_path / "grounding.npz") as arrays:
        np.testing.assert_array_equal(arrays["alpha"], found.samples["alpha"])
        assert arrays["types"].tolist() == found.types
    page = (tmp_path / "index.html").read_text()
    assert "runs/other" in page
    assert page.count("data:image/png;base64,") == 3
    assert len(report.table().columns) == len(HEADS)
    for head, meaning in COLUMNS.values():
        assert f"{head}: {meaning}" in str(report.table().caption).splitlines()
        assert f"<dt>{head}</dt><dd>{meaning}</dd>" in page


@pytest.mark.parametrize("layer", [0, 3])
def test_gates_of_one_sparse_layer_are_bars_and_no_line_of_one_point(found: Grounding, layer: int) -> None:
    samples = {name: values[:, :1] if name.split("_")[0] in GATES else values for name, values in found.samples.items()}
    axes = Figure().subplots()
    profiles._gates(axes, dataclasses.replace(found, sparse_layers=[layer], samples=samples))
    profiles._dress(axes, dataclasses.replace(found, sparse_layers=[layer]))
    assert [line for line in axes.lines if len(line.get_xdata())] == []
    assert len(axes.patches) == 2 * len(GATES)
    low, high = axes.get_xlim()
    for name, bar in zip(GATES, axes.patches[::2], strict=True):
        assert bar.get_height() == pytest.approx(found.gate(name)[0])
    assert all(low < bar.get_x() and bar.get_x() + bar.get_width() < high for bar in axes.patches)


def test_a_reference_of_another_depth_is_refused(found: Grounding, tmp_path: Path) -> None:
    other = dataclasses.replace(found, layers=[0, 1])
    with pytest.raises(ValueError, match="the model has 4 layers and 4 rows, the reference 2 and 4; give a reference"):
        write_ground_report(found, tmp_path, "model", other, "other")
