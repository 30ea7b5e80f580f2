"""Reads a saved trace, and says in one sentence what is wrong with a file that is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from moiety.groups import ExpertGroups
from moiety.lens.trace.file import META, PARTS, Decisions, SavedTrace, ShownPicture, TracedQuestion, tally_of
from moiety.lens.trace.head import FORMAT, VERSION, QuestionHead, TraceHead
from moiety.lens.trace.observe import PHASES
from moiety.recipe.recipe import describe_errors
from moiety.records.json_reader import parse_json

AGAIN = "write it again with `moiety evaluate MODEL DATA --trace FILE`"


def read_trace(path: str | Path) -> SavedTrace:
    """Read the trace in a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no trace, is cut off or damaged, or was written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no trace at {path}; {AGAIN.replace('write it again', 'make one')}")
    try:
        with safe_open(path, framework="numpy") as file:
            said = (file.metadata() or {}).get(META)
            head = _read_head(path, said)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or was cut off ({error}); {AGAIN}") from error
    try:
        return _trace(head, arrays)
    except (KeyError, ValueError, IndexError) as error:
        found = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} contradicts itself: {found}; {AGAIN}") from error


def _read_head(path: Path, said: str | None) -> TraceHead:
    if said is None:
        raise ValueError(f"{path} is a safetensors file without a routing trace; {AGAIN}")
    try:
        tree = parse_json(said)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a damaged head ({error}); {AGAIN}") from error
    version = tree.get("version") if isinstance(tree, dict) else None
    if isinstance(version, int) and tree.get("format") == FORMAT and version > VERSION:
        raise ValueError(
            f"{path} was written by a newer moiety as version {version}; this one reads up to {VERSION}: upgrade moiety"
        )
    try:
        return TraceHead.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{path} has a damaged head: {describe_errors(error, 'trace', TraceHead)}") from error


def _trace(head: TraceHead, arrays: Mapping[str, np.ndarray]) -> SavedTrace:
    groups = head.expert_groups()
    totals = {}
    for phase in PHASES:
        if f"total.{phase}.tokens" in arrays:
            parts = _totals(arrays, phase, len(head.layers), groups)
            totals[phase] = {layer: tally_of(parts, place) for place, layer in enumerate(head.layers)}
    return SavedTrace(
        model=head.model,
        scheme=head.scheme,
        groups=groups,
        layers=head.layers,
        num_layers=head.num_layers,
        settings=head.settings,
        num_questions=head.num_questions,
        totals=totals,
        questions=_questions(head, arrays, groups),
        asked=frozenset(arrays["asked"].tolist()),
    )


def _totals(arrays: Mapping[str, np.ndarray], phase: str, layers: int, groups: ExpertGroups) -> dict[str, np.ndarray]:
    own, experts = len(groups.names), groups.num_experts
    shapes = {"slots": (own, experts), "weight": (own, experts), "together": (own, experts, experts)}
    parts = {part: arrays[f"total.{phase}.{part}"] for part in PARTS}
    for part, array in parts.items():
        _check(f"total.{phase}.{part}", array, (layers, *shapes.get(part, (own,))))
    return parts


def _check(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")


def _questions(head: TraceHead, arrays: Mapping[str, np.ndarray], groups: ExpertGroups) -> list[TracedQuestion]:
    by_phase = {phase: _decisions(phase, head, arrays, groups) for phase in PHASES}
    questions, start = [], 0
    for number, said in enumerate(head.questions):
        phases = {phase: parts[number] for phase, parts in by_phase.items() if parts[number].num_tokens}
        stop = start + by_phase["prefill"][number].num_tokens
        picture_of = arrays["picture_of"][start:stop]
        start = stop
        _check(f"picture_of of question {said.id!r}", picture_of, (by_phase["prefill"][number].num_tokens,))
        questions.append(_question(said, number, picture_of, phases, arrays))
    return questions


def _decisions(phase: str, head: TraceHead, arrays: Mapping[str, np.ndarray], groups: ExpertGroups) -> list[Decisions]:
    lengths = arrays[f"{phase}.length"]
    _check(f"{phase}.length", lengths, (len(head.questions),))
    layers, tokens = len(head.layers), int(lengths.sum())
    if not tokens:
        nothing = np.zeros((layers, 0, 1))
        return [Decisions(nothing, nothing, nothing[..., 0], np.zeros(0, np.uint8))] * len(lengths)
    index, weights, entropy, group = (arrays[f"{phase}.{name}"] for name in ("index", "weights", "entropy", "group"))
    _check(f"{phase}.index", index, (layers, tokens, *index.shape[2:3]))
    _check(f"{phase}.weights", weights, index.shape)
    _check(f"{phase}.entropy", entropy, (layers, tokens))
    _check(f"{phase}.group", group, (tokens,))
    if index.max() >= groups.num_experts or group.max() >= len(groups.names):
        raise ValueError(f"{phase} names expert {index.max()} of {groups.num_experts}, or an unknown modality")
    ends = np.cumsum(lengths)[:-1]
    return [
        Decisions(*parts)
        for parts in zip(
            *(np.split(array, ends, axis=1) for array in (index, weights, entropy)), np.split(group, ends), strict=True
        )
    ]


def _question(
    said: QuestionHead,
    number: int,
    picture_of: np.ndarray,
    phases: dict[str, Decisions],
    arrays: Mapping[str, np.ndarray],
) -> TracedQuestion:
    pictures = []
    for place, picture in enumerate(said.pictures):
        png = arrays[f"picture.{number}.{place}"].tobytes() if picture.stored else None
        patches = int((picture_of == place).sum())
        if picture.grid is not None and picture.grid[0] * picture.grid[1] != patches:
            raise ValueError(f"question {said.id!r}: {patches} patches, but a grid of {picture.grid}")
        pictures.append(ShownPicture(picture.grid, png))
    remaining = iter(said.words)
    words = [next(remaining, "") if place < 0 else "" for place in picture_of.tolist()]
    if len(said.words) != int((picture_of < 0).sum()):
        raise ValueError(f"question {said.id!r}: {len(said.words)} words for {int((picture_of < 0).sum())} positions")
    return TracedQuestion(
        said.id, said.question, said.answer, said.expected, said.note,
        words, said.generated, picture_of, pictures, phases,
    )  # fmt: skip
