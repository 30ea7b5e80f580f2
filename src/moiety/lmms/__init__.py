"""Plug-in of lmms-eval: ``python -m lmms_eval --model moiety --model_args pretrained=FOLDER``.

lmms-eval finds :func:`manifest` by the entry point ``lmms_eval.models``. ``asked`` reads what a task asks;
``model`` is the class that lmms-eval instantiates, and the only module that imports lmms-eval.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The entry of the model for lmms-eval: its name and the place of its class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="moiety", chat_class_path="moiety.lmms.model.Moiety")
