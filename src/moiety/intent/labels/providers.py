"""Makes tables of label descriptions: from a file, or by a language model whose replies are cached one by one.

:func:`describe_labels` returns a table. Written as JSON, it is read by ``IntentClassifier(label_descriptions=FILE)``.
Training never asks a language model; it only reads a table.
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
    """A language model that writes descriptions. A new provider is a class with these methods."""

    name: str
    model: str

    def settings(self) -> dict[str, Any]:
        """All settings that decide the reply, besides model and prompt, as JSON values; part of the cache key."""

    def reply(self, messages: Sequence[Message]) -> str:
        """The reply to a conversation whose last message is from the user."""


class DescriptionError(RuntimeError):
    """A model gave no usable description of some labels; the text shows its reply for each of them."""


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
    """A table that describes exactly these labels.

    Args:
        labels: The labels of the data; or label -> readable name, if the labels are codes.
        provider: ``file``, ``hf`` (a local causal language model), ``openai`` (any server with that protocol), or an
            object with the methods of :class:`Writer`.
        domain: Where the utterances come from, in a few words; a model then writes better descriptions.
        num: Number of descriptions of each label that a model writes.
        model: The model, as :class:`LocalWriter` or :class:`EndpointWriter` takes it.
        base_url: Address of the server, as :class:`EndpointWriter` takes it.
        key_variable: Environment variable with the key, likewise.
        decoding: Settings of the decoding, as the writer takes them.
        source: For ``file``: a path, a mapping, or ``auto`` for the shipped table with these labels.
        field: For ``file``: the field that holds the text, for instance ``description_ja``.
        cache: Folder of earlier replies; labels that are there are not asked for again.
        on_progress: Called before each label with (labels done, labels in all, the label).

    Returns:
        ``{"provider", "model", "created", …, "labels": [{"label", "name", "description": [...], …}]}``, JSON values.

    Raises:
        ValueError: labels or arguments cannot be used, or a file does not describe all labels.
        DescriptionError: some replies could not be used, even after a second try. The good ones are in `cache` by then.
        EndpointError: the server refused, or did not answer.
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
    """Write a table that :func:`describe_labels` returned as JSON, whole or not at all."""
    path = Path(path)
    write_atomically(path, json.dumps(table, ensure_ascii=False, indent=1) + "\n")
    return path


@dataclass(frozen=True)
class TableCheck:
    """The differences between a table and the labels of a data set.

    Args:
        missing: Label without a description -> the described label most like it, or None.
        superfluous: Described label that the data does not have -> the label of the data most like it, or None.
    """

    missing: Mapping[str, str | None]
    superfluous: Mapping[str, str | None]

    @property
    def complete(self) -> bool:
        """Whether every label is described. Superfluous descriptions do no harm."""
        return not self.missing

    def lines(self) -> list[str]:
        """One line for each difference, for people."""
        lacking = [f"no description of {label!r}{_hint(near)}" for label, near in self.missing.items()]
        return lacking + [
            f"{label!r} is described, but is no label of the data{_hint(near)}"
            for label, near in self.superfluous.items()
        ]


def check_table(source: Any, labels: Sequence[str], field: str = "description") -> TableCheck:
    """Compare a table of descriptions with the labels of a data set.

    Args:
        source: Path of JSON or YAML, or a mapping.
        labels: Labels of the data; repeated ones count once.
        field: The field that holds the text.
    """
    table, known = load_table(source, field), sorted(set(labels))
    missing = [label for label in known if label not in table]
    superfluous = sorted(set(table) - set(known))
    return TableCheck(
        {label: _nearest(label, superfluous or table) for label in missing},
        {label: _nearest(label, missing or known) for label in superfluous},
    )


def _nearest(label: str, known: Any) -> str | None:
    """The name most like `label`, ignoring case and punctuation."""
    plain = {"".join(filter(str.isalnum, name.lower())): name for name in known}
    close = difflib.get_close_matches("".join(filter(str.isalnum, label.lower())), plain, n=1)
    return plain[close[0]] if close else None


def _hint(near: str | None) -> str:
    return f"; nearest: {near!r}" if near else ""


def _checked_names(labels: Sequence[str] | Mapping[str, str], num: int) -> dict[str, str]:
    """Label -> readable name.

    Raises:
        ValueError: there is no label, a label is repeated, blank or not a string (all of these are named at once), or
            `num` is less than 1.
    """
    if num < 1:
        raise ValueError(f"num is the number of descriptions of a label, at least 1, got {num}")
    pairs = list(labels.items()) if isinstance(labels, Mapping) else [(label, label) for label in labels]
    if isinstance(labels, str) or not pairs:
        raise ValueError(f"labels is a list of strings or a mapping label -> name with at least one, got {labels!r}")
    wrong = [f"{pair!r} is no string" for pair in pairs if not all(isinstance(part, str) for part in pair)]
    wrong = wrong or [f"{label!r} is blank" for label, name in pairs if not label.strip() or not name.strip()]
    seen = [label for label, _ in pairs if not wrong]
    wrong += [f"{label!r} is given {seen.count(label)} times" for label in sorted(set(seen)) if seen.count(label) > 1]
    if wrong:
        raise ValueError(f"labels cannot be used: {'; '.join(wrong)}")
    return dict(pairs)


def _writer(provider: str | Writer, given: Mapping[str, Any]) -> Writer:
    """The writer of that name, or the writer that was given.

    Raises:
        ValueError: there is no such writer, or arguments are missing or belong to another provider.
    """
    if not isinstance(provider, str):
        if foreign := [name for name, value in given.items() if value]:
            raise ValueError(
                f"{', '.join(foreign)}: the writer that you gave has its settings already; leave these out"
            )
        return provider
    if provider not in PROVIDERS:
        raise ValueError(f"unknown provider {provider!r}; {nearest_name(provider, PROVIDERS)}")
    model, base_url, key_variable = given["model"], given["base_url"], given["key_variable"]
    if not model:
        what = "give an id or folder" if provider == "hf" else "give its name at the server"
        raise ValueError(f"provider {provider!r} needs a model; {what}")
    if provider == "hf":
        if base_url or key_variable:
            raise ValueError(
                "provider 'hf' runs on this machine, and base_url and key_variable belong to 'openai'; leave them out"
            )
        return LocalWriter(model, given["decoding"])
    if not base_url:
        raise ValueError("provider 'openai' needs base_url, for instance http://localhost:8000/v1")
    return EndpointWriter(model, base_url, key_variable, given["decoding"])


def _from_file(labels: list[str], source: Any, field: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a file, in the same form as those of the other providers."""
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
    """One entry for each label. If some fail, the others are still asked for and cached.

    Raises:
        DescriptionError: some failed; the text shows each of them.
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
        ReplyError: neither the first nor the second reply can be used.
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
    """An earlier reply to the same question; None if there is none, or if its file is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
        if {key: found[key] for key in asked} == asked:
            return parse_reply(json.dumps(found["description"]), asked["num"])
    except (ValueError, KeyError, TypeError):
        pass
    logger.warning("%s in the cache is damaged; the label is asked for again", path)
    return None


def _asked(writer: Writer, prompt: str, num: int) -> list[str]:
    """Ask the model, and once more if the first reply cannot be used.

    Raises:
        ReplyError: the second reply cannot be used either; the text shows it.
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
