"""The pages of keys say what the code reads."""

from pathlib import Path

import pytest

from moiety.cli.recipe_keys import meaning_of, recipe_page, sections_of
from moiety.recipe.recipe import Recipe
from moiety.vlm.row_keys import CARRIED, REFUSED, ROW_KEYS, TURN_KEYS

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_recipe_keys_is_what_the_sections_say() -> None:
    assert (DOCS / "recipe-keys.md").read_text(encoding="utf-8") == recipe_page()


def test_every_key_of_a_recipe_has_a_meaning() -> None:
    without = [
        f"{path}.{name}"
        for path, section in sections_of(Recipe)
        for name, field in section.model_fields.items()
        if not meaning_of(field)
    ]
    assert without == []


@pytest.mark.parametrize(
    "line",
    [
        *(f"| `{key}` | {meaning} |" for table in (ROW_KEYS, TURN_KEYS) for key, meaning in table.items()),
        *(
            f"| {kind} | {', '.join(f'`{key}`' for key in keys.split())} | {remedy} |"
            for kind, (remedy, keys) in REFUSED.items()
        ),
        ", ".join(f"`{key}`" for key in CARRIED.split()),
    ],
)
def test_the_page_of_rows_holds_the_tables_of_the_code(line: str) -> None:
    assert line in (DOCS / "rows.md").read_text(encoding="utf-8")
