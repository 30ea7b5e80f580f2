"""Example pictures and questions: scenes of handwritten digits, drawn on this machine without any download."""

from __future__ import annotations

from pathlib import Path

from moiety.vlm.images import Images
from moiety.vlm.rows import IMAGE_MARK, load_rows
from moiety.worlds.scenes import TYPES, write_scenes

SCENES = 20  # the fewest that write_scenes makes


def write_examples(folder: Path) -> list[tuple[str, str]]:
    """Write one picture for each type of question about scenes. None was in the training data of ``moiety demo``.

    Args:
        folder: Where the pictures go.

    Returns:
        Pairs of picture file and question, one for each type.
    """
    scenes = write_scenes(folder / "scenes", num_train=SCENES, num_test=SCENES, seed=0)
    pictures = Images(scenes.images)
    found: dict[str, tuple[str, str]] = {}
    used: set[str] = set()
    for row in load_rows([scenes.test]):
        kind, name = str(row.type), row.images[0]
        if kind in TYPES and kind not in found and name not in used:
            used.add(name)
            file = folder / f"{kind}.png"
            pictures[name].save(file)
            found[kind] = str(file), row.turns[0].text.replace(IMAGE_MARK, "").strip()
    return [found[kind] for kind in TYPES if kind in found]
