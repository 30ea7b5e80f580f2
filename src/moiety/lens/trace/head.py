"""The JSON head of a saved trace: model, experts, settings and questions. Unknown keys are refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moiety.groups import ExpertGroup, ExpertGroups

FORMAT: Literal["moiety routing trace"] = "moiety routing trace"
VERSION: Literal[1] = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupHead(_Strict):
    """One expert group, see :class:`moiety.groups.ExpertGroup`."""

    name: str
    count: int = Field(ge=0)
    admits: tuple[str, ...]
    kind: str


class PictureHead(_Strict):
    """One picture of a question: rows and columns of its patches (null without a grid), and whether it is stored."""

    grid: tuple[int, int] | None
    stored: bool


class QuestionHead(_Strict):
    """One question whose decisions are kept; `words` are the texts of the positions that are no patch."""

    id: str
    question: str
    answer: str
    expected: str | None
    note: str
    words: list[str]
    generated: list[str]
    pictures: list[PictureHead]


class TraceHead(_Strict):
    """Everything in a trace except its arrays."""

    format: Literal["moiety routing trace"] = FORMAT
    version: Literal[1] = VERSION
    model: str
    scheme: str
    groups: list[GroupHead]
    modality_groups: dict[int, str]
    gates: list[tuple[str, ...]]
    layers: list[int] = Field(min_length=1)
    num_layers: int = Field(ge=1)
    settings: dict[str, Any]
    num_questions: int = Field(ge=0)
    questions: list[QuestionHead]

    def expert_groups(self) -> ExpertGroups:
        """The table of experts.

        Raises:
            ValueError: the groups contradict each other.
        """
        table = tuple(ExpertGroup(group.name, group.count, group.admits, group.kind) for group in self.groups)
        return ExpertGroups(table, self.modality_groups, tuple(self.gates))
