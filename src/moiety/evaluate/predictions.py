"""The file of answers: one line for each answer, written when it is made. A stopped evaluation continues from it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moiety.evaluate.identities import identity_of
from moiety.records.json_reader import parse_json
from moiety.vlm.rows import Row


class PredictionFile:
    """Answers by row id in a JSON-lines file whose first line names the settings they were made with.

    A line holds the row's id, the fingerprint ``asked`` of what was asked, the answer and, if other rows have the same
    id, the question. An answer to another question with the same id is not used for this row. Lines are written in one
    piece and flushed to disk. If a killed process left an incomplete last line, that line is removed.

    Args:
        path: The file; made, with its folder, when absent.
        settings: What the answers depend on. A file made with other settings is refused.
        rows: The questions, as :func:`moiety.evaluate.identities.told_apart` returns them. None: every line of the file
            is read under its id.

    Raises:
        ValueError: the file was made with other settings, or a line before the last is not an answer.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any], rows: Sequence[Row] | None = None) -> None:
        self.path = Path(path)
        self.settings = json.loads(json.dumps(settings))
        self.answers: dict[str, str] = {}
        self._identities = None if rows is None else {row.id: identity_of(row) for row in rows}
        self._names: dict[tuple[str, str | None], list[str]] = {}
        for name, known in (self._identities or {}).items():
            self._names.setdefault((known.id, known.asked), []).append(name)
            self._names.setdefault((known.id, None), []).append(name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if self.path.exists() else 0
        with self.path.open("ab") as file:
            file.truncate(whole)
        if whole == 0:
            self._write([{"settings": self.settings}])

    def add(self, answers: Mapping[str, str]) -> None:
        """Append answers to the file: row id -> text."""
        self._write([{**self._said_of(name), "prediction": text} for name, text in answers.items()])
        self.answers.update(answers)

    def _said_of(self, name: str) -> dict[str, str]:
        if self._identities is None:
            return {"id": name}
        known = self._identities[name]
        said = {"id": known.id, "asked": known.asked}
        return said if known.question is None else said | {"question": known.question}

    def _named(self, own: str, asked: str | None) -> list[str]:
        """The ids of the rows of this run that a line answers."""
        return [own] if self._identities is None else self._names.get((own, asked), [])

    def _write(self, records: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        try:
            with self.path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                f"could not write {self.path}: {error}; the answers that were written before are kept. Free some space "
                "and run the same command again to go on from them"
            ) from error

    def _read(self) -> int:
        """Fill `answers`. Returns the length of all complete lines in bytes."""
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
            names = self._named(record["id"], record.get("asked"))
            if "asked" not in record and len(names) > 1:
                raise ValueError(
                    f"{self.path}:{number}: {len(names)} rows have the id {record['id']!r}, and the line does not say "
                    "which of them it answers; delete the file or choose another one"
                )
            self.answers.update(dict.fromkeys(names, record["prediction"]))
            return
        given = record["settings"]
        if given != self.settings:
            keys = [key for key in self.settings | given if self.settings.get(key) != given.get(key)]
            changes = ", ".join(f"{key}: {given.get(key)!r} there, {self.settings.get(key)!r} now" for key in keys)
            raise ValueError(
                f"{self.path} holds answers made with other settings ({changes}); delete the file or choose another one"
            )
