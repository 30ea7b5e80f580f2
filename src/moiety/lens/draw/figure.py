"""What all figures of the lens share: the legend of experts, and how a figure is written to a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from moiety.groups import ExpertGroups
from moiety.lens.draw.palette import colours_of, label_of
from moiety.records.saving import whole_file

KINDS = ("png", "pdf", "svg")
DPI_RANGE = (10, 1200)


def add_legend(figure: Figure, groups: ExpertGroups, note: str) -> None:
    """Add a legend below the figure: one entry for each expert, and a line that says how to read the figure."""
    colours = colours_of(groups)
    handles = [Patch(color=colour, label=label_of(groups, expert)) for expert, colour in enumerate(colours)]
    columns = max(1, min(8, len(handles), int(figure.get_figwidth() / 1.05)))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        title=note,
        title_fontsize=8,
        frameon=False,
    )


@dataclass(frozen=True)
class Export:
    """How pictures are written.

    Args:
        kind: ``png``, ``pdf`` or ``svg``; a PNG for the pages is always written, too.
        dpi: Dots per inch of a PNG.
    """

    kind: str = "png"
    dpi: int = 130


AS_PNG = Export()
_export: ContextVar[Export] = ContextVar("moiety_lens_export", default=AS_PNG)


@contextmanager
def exporting(export: Export) -> Iterator[None]:
    """Write every picture that is drawn inside the context as `export` says.

    Raises:
        ValueError: an unknown kind of file, or a resolution outside of 10..1200 dots per inch.
    """
    if export.kind not in KINDS:
        raise ValueError(f"pictures can be written as {', '.join(KINDS)}, not as {export.kind!r}")
    if not DPI_RANGE[0] <= export.dpi <= DPI_RANGE[1]:
        raise ValueError(f"{export.dpi} dots an inch; choose {DPI_RANGE[0]} to {DPI_RANGE[1]}")
    token = _export.set(export)
    try:
        yield
    finally:
        _export.reset(token)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG and make its folder. :func:`exporting` can ask for a second file in another format.

    Text in a PDF or SVG stays text, in fonts that a paper may embed.
    """
    export = _export.get()
    with whole_file(path) as fresh:
        figure.savefig(fresh, dpi=export.dpi, facecolor="white")
    if export.kind != "png":
        figure.set_layout_engine("none")  # keep the layout that the first drawing computed
        with (
            rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}),
            whole_file(path.with_suffix(f".{export.kind}")) as fresh,
        ):
            figure.savefig(fresh, facecolor="white")
    return path
