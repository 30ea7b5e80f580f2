"""The files of `moiety ground`: a page, a figure, the numbers of every layer and of every sample."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moiety.lens.draw.hyperbolic import draw_discs, draw_radii
from moiety.lens.draw.profiles import draw_profiles
from moiety.lens.ground.metrics import GATES, TAKEN_AWAY, Grounding
from moiety.lens.page.static import write_page
from moiety.records.pages import html_table, html_terms

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "layer": ("layer", "decoder layer, counted from 0"),
    "text_entropy": ("entropy text", "attention entropy of text positions; 1 means even attention"),
    "image_entropy": ("entropy image", "the same for image positions"),
    "context": ("C evidence", "attention of the position that predicts the answer on all evidence, 0 to 1"),
    "context_gain": ("CAG", "C minus C of the reference model"),
    "picture": ("on picture", "the part of C that lies on the pictures"),
    "answer": ("N answer", "attention of the same position on the evidence that contains the answer, 0 to 1"),
    "answer_gain": ("AAG", "N minus N of the reference model"),
    "grounding_ratio": ("F of each expert %", "share of evidence in the attention of the text tokens of each expert"),
    "dependence": (
        "R of each expert %",
        "-100 to 100; above 0, an expert is chosen more often with the right picture than with another picture",
    ),
    "alpha": ("alpha", "share of memory in the output of the evidence experts, 0 to 1"),
    "alpha_shift": ("d_alpha", "alpha with another picture minus alpha"),
    "score": ("s", "evidence score of the router, 0 to 1"),
    "score_shift": ("d_s", "s minus s with another picture"),
    "mass": ("e", "evidence mass: share of the context attention that reaches evidence, 0 to 1"),
    "alpha_area": ("AUC 1-alpha", "how well 1 - alpha tells questions in conflict from those without evidence"),
    "score_area": ("AUC s", "the same for s"),
    "mass_area": ("AUC e", "the same for e"),
}
"""Name of a number -> its heading in tables, and what it means. A number that no layer has gets no column."""
HEADS = {name: head for name, (head, _) in COLUMNS.items()}

READING = (
    "Attention entropy: 1 means that a position attends to everything alike. C, picture and N: how much of its "
    "attention the position that makes the answer puts on all evidence (C), on the picture alone, and on the evidence "
    "that contains the answer (N). F: share of evidence in the attention of the text tokens that an expert got. "
    "R: above 0, an expert is chosen more often with the right picture than with another one. Gates: alpha is the "
    "share of memory. Where evidence is taken away (dashed), alpha should rise and the score should fall."
)
RADII = "Distance from the origin of every picture and every phrase (question and answer), as in the cone loss."
DISC = (
    "The same points in two dimensions. Distances from the centre are exact; angles are those in the plane that holds "
    "most of their spread."
)


@dataclass(frozen=True)
class GroundReport:
    """Numbers by layer, and the files that were written.

    Args:
        model: Name of the model.
        reference: Name of the reference model; None: there is none.
        scheme: Routing scheme.
        num_samples: Rows read.
        slope: Slope of the text entropy over depth with its 95 % interval; None for a single layer.
        rows: One record for each decoder layer, see :data:`HEADS`; None where a layer has no such number.
        page: The HTML page.
        files: All files that were written, the page included.
    """

    model: str
    reference: str | None
    scheme: str
    num_samples: int
    slope: dict[str, float | None] | None
    rows: list[dict[str, Any]]
    page: Path
    files: list[Path]

    def table(self) -> Table:
        """The records as a table for the terminal."""
        from rich.table import Table

        beside = f" beside {self.reference}" if self.reference else ""
        title = f"{self.scheme}, {self.num_samples} questions: {self.model}{beside}"
        drawn = Table(title=title, title_justify="left", caption="\n".join(self.notes), caption_justify="left")
        for head in shown_heads(self.rows).values():
            drawn.add_column(head, justify="right")
        for row in self.rows:
            drawn.add_row(*(cell_of(row[name]) for name in shown_heads(self.rows)))
        return drawn

    @property
    def notes(self) -> list[str]:
        """Lines below the table: the slope, then what each heading means."""
        meanings = [f"{head}: {meaning}" for head, meaning in meanings_of(self.rows)]
        return [self.slope_text, *meanings] if self.slope_text else meanings

    @property
    def slope_text(self) -> str:
        """The slope in words."""
        if self.slope is None:
            return ""
        value, low, high = (self.slope[name] for name in ("value", "low", "high"))
        interval = "" if low is None or high is None else f" [{low:+.4f}, {high:+.4f}]"
        return f"entropy of text per layer: {value:+.4f}{interval}"


def write_ground_report(
    found: Grounding, folder: Path, model: str, reference: Grounding | None = None, reference_name: str | None = None
) -> GroundReport:
    """Write ``index.html``, ``grounding.png``, ``grounding.json`` (by layer) and ``grounding.npz`` (by sample).

    Args:
        found: Numbers of a model.
        folder: Where the files go.
        model: Name of the model.
        reference: Numbers of another model over the same rows.
        reference_name: Name of that model.

    Raises:
        ValueError: the reference has another number of layers, or has read another number of rows.
    """
    rows = layer_rows(found, reference)
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw_profiles(found, folder / "grounding.png", reference)
    slope = None if found.entropy_slope is None else {k: plain(v) for k, v in asdict(found.entropy_slope).items()}
    report = GroundReport(model, reference_name, found.scheme, len(found.types), slope, rows, folder / "index.html", [])
    content = {name: value for name, value in asdict(report).items() if name not in ("page", "files")}
    content |= {"sparse_layers": found.sparse_layers, "taken_away": TAKEN_AWAY, "radii": radii_rows(found)}
    table, arrays = folder / "grounding.json", folder / "grounding.npz"
    table.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    named: dict[str, Any] = {"types": np.array(found.types), **found.samples}
    np.savez(arrays, **named)
    pictures = [("Over depth", READING, picture), *_point_pictures(found, folder)]
    heads = shown_heads(rows)
    facts = {"model": model, "scheme": found.scheme, "questions": str(len(found.types))}
    if reference_name is not None:
        facts["reference (dashed)"] = reference_name
    if report.slope_text:
        facts["slope"] = report.slope_text
    write_page(
        report.page,
        title="What it leans on",
        facts=facts,
        groups=found.groups,
        pictures=pictures,
        table=html_terms(meanings_of(rows))
        + html_table([list(heads.values()), *([cell_of(row[name]) for name in heads] for row in rows)]),
    )
    report.files.extend([*(path for _, _, path in pictures), table, arrays, report.page])
    return report


def _point_pictures(found: Grounding, folder: Path) -> list[tuple[str, str, Path]]:
    """Radius histogram and Poincaré disc where the model has hyperbolic experts: head, explanation and PNG."""
    if not found.clouds or found.groups is None:
        return []
    return [
        ("How far out", RADII, draw_radii(found.clouds, found.groups, folder / "radii.png")),
        ("In the Poincaré disc", DISC, draw_discs(found.clouds, found.groups, folder / "disc.png")),
    ]


def radii_rows(found: Grounding) -> list[dict[str, Any]]:
    """Mean hyperbolic radius of pictures and phrases, and how far their distances are from those of a tree.

    One record for each drawn layer and expert.
    """
    return [
        {
            "layer": cloud.layer,
            "expert": cloud.expert,
            **{kind: plain(cloud.radii(kind).mean()) for kind, points in cloud.points.items() if len(points)},
            "delta_hyperbolicity": plain(cloud.delta_hyperbolicity()),
        }
        for cloud in found.clouds
    ]


def layer_rows(found: Grounding, reference: Grounding | None = None) -> list[dict[str, Any]]:
    """One record for each decoder layer, under the names of :data:`HEADS` and ``…_mean_patch``.

    Raises:
        ValueError: the reference has another number of layers, or has read another number of rows.
    """
    numbers: dict[str, np.ndarray] = {
        "text_entropy": found.entropy("text"),
        "image_entropy": found.entropy("image"),
        "context": found.attention("context"),
        "picture": found.attention("picture"),
        "answer": found.attention("answer"),
    }
    if reference is not None:
        given = [(len(which.layers), len(which.types)) for which in (found, reference)]
        if given[0] != given[1]:
            raise ValueError(
                f"gains compare layer by layer on the same rows: the model has {given[0][0]} layers and {given[0][1]} "
                f"rows, the reference {given[1][0]} and {given[1][1]}; give a reference of the same depth"
            )
        for name in ("context", "answer"):
            numbers[f"{name}_gain"] = numbers[name] - reference.attention(name)
    sparse = sparse_numbers(found)
    rows = []
    for layer in found.layers:
        row: dict[str, Any] = {"layer": layer, **{name: plain(value[layer]) for name, value in numbers.items()}}
        place = found.sparse_layers.index(layer) if layer in found.sparse_layers else None
        row |= {name: None if place is None else plain(value[place]) for name, value in sparse.items()}
        rows.append({**dict.fromkeys(HEADS), **row})
    return rows


def sparse_numbers(found: Grounding) -> dict[str, np.ndarray]:
    """All numbers of sparse layers, by name."""
    numbers = {"grounding_ratio": found.grounding_ratio()}
    routed = found.samples["routed"].sum(0)
    if found.has_gates:
        mass = found.samples["routed_mass"].sum(0)
        numbers["routed_mass"] = np.divide(mass, routed, out=np.full_like(mass, np.nan), where=routed > 0)
    for taken_away, suffix in (("exchanged", ""), ("mean_patch", "_mean_patch")):
        never = (found.samples["routed"].sum(0) == 0) & (found.samples[f"routed_{taken_away}"].sum(0) == 0)
        numbers[f"dependence{suffix}"] = np.where(never, np.nan, found.dependence(taken_away))
        for gate in GATES:
            numbers[f"{gate}_shift{suffix}"] = found.gate_shift(gate, taken_away)
    for gate in GATES:
        numbers |= {gate: found.gate(gate), f"{gate}_area": found.gate_area(gate)}
    return numbers


def plain(value: Any) -> Any:
    """A number, or a list of numbers, for JSON: rounded to four decimals, None in place of NaN."""
    if np.ndim(value):
        return [plain(part) for part in value]
    return None if math.isnan(value) else round(float(value), 4)


def shown_heads(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The columns that have a number in at least one layer."""

    def known(value: Any) -> bool:
        return any(part is not None for part in value) if isinstance(value, list) else value is not None

    return {name: head for name, head in HEADS.items() if any(known(row[name]) for row in rows)}


def meanings_of(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Heading and meaning of each column that is shown."""
    return [COLUMNS[name] for name in shown_heads(rows)]


def cell_of(value: Any) -> str:
    """A number as text, a list of shares in percent.

    Example:
        >>> cell_of(0.12345), cell_of([0.5, None]), cell_of(None), cell_of(3)
        ('0.123', '50 –', '–', '3')
    """
    if isinstance(value, list):
        return " ".join("–" if part is None else f"{100 * part:.0f}" for part in value)
    return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
