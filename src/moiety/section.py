"""What every section of a recipe is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _zero_and_one(value: Any) -> Any:
    """0 and 1 switch off and on, as people write them on a command line; every other number stays an error."""
    return bool(value) if type(value) is int and value in (0, 1) else value


Switch = Annotated[bool, BeforeValidator(_zero_and_one)]


class Section(BaseModel):
    """Base of all sections: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
