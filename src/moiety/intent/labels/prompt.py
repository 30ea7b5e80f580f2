"""The prompt that asks a language model to describe a label, and the check of its reply."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

Message = dict[str, str]
"""One turn of a conversation: ``role`` (``user`` or ``assistant``) and ``content``."""

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n```\Z", re.DOTALL)


class ReplyError(ValueError):
    """A reply is not what was asked for; the text says why."""


def label_prompt(label: str, labels: Sequence[str], *, domain: str, num: int) -> str:
    """The prompt for one label.

    The model sees all labels, because a good description tells a label from those that are most like it.

    Args:
        label: Readable name of the label.
        labels: Readable names of all labels, including this one.
        domain: Where the utterances come from, for instance ``scenes of a TV series``; blank: it is not mentioned.
        num: Number of sentences that are asked for, at least 1.
    """
    where = f"The utterances come from this domain: {domain.strip()}\n" if domain.strip() else ""
    return (
        "People speak, and each utterance gets one label that names the speaker's intent.\n"
        f"{where}All labels: {json.dumps(list(labels), ensure_ascii=False)}\n"
        f"The label in question: {json.dumps(label, ensure_ascii=False)}\n"
        f"Write {num} {'sentence' if num == 1 else 'different sentences'} that tell this intent from the labels most "
        "like it: what a speaker with this intent wants, what such a speaker says, and what voice, face and gesture "
        "show.\n"
        f"Answer with nothing but a JSON list of {num} string{'' if num == 1 else 's'}."
    )


def ask_again(problem: ReplyError, num: int) -> str:
    """The message after a reply that could not be used."""
    return (
        f"That reply cannot be used: {problem}. Answer with nothing but a JSON list of {num} "
        f"string{'' if num == 1 else 's'}, no text before or after it."
    )


def parse_reply(reply: str, num: int) -> list[str]:
    """The sentences of a reply.

    A ``<think>`` block at the start and one Markdown fence around the rest are removed first.

    Args:
        reply: The reply of the model.
        num: Number of sentences that were asked for.

    Raises:
        ReplyError: the rest is not a JSON list of `num` different strings that are not blank.

    Example:
        >>> parse_reply('["Says thanks.", " Shows relief. "]', 2)
        ['Says thanks.', 'Shows relief.']
    """
    bare = _THOUGHT.sub("", reply).strip()
    fenced = _FENCE.match(bare)
    try:
        found = json.loads(fenced.group(1) if fenced else bare)
    except (ValueError, RecursionError) as error:
        raise ReplyError(f"it is no JSON ({error})" if bare else "it is empty") from error
    if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
        raise ReplyError(f"it is JSON, but no list of {num} strings")
    sentences = [" ".join(part.split()) for part in found]
    if len(sentences) != num:
        raise ReplyError(f"it lists {len(sentences)} strings, {num} were asked for")
    if not all(sentences):
        raise ReplyError("a string in it is blank")
    if len(set(sentences)) < num:
        raise ReplyError("a string is in it twice")
    return sentences
