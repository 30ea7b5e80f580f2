"""The module in a model folder through which programs that do not know moiety find its classes.

A folder of ours has a model type of ours. Where moiety is imported, transformers knows it. Elsewhere it follows
``auto_map`` in config.json to the small module in the folder, with ``trust_remote_code=True``; the module asks moiety
for the classes. Where moiety is not installed, transformers finds that import in the module and says
``pip install moiety``. Our own doors never run code of a folder; they know their classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODULE = "modeling_moiety"
"""Name of the module that lies in every folder of a model of ours."""
AUTO_MAP = {
    "AutoConfig": f"{MODULE}.Config",
    "AutoModel": f"{MODULE}.Base",
    "AutoModelForImageTextToText": f"{MODULE}.Model",
    "AutoModelForMultimodalLM": f"{MODULE}.Model",
}
"""Auto class -> what the module has for it."""
_TEXT = '''"""A model of moiety: this file asks the package for its classes."""
from moiety.vlm.model import classes_of
Config, Base, Model = classes_of("{model_type}")
'''


class SavesItsModule:
    """Mixin in front of a config class: with config.json it writes the module that ``auto_map`` names."""

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, and :data:`MODULE` beside it."""
        done = super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        text = _TEXT.format(model_type=self.model_type)  # type: ignore[attr-defined]
        Path(save_directory, f"{MODULE}.py").write_text(text, encoding="utf-8")
        return done

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: transformers would copy files of this package into folders, but the module stands there already."""
