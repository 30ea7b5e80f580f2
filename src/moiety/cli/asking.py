"""How a model is asked: the options that ``moiety evaluate`` has for conversation files and for benchmarks alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety.cli.look import DeviceOption
from moiety.cli.options import AsJson, DtypeOption, ProcessorOption, output_file, set_option

if TYPE_CHECKING:
    from moiety.evaluate.benchmarks.run import Asking
    from moiety.recipe.evaluate import DecodingSettings

SECTION = "evaluate.decoding"
Lines = tuple[Sequence[str], list[list[str]]]
"""Heads and lines of a table that was shown."""
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Ask the first N questions only.")]


@dataclass(frozen=True)
class Asked:
    """The options themselves; what each means stands in its help."""

    limit: Limit = None
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Number of questions that are asked at once.")] = (
        32
    )
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Longest answer, in tokens. Default: 16 for DATA; for benchmarks, their own length.",
        ),
    ] = None
    blank_image: Annotated[
        bool,
        typer.Option("--blank-image", help="Show blank pictures: the control that says what the text alone gives."),
    ] = False
    decoding: Annotated[
        str,
        typer.Option(help="How an answer is chosen: greedy, context_aware (CAD), visual_contrastive (VCD) or dola."),
    ] = "greedy"
    settings: Annotated[list[str] | None, set_option(f"{SECTION}.weight=0.5", SECTION)] = None
    clamp_alpha: Annotated[
        float | None,
        typer.Option(
            "--clamp-alpha",
            metavar="ALPHA",
            min=0,
            max=1,
            help="Force alpha of every evidence expert to this value, in 0 to 1.",
        ),
    ] = None
    card: Annotated[bool, typer.Option("--card", help="Add the scores to the README.md of the model folder.")] = False
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            help="Write the routing of the run to this file; look at it with `moiety inspect --trace FILE`.",
            callback=output_file,
        ),
    ] = None
    trace_limit: Annotated[
        int,
        typer.Option(
            "--trace-limit",
            metavar="N",
            min=1,
            help="Keep every decision of the first N questions, beside the sums over all of them.",
        ),
    ] = 100
    device: DeviceOption = None
    processor: ProcessorOption = None
    dtype: DtypeOption = None
    as_json: AsJson = False

    def asking(self, rule: str | None = None) -> Asking:
        """The same for the functions that ask.

        Args:
            rule: Rule set of a benchmark.

        Raises:
            RecipeError: a value of the decoding does not fit, or a key is unknown.
        """
        from moiety.evaluate.benchmarks.run import Asking
        from moiety.lens.trace.writer import TraceFiles

        return Asking(
            rule,
            self.limit,
            self.batch_size,
            self.max_new_tokens,
            self.blank_image,
            decoding_settings(self.decoding, self.settings),
            self.clamp_alpha,
            watches=None if self.trace is None else TraceFiles(self.trace, self.trace_limit),
        )

    def describe(self) -> str:
        """How the model was asked, in words, for the heading of a table."""
        how = [how_decoded(decoding_settings(self.decoding, self.settings), self.clamp_alpha)]
        how += ["blank pictures"] * self.blank_image + [f"first {self.limit}"] * bool(self.limit)
        how += [f"weights in {self.dtype}"] if self.dtype else []
        return ", ".join(how)


def decoding_settings(method: str, overrides: list[str] | None) -> DecodingSettings:
    """The decoding that the words of the command line stand for.

    Raises:
        RecipeError: a value does not fit, or a key is unknown.
    """
    from pydantic import ValidationError

    from moiety.recipe.evaluate import DecodingSettings
    from moiety.recipe.reader import apply_override
    from moiety.recipe.recipe import RecipeError, describe_errors

    tree: dict[str, Any] = {"method": method}
    for override in overrides or ():
        apply_override(tree, override)
    try:
        return DecodingSettings.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(describe_errors(error, SECTION, DecodingSettings)) from error


def how_decoded(method: DecodingSettings, clamp_alpha: float | None) -> str:
    """The decoding in words, with the clamped alpha where there is one."""
    return method.describe() + ("" if clamp_alpha is None else f", alpha clamped to {clamp_alpha:g}")
