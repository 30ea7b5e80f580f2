"""From a question about a picture, or from saved traces, to a folder with pictures, numbers and one page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from moiety.evaluate.run import evaluating
from moiety.groups import ExpertGroups
from moiety.lens.draw.charts import draw_depth, draw_shares
from moiety.lens.draw.coselection import draw_co_selection
from moiety.lens.draw.gates import draw_gates
from moiety.lens.draw.hyperbolic import draw_discs, draw_radii
from moiety.lens.draw.points import clouds_of, drawn_layers
from moiety.lens.draw.profiles import draw_profiles
from moiety.lens.draw.tint import most_varied_layer
from moiety.lens.draw.tokens import draw_patches, draw_words
from moiety.lens.ground.forced import force, read
from moiety.lens.ground.metrics import TAKEN_AWAY, choices_and_gates, gathered, sample_of
from moiety.lens.numbers import RoutingNumbers, numbers_of, rows_table, summary_rows, write_numbers
from moiety.lens.page.data import short_name
from moiety.lens.page.interactive import write_report
from moiety.lens.page.static import routing_table
from moiety.lens.trace.file import SavedTrace, write_trace
from moiety.lens.trace.gather import trace_of
from moiety.lens.trace.observe import PICTURE, Observation, observe
from moiety.lens.trace.reader import read_trace
from moiety.vlm.configs import name_of
from moiety.vlm.data import Encoder
from moiety.vlm.images import as_rgb, open_picture
from moiety.vlm.model import moe_layers, settings_of
from moiety.vlm.rows import IMAGE_MARK, Row, Turn

if TYPE_CHECKING:
    from rich.table import Table

TRACE = "trace.safetensors"
BESIDE = "beside"

SECTIONS = {
    "grounding": (
        "What it leans on",
        "How much attention goes to the given evidence, layer by layer, for this question and the model's own answer.",
    ),
    "gates": (
        "Evidence or memory",
        "Gates of the evidence experts, word by word: orange relies on the given evidence, purple on memory.",
    ),
    "radii": (
        "How far out",
        "Distance from the origin: of the tokens that each expert got, and of picture and phrase as in the cone loss.",
    ),
    "disc": (
        "In the Poincaré disc",
        "The same points in two dimensions: distances from the centre are exact; angles are those in the plane that "
        "holds most of their spread.",
    ),
}


@dataclass(frozen=True)
class LensReport:
    """What :func:`inspect_image` found, and the files that it wrote.

    Args:
        question: What was asked.
        answer: The answer of the model.
        scheme: Routing scheme and expert groups, in words.
        layers: Sparse layers.
        note: Why patches are drawn as a strip; empty if they form a grid.
        rows: One record for each layer, phase and modality group.
        folder: Folder with all files.
        page: The HTML page in it.
        files: All files that were written, the page included.
    """

    question: str
    answer: str
    scheme: str
    layers: list[int]
    note: str
    rows: list[dict[str, Any]]
    folder: Path
    page: Path
    files: list[Path]

    def table(self) -> Table:
        """The records as a table for the terminal."""
        return rows_table(self.scheme, self.rows, self.note)


def inspect_image(
    model: Any,
    processor: Any,
    image: Image.Image | str | Path,
    question: str,
    folder: str | Path,
    *,
    max_new_tokens: int = 32,
) -> LensReport:
    """Ask one question about one picture and draw which expert read what.

    Args:
        model: A sparse model.
        processor: Its processor.
        image: The picture, or its file.
        question: The question.
        folder: Where ``index.html``, the PNGs, ``routing.npz``, ``routing.json`` and ``trace.safetensors`` go.
        max_new_tokens: Longest answer.

    Raises:
        FileNotFoundError: there is no picture at the path.
        ValueError: the model is dense, or the question is empty.
    """
    folder = Path(folder)
    seen = observe(model, processor, image, question, max_new_tokens=max_new_tokens)
    numbers = numbers_of(seen)
    rows = summary_rows(numbers, seen.groups)
    drawn = [
        draw_patches(seen, folder / "patches.png"),
        draw_words(seen, folder / "words.png"),
        *draw_numbers(numbers, seen.groups, folder),
    ]
    further = evidence_pictures(model, processor, seen, image, folder)
    header = header_of(model, seen, max_new_tokens)
    trace = trace_of(model, seen, {"max_new_tokens": max_new_tokens})
    written = [*write_numbers(numbers, seen.groups, header, folder), write_trace(trace, folder / TRACE)]
    sections = [(*SECTIONS[name], path) for name, path in further.items()]
    page = write_report(folder / "index.html", [trace], pictures=sections, table=routing_table(rows))
    files = [*drawn, *further.values(), *written, page]
    return LensReport(
        question, seen.answer, header["scheme"], seen.layers, seen.note, rows, folder, page, files
    )  # fmt: skip


def inspect_beside(
    report: LensReport, model: Any, processor: Any, image: Image.Image | str | Path, *, max_new_tokens: int = 32
) -> LensReport:
    """Ask a second model the question of `report`, and put both side by side on its page.

    Args:
        report: Report of the first model.
        model: Another sparse model.
        processor: Its processor.
        image: The same picture.
        max_new_tokens: Longest answer.

    Returns:
        The report of the second model, whose files go into the folder ``beside`` of the first.

    Raises:
        ValueError: the second model is dense.
    """
    other = inspect_image(
        model, processor, image, report.question, report.folder / BESIDE, max_new_tokens=max_new_tokens
    )
    traces = [read_trace(one.folder / TRACE) for one in (report, other)]
    names = [short_name(trace.model) for trace in traces]
    if names[0] == names[1]:
        names = [f"{names[0]}, first", f"{names[1]}, second"]
    sections = []
    for one, whose in zip((report, other), names, strict=True):
        for name, (head, text) in SECTIONS.items():
            drawn = one.folder / f"{name}.png"
            sections += [(f"{head}: {whose}", text, drawn)] * (drawn in one.files)
    write_report(report.page, traces, pictures=sections)
    return other


def inspect_traces(traces: Sequence[SavedTrace], folder: str | Path, only: Collection[str] | None = None) -> list[Path]:
    """Write the page of one saved trace, or of two side by side, and the static charts of each.

    Args:
        traces: From :func:`read_trace`.
        folder: Where ``index.html`` and the charts go; those of the second trace into ``beside``.
        only: Ids of the questions to show; None: as many of the first as fit a page.

    Returns:
        The page, then the charts.

    Raises:
        ValueError: see :func:`moiety.lens.page.data.page_tree`.
    """
    folder = Path(folder)
    page = write_report(folder / "index.html", traces, only=only)
    charts = []
    for trace, place in zip(traces, (folder, folder / BESIDE), strict=False):
        charts += draw_numbers(trace.numbers(), trace.groups, place)
    return [page, *charts]


def draw_numbers(numbers: RoutingNumbers, groups: ExpertGroups, folder: Path) -> list[Path]:
    """The static charts of a trace: load shares, entropy and inter-modality share by depth, co-selection."""
    return [
        draw_shares(numbers, groups, folder / "shares.png"),
        draw_depth(numbers, groups, folder / "depth.png"),
        draw_co_selection(numbers, groups, folder / "coselection.png"),
    ]


def evidence_pictures(
    model: Any, processor: Any, seen: Observation, image: Image.Image | str | Path, folder: Path
) -> dict[str, Path]:
    """Draw attention, and gates and points if the model has evidence or hyperbolic experts.

    The model reads the question and its own answer once more, in one forward.
    """
    picture = as_rgb(image) if isinstance(image, Image.Image) else open_picture(image)
    row = Row(id="inspect", turns=(Turn("user", f"{IMAGE_MARK}\n{seen.question}"),), images=(PICTURE,))
    forced = force(Encoder(processor, {PICTURE: picture}, max_length=0), row, seen.answer)
    with evaluating(model):
        reading = read(model, forced, attention=True, keeps_inputs=bool(drawn_layers(model)))
    sample = sample_of(model, forced, reading)
    for name in TAKEN_AWAY:
        sample |= choices_and_gates(model, forced, None, f"_{name}")
    found = {"grounding": draw_profiles(gathered(model, [sample], [""]), folder / "grounding.png")}
    gates = draw_gates(seen, folder / "gates.png")
    if gates is not None:
        found["gates"] = gates
    clouds = clouds_of(model, forced, reading)
    if clouds:
        found["radii"] = draw_radii(clouds, seen.groups, folder / "radii.png")
        found["disc"] = draw_discs(clouds, seen.groups, folder / "disc.png")
    return found


def header_of(model: Any, seen: Observation, max_new_tokens: int) -> dict[str, Any]:
    """The facts that the numbers belong to: model, scheme, rules, sample and decoding."""
    settings = settings_of(model)
    routers = {layer.layer_index: layer.router for layer in moe_layers(model)}
    biases = {index: getattr(router, "selection", None) for index, router in routers.items()}
    found = {index: bias.bias.tolist() for index, bias in biases.items() if bias is not None}
    return {
        **({"selection_bias": found} if found else {}),  # layer -> (modality groups, experts)
        "model": name_of(model),
        "scheme": f"{seen.scheme}: {seen.groups.describe()}",
        "mask_rule": settings.mask_rule if settings else "exact",
        "samples": 1,
        "question": seen.question,
        "answer": seen.answer,
        "decoding": {"greedy": True, "max_new_tokens": max_new_tokens},
        "grid": list(seen.grid) if seen.grid else None,
        "note": seen.note,
    }


def tinted_picture(
    model: Any,
    processor: Any,
    image: Image.Image | str | Path,
    question: str,
    path: str | Path,
    layer: int | None = None,
) -> Path:
    """Draw the picture as the model saw it, and beside it with its patches tinted by the experts of one layer.

    Args:
        model: A sparse model.
        processor: Its processor.
        image: The picture, or its file.
        question: What to ask about it.
        path: PNG to write.
        layer: Which sparse layer; None: the one whose first choices differ most over the picture.

    Raises:
        ValueError: the model is dense, or `layer` is not sparse.
    """
    seen = observe(model, processor, image, question, max_new_tokens=1)
    if layer is not None and layer not in seen.layers:
        raise ValueError(f"layer {layer} is not sparse; sparse layers: {seen.layers}")
    if layer is not None:
        return draw_patches(seen, Path(path), [layer])
    remark = f"the layer whose first choices differ most, of {len(seen.layers)} sparse layers"
    return draw_patches(seen, Path(path), [most_varied_layer(seen)], remark)
