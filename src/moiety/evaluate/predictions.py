"""The file of answers: one line an answer, added as it is made, so that a stopped evaluation goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moiety.json_reader import parse_json


class PredictionFile:
    """Answers by row id in a JSON-lines file whose first line names the settings they were made with.

    Lines are written in one piece and flushed to disk. A last line that a killed process left torn is cut off.

    Args:
        path: The file; made, with its folder, when absent.
        settings: What the answers depend on. A file made with other settings is refused.

    Raises:
        ValueError: the file was made with other settings, or a line before the last is not an answer.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))
        self.answers: dict[str, str] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if self.path.exists() else 0
        with self.path.open("ab") as file:
            file.truncate(whole)
        if whole == 0:
            self._write([{"settings": self.settings}])

    def add(self, answers: Mapping[str, str]) -> None:
        """Append answers, row id -> text."""
        self._write([{"id": name, "prediction": text} for name, text in answers.items()])
        self.answers.update(answers)

    def _write(self, records: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        with self.path.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> int:
        """Fill `answers`; returns the length in bytes of the whole lines."""
        whole = 0
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True), start=1):
            if not line.endswith(b"\n"):
                break
            try:
                self._take(parse_json(line), number)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}:{number} is not a line of predictions ({error!r}); "
                    "delete the file or choose another one"
                ) from error
            whole += len(line)
        return whole

    def _take(self, record: dict[str, Any], number: int) -> None:
        if number > 1:
            self.answers[record["id"]] = record["prediction"]
            return
        given = record["settings"]
        if given != self.settings:
            keys = [key for key in self.settings | given if self.settings.get(key) != given.get(key)]
            changes = ", ".join(f"{key}: {given.get(key)!r} there, {self.settings.get(key)!r} now" for key in keys)
            raise ValueError(
                f"{self.path} holds answers made with other settings ({changes}); delete the file or choose another one"
            )
