"""What identifies a line of answers and a question: ids, pictures, categories, and the words of the question."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from moiety.evaluate.benchmarks.files.answer_files import AnswerFile, AnswerLine
from moiety.evaluate.benchmarks.rules.letters import LETTER_REQUEST
from moiety.evaluate.benchmarks.rules.yes_no import SHORT_ANSWER
from moiety.vlm.rows import Row

ID_KEYS = ("id", "question_id", "questionId", "index", "pid", "qid", "identifier")
QUESTION_KEYS = ("prompt", "question", "query", "text")
PICTURE_KEYS = ("image", "image_id", "imageId", "image_path", "image_name", "imgname", "image_source", "filename")
_CATEGORY_KEYS = ("category", "task", "split", "type", "question_type", "l2-category")
_PLACE_KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")
_ROUND = 1_000_000
_OPTION = re.compile(r"^\(?[A-Z][.):]\s")
_REQUESTS = (SHORT_ANSWER, LETTER_REQUEST, "Please answer yes or no.")
_MARK = re.compile(r"<(?:image|img)[^>]{0,80}>")
_NOT_WORDS = re.compile(r"[\W_]+")
Names = frozenset[str]


def bare(text: str) -> str:
    """A question in lower case without image mark, options, request for a form and punctuation.

    Example:
        >>> bare("<image>\\nIs there a Dog?\\nAnswer the question using a single word or phrase.")
        'is there a dog'
        >>> bare("Which?\\nA. red\\nB. blue"), bare("?")
        ('which', '?')
    """
    text = _MARK.sub(" ", text)
    for request in _REQUESTS:
        text = text.replace(request, "\n")
    lines = [line.strip() for line in text.split("\n")]
    kept = " ".join(line for line in lines if not _OPTION.match(line))
    return plain(kept) or kept.strip()


def plain(text: str) -> str:
    """The words in lower case, without punctuation. Full-width signs become plain ones."""
    return _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()


def common_ids(file: AnswerFile) -> list[str]:
    """Keys of ids that every line has."""
    return [
        key for key in (*ID_KEYS, "image") if all(isinstance(line.fields.get(key), str | int) for line in file.lines)
    ]


def spellings(line: AnswerLine, key: str, words: Sequence[str]) -> Iterator[str]:
    """The spellings of an id: unchanged, after its category, and as in a round of MMBench."""
    name = str(line.fields[key])
    turn = line.fields.get("round_id")
    if isinstance(turn, int) and turn and name.isdecimal():
        yield str(int(name) + turn * _ROUND)
        return
    told = [str(line.fields[one]) for one in _CATEGORY_KEYS if isinstance(line.fields.get(one), str)]
    for category in [*told, *words]:  # of several at once an id says nothing
        yield f"{category}/{name}"
    yield name
    if key == "question_id":
        yield f"v1_{name}"  # MM-Vet in the LLaVA line


def places(line: AnswerLine) -> Iterator[str]:
    """The place of a question of HallusionBench: five fields, or two fields and the end of VLMEvalKit's index."""
    fields = line.fields
    if all(key in fields for key in _PLACE_KEYS):
        yield "/".join(str(fields[key]) for key in _PLACE_KEYS)
    numbers = re.search(r"_(\d+)_(\d+)_(\d+)$", str(fields.get("index", "")))
    if numbers and {"category", "l2-category"} <= fields.keys():
        yield "/".join([str(fields["category"]), str(fields["l2-category"]), *numbers.groups()])


def questions_in(line: AnswerLine) -> list[str]:
    """Questions in a line. ``text`` counts only if there is no other, because some tools write the reply there."""
    found = [str(line.fields[key]) for key in QUESTION_KEYS[:-1] if isinstance(line.fields.get(key), str)]
    return [text for text in found if text.strip()]


def shown_question(line: AnswerLine) -> str:
    """The first question of a line for a message: its first line, short."""
    text = questions_in(line)[0].replace("<image>", "").strip()
    return f"{text.splitlines()[0]!r:.50}"


def categories_in(line: AnswerLine) -> list[str]:
    """Categories of a line; VLMEvalKit joins those of one question with commas."""
    texts = [str(line.fields[key]) for key in _CATEGORY_KEYS if isinstance(line.fields.get(key), str)]
    return [part.strip() for text in texts for part in (text, *text.split(","))]


def _words_of_picture(name: str) -> Iterator[str]:
    path = PurePosixPath(name)
    yield from (name, path.name, path.stem, "/".join(path.parts[-2:]))


def names_of_row(row: Row) -> Names:
    """Names that tools give a question: its id, also after its category; its pictures, with and without folder."""
    names = {row.id, row.id.rpartition("/")[2], str(row.extra.get("picture", row.id))}
    return frozenset(names.union(*map(_words_of_picture, row.images)))


def names_of_line(line: AnswerLine, key: str) -> Names:
    """The names of a question or picture in a line under one key, with the nearest folder if there is one."""
    name = str(line.fields.get(key, ""))
    return frozenset([name]) if "/" not in name else frozenset(("/".join(name.split("/")[-2:]), name))


def tails_of_line(line: AnswerLine, key: str) -> Names:
    """The same names without folder and ending."""
    return frozenset(_words_of_picture(str(line.fields.get(key, ""))))
