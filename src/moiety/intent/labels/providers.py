"""Tables of label descriptions: taken from a file, or written by a language model, cached reply by reply.

What :func:`describe_labels` returns, written as JSON, is what ``IntentClassifier(label_descriptions=FILE)`` reads.
Training itself never asks a model: it reads a table.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from moiety.groups import nearest_name
from moiety.intent.labels.descriptions import descriptions_for, load_table
from moiety.intent.labels.prompt import Message, ReplyError, ask_again, label_prompt, parse_reply
from moiety.intent.labels.provider_hf import LocalWriter
from moiety.intent.labels.provider_openai import EndpointWriter
from moiety.records.saving import write_atomically

logger = logging.getLogger(__name__)

PROVIDERS = ("file", "hf", "openai")
CACHE_VERSION = 1


class Writer(Protocol):
    """A language model that can be asked; a new provider is a class like this."""

    name: str
    model: str

    def settings(self) -> dict[str, Any]:
        """Everything beside model and prompt that decides the reply, as JSON values; part of the cache key."""

    def reply(self, messages: Sequence[Message]) -> str:
        """The answer to a conversation that ends with the user."""


class DescriptionError(RuntimeError):
    """A model gave no usable description of some labels; the text shows what it said of each."""


def describe_labels(
    labels: Sequence[str] | Mapping[str, str],
    *,
    provider: str | Writer = "file",
    domain: str = "",
    num: int = 3,
    model: str | None = None,
    base_url: str | None = None,
    key_variable: str | None = None,
    decoding: Mapping[str, Any] | None = None,
    source: Any = "auto",
    field: str = "description",
    cache: str | Path | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """A table with descriptions of exactly these labels.

    Args:
        labels: Strings of the data, or label -> readable name where the label is a code.
        provider: ``file``, ``hf`` (a local causal language model), ``openai`` (any server with that protocol), or a
            writer of your own.
        domain: Where the utterances come from, in a few words; a model writes better when it knows.
        num: Descriptions of each label that a model writes.
        model: And `base_url`, `key_variable`, `decoding`: as in :class:`LocalWriter` and :class:`EndpointWriter`.
        source: ``file``: a path, a mapping, or ``auto`` for the shipped table with these labels.
        field: ``file``: which field holds the text, for instance ``description_ja``.
        cache: Folder of earlier replies; a label found there is not asked for again.
        on_progress: Called before each label with labels done, labels in all, and the label.

    Returns:
        ``{"provider", "model", "created", …, "labels": [{"label", "name", "description": [...], …}]}``, JSON values.

    Raises:
        ValueError: labels or arguments cannot be used, or a file does not cover the labels.
        DescriptionError: replies stayed unusable after one more try; good ones are in `cache` by then.
        EndpointError: the server refused or stayed silent.
    """
    names = _checked_names(labels, num)
    given = {"model": model, "base_url": base_url, "key_variable": key_variable, "decoding": decoding}
    if provider == "file":
        return _from_file(list(names), source, field, given)
    writer = _writer(provider, given)
    entries = _all_described(writer, names, domain, num, cache, on_progress)
    settings = {"domain": domain, "num": num, "decoding": writer.settings()}
    return {"provider": writer.name, "model": writer.model, "created": _today(), **settings, "labels": entries}


def write_table(table: Mapping[str, Any], path: str | Path) -> Path:
    """Write what :func:`describe_labels` returned as JSON, whole or not at all."""
    path = Path(path)
    write_atomically(path, json.dumps(table, ensure_ascii=False, indent=1) + "\n")
    return path


@dataclass(frozen=True)
class TableCheck:
    """A table beside the labels of a data set.

    Args:
        missing: Label without description -> the described label most like it, or None.
        superfluous: Described label that the data does not have -> the label most like it, or None.
    """

    missing: Mapping[str, str | None]
    superfluous: Mapping[str, str | None]

    @property
    def complete(self) -> bool:
        """Whether every label is described; superfluous ones do no harm."""
        return not self.missing

    def lines(self) -> list[str]:
        """One line a difference, for people."""
        lacking = [f"no description of {label!r}{_hint(near)}" for label, near in self.missing.items()]
        return lacking + [
            f"{label!r} is described, but no label of the data{_hint(near)}" for label, near in self.superfluous.items()
        ]


def check_table(source: Any, labels: Sequence[str], field: str = "description") -> TableCheck:
    """Compare a table of descriptions with the labels of a data set.

    Args:
        source: Path of JSON or YAML, or a mapping.
        labels: Strings of the data; repeated ones count once.
        field: Which field holds the text.
    """
    table, known = load_table(source, field), sorted(set(labels))
    missing = [label for label in known if label not in table]
    superfluous = sorted(set(table) - set(known))
    return TableCheck(
        {label: _nearest(label, superfluous or table) for label in missing},
        {label: _nearest(label, missing or known) for label in superfluous},
    )


def _nearest(label: str, known: Any) -> str | None:
    """The name most like `label`, without regard to case and signs."""
    plain = {"".join(filter(str.isalnum, name.lower())): name for name in known}
    close = difflib.get_close_matches("".join(filter(str.isalnum, label.lower())), plain, n=1)
    return plain[close[0]] if close else None


def _hint(near: str | None) -> str:
    return f"; nearest: {near!r}" if near else ""


def _checked_names(labels: Sequence[str] | Mapping[str, str], num: int) -> dict[str, str]:
    """Label -> readable name.

    Raises:
        ValueError: there is none, one stands twice, or one is blank or no string (all are named at once); or none is to
            be written of each.
    """
    if num < 1:
        raise ValueError(f"num is the number of descriptions of a label, at least 1, got {num}")
    pairs = list(labels.items()) if isinstance(labels, Mapping) else [(label, label) for label in labels]
    if isinstance(labels, str) or not pairs:
        raise ValueError(f"labels is a list of strings or a mapping label -> name with at least one, got {labels!r}")
    wrong = [f"{pair!r} is no string" for pair in pairs if not all(isinstance(part, str) for part in pair)]
    wrong = wrong or [f"{label!r} is blank" for label, name in pairs if not label.strip() or not name.strip()]
    seen = [label for label, _ in pairs if not wrong]
    wrong += [f"{label!r} stands {seen.count(label)} times" for label in sorted(set(seen)) if seen.count(label) > 1]
    if wrong:
        raise ValueError(f"labels cannot be used: {'; '.join(wrong)}")
    return dict(pairs)


def _writer(provider: str | Writer, given: Mapping[str, Any]) -> Writer:
    """The writer of that name, or the one that was given.

    Raises:
        ValueError: there is none, or its arguments are missing or another provider's.
    """
    if not isinstance(provider, str):
        if foreign := [name for name, value in given.items() if value]:
            raise ValueError(f"{', '.join(foreign)}: a writer of your own was made with its settings; leave these out")
        return provider
    if provider not in PROVIDERS:
        raise ValueError(f"unknown provider {provider!r}; {nearest_name(provider, PROVIDERS)}")
    model, base_url, key_variable = given["model"], given["base_url"], given["key_variable"]
    if not model:
        what = "an id or folder" if provider == "hf" else "its name at the server"
        raise ValueError(f"provider {provider!r} needs model: {what}")
    if provider == "hf":
        if base_url or key_variable:
            raise ValueError("provider 'hf' runs on this machine; base_url and key_variable belong to 'openai'")
        return LocalWriter(model, given["decoding"])
    if not base_url:
        raise ValueError("provider 'openai' needs base_url, for instance http://localhost:8000/v1")
    return EndpointWriter(model, base_url, key_variable, given["decoding"])


def _from_file(labels: list[str], source: Any, field: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a file, in the form of the other providers."""
    foreign = [name for name, value in given.items() if value]
    if foreign:
        raise ValueError(f"provider 'file' asks no model; leave out {', '.join(foreign)}, or choose 'hf' or 'openai'")
    table = descriptions_for(source, labels, field)
    entries = []
    for entry in table.values():
        told = asdict(entry) | {"description": list(entry.descriptions)}
        entries.append({key: value for key, value in told.items() if value is not None and key != "descriptions"})
    shown = "a mapping" if isinstance(source, Mapping) else str(source)
    return {"provider": "file", "model": None, "created": _today(), "source": shown, "labels": entries}


def _all_described(
    writer: Writer,
    names: Mapping[str, str],
    domain: str,
    num: int,
    cache: str | Path | None,
    on_progress: Callable[[int, int, str], None] | None,
) -> list[dict[str, Any]]:
    """One entry a label; those that fail do not keep the others from being asked and cached.

    Raises:
        DescriptionError: some failed; each is told.
    """
    entries, failed = [], []
    for done, (label, name) in enumerate(names.items()):
        if on_progress is not None:
            on_progress(done, len(names), label)
        try:
            entries.append({"label": label, "name": name} | _described(writer, name, names, domain, num, cache))
        except ReplyError as error:
            logger.warning("no description of label %r: %s", label, error)
            failed.append(f"{label!r}: {error}")
    if failed:
        raise DescriptionError(
            f"model {writer.model!r} described {len(entries)} of {len(names)} labels. After one more try:\n"
            + "\n".join(failed)
        )
    return entries


def _described(
    writer: Writer, name: str, names: Mapping[str, str], domain: str, num: int, cache: str | Path | None
) -> dict[str, Any]:
    """Description and provenance of one label, from the cache or from the model.

    Raises:
        ReplyError: both replies are unusable.
    """
    prompt = label_prompt(name, list(names.values()), domain=domain, num=num)
    facts = {"provider": writer.name, "model": writer.model, "num": num, "settings": writer.settings()}
    asked = {"version": CACHE_VERSION, **facts, "prompt": prompt}
    path = Path(cache) / f"{_sha256(json.dumps(asked, sort_keys=True))}.json" if cache is not None else None
    sentences = _cached(path, asked)
    if sentences is None:
        sentences = _asked(writer, prompt, num)
        if path is not None:
            write_atomically(path, json.dumps(asked | {"description": sentences}, ensure_ascii=False, indent=1))
    return {"description": sentences, "prompt_sha256": _sha256(prompt)}


def _cached(path: Path | None, asked: Mapping[str, Any]) -> list[str] | None:
    """An earlier reply to the same question; a file that somebody damaged counts as none."""
    if path is None or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
        if {key: found[key] for key in asked} == asked:
            return parse_reply(json.dumps(found["description"]), asked["num"])
    except (ValueError, KeyError, TypeError):
        pass
    logger.warning("%s is no reply of this cache; the label is asked for again", path)
    return None


def _asked(writer: Writer, prompt: str, num: int) -> list[str]:
    """Ask, and once more where the first reply is unusable.

    Raises:
        ReplyError: the second one is, too; the text shows it.
    """
    messages: list[Message] = [{"role": "user", "content": prompt}]
    first = writer.reply(messages)
    try:
        return parse_reply(first, num)
    except ReplyError as problem:
        logger.info("a reply of %s cannot be used: %s", writer.model, problem)
        messages += [{"role": "assistant", "content": first}, {"role": "user", "content": ask_again(problem, num)}]
    second = writer.reply(messages)
    try:
        return parse_reply(second, num)
    except ReplyError as problem:
        raise ReplyError(f"{problem}; the reply: {second[:500]!r}") from problem


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
