"""Joins answers with questions: by id, by id and question, or by order where the questions of all lines agree.

An id alone is not always enough: in MME and TextVQA the id is the name of the picture, and POPE's own answers have no
id. Lines and questions are never paired by position alone. If order decides, every line also holds its question, and
all these questions agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from moiety.evaluate.benchmarks.files.answer_files import AnswerFile, AnswerLine
from moiety.evaluate.benchmarks.files.matching import (
    ID_KEYS,
    PICTURE_KEYS,
    Names,
    bare,
    categories_in,
    common_ids,
    names_of_line,
    names_of_row,
    places,
    questions_in,
    shown_question,
    spellings,
    tails_of_line,
)
from moiety.vlm.rows import Row

Found = list[list[Row]]
"""Of each line the rows that it may answer."""


@dataclass(frozen=True)
class Joined:
    """Lines of one file with the questions they answer.

    Args:
        file: The file.
        pairs: Each line with the ids of its questions: one, or one in each category where a line names several.
        how: How they were joined, in words.
    """

    file: AnswerFile
    pairs: Sequence[tuple[AnswerLine, tuple[str, ...]]]
    how: str


def join(file: AnswerFile, rows: Sequence[Row], benchmark: str) -> Joined:
    """Find the question of each line of `file`.

    Raises:
        ValueError: a line has neither id nor question, carries another question than its id, or could belong to
            several questions.
    """
    questions = _Questions(rows)
    file = questions.with_questions(file)
    differs: ValueError | None = None
    for key, names in _by_id(file, rows):
        try:
            questions.refuse_others(file, names, benchmark)
        except ValueError as error:
            differs = differs or error  # a running number may look like an id: its question tells
            continue
        return Joined(file, [(line, (name,)) for line, name in zip(file.lines, names, strict=True)], f"by {key}")
    if all(questions_in(line) for line in file.lines):
        known = sum(bool(questions.asking(line)) for line in file.lines)
        if known == len(file.lines):
            try:
                return questions.joined(file, benchmark)
            except ValueError as error:
                raise differs or error from None
        other = next(line for line in file.lines if not questions.asking(line))
        raise differs or ValueError(
            f"{other.place}: {shown_question(other)} is no question of {benchmark} in this folder; {known} of "
            f"{len(file.lines)} lines ask one of its questions: give answers to these questions"
        )
    return Joined(file, [(line, (_named(line),)) for line in file.lines], "by id")


# -- by id -------------------------------------------------------------------------------------------------------------
def _by_id(file: AnswerFile, rows: Sequence[Row]) -> Iterator[tuple[str, list[str]]]:
    """Keys whose values are ids of questions, each id once; and these ids."""
    known = {row.id for row in rows}
    words = sorted({row.type for row in rows if row.type and row.type in file.path.name}, key=len)
    spelt: dict[str, Callable[[AnswerLine], Iterator[str]]] = {
        key: lambda line, key=key: spellings(line, key, words[-1:])  # type: ignore[misc]
        for key in common_ids(file)
    }
    spelt["place"] = places
    for key, spelling in spelt.items():
        names = [next((name for name in spelling(line) if name in known), None) for line in file.lines]
        if None not in names and len(set(names)) == len(names):
            yield key, [str(name) for name in names]


def _named(line: AnswerLine) -> str:
    for key in ID_KEYS:
        if key in line.fields:
            return str(line.fields[key])
    found = ", ".join(map(repr, line.fields))
    raise ValueError(f"{line.place}: no id under any of {', '.join(ID_KEYS)}, and no question; it has {found:.80}")


class _Questions:
    """Rows by what they ask."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.asked: Mapping[str, Names] = {row.id: self._of(row) for row in rows}
        self.by_text: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            for text in self.asked[row.id]:
                self.by_text[text].append(row)

    @staticmethod
    def _of(row: Row) -> Names:
        prompt = next((turn.text for turn in reversed(row.turns) if turn.role == "user"), "")
        first = next((line for line in prompt.replace("<image>", "").split("\n") if line.strip()), "")
        told = row.extra.get("question")
        return frozenset(bare(text) for text in (prompt, first, *([told] if isinstance(told, str) else [])))

    def with_questions(self, file: AnswerFile) -> AnswerFile:
        """The file with ``text`` read as the question, if that field holds questions, as in POPE's own lines."""
        lines = file.lines
        if file.reply == "text" or any(questions_in(line) for line in lines):
            return file
        if all(bare(str(line.fields.get("text", ""))) in self.by_text for line in lines):
            lines = [AnswerLine(line.place, {**line.fields, "question": line.fields["text"]}) for line in lines]
        return replace(file, lines=lines)

    def asking(self, line: AnswerLine) -> list[Row]:
        """The rows with a question of this line. If no row asks the whole text, only its first line is compared."""
        for text in questions_in(line):
            for part in (text, text.replace("<image>", "").strip().split("\n")[0]):
                found = self.by_text.get(bare(part))
                if found:
                    return found
        return []

    def refuse_others(self, file: AnswerFile, names: Sequence[str], benchmark: str) -> None:
        """Raise an error for a line whose id belongs to one question and whose text belongs to another.

        Raises:
            ValueError: there is such a line, or more than half of the lines carry none of the questions.
        """
        unknown = []
        for line, name in zip(file.lines, names, strict=True):
            texts = questions_in(line)
            if not texts:
                continue
            spoken = [bare(text) for text in texts]
            if any(one in other or other in one for one in spoken for other in self.asked[name] if one and other):
                continue
            if self.asking(line):
                raise ValueError(
                    f"{line.place}: {name!r} carries the question {shown_question(line)}, which {benchmark} asks under "
                    "another id: answers and questions are of different versions; fetch both from one place"
                )
            unknown.append(line)
        if len(unknown) > len(file.lines) / 2:
            raise ValueError(
                f"{unknown[0].place}: {shown_question(unknown[0])} is not the question that {benchmark} asks "
                f"under this id, and so in {len(unknown)} of {len(file.lines)} lines: these answers belong to other "
                "questions"
            )

    def joined(self, file: AnswerFile, benchmark: str) -> Joined:
        """Join lines by their questions. Fields that all lines have, and at last the order, tell equal ones apart."""
        found, used = self._of_names(file, [self.asking(line) for line in file.lines])
        found, word = self._of_categories(file, found)
        used += word
        several = [tuple(row.id for row in rows) for rows in found]
        if _one_of_each_category(file.lines, found) and _is_once(several):
            return Joined(file, list(zip(file.lines, several, strict=True)), f"by {' and '.join(used)}")
        ordered = self._in_order(file)
        if ordered is None:
            raise _ambiguous(file, found, benchmark)
        return Joined(file, [(line, (name,)) for line, name in zip(file.lines, ordered, strict=True)], "by order")

    def _of_names(self, file: AnswerFile, found: Found) -> tuple[Found, list[str]]:
        """Rows that agree with the names in each line. A key that disagrees in one line is not used."""
        used = ["question"]
        names = {row.id: names_of_row(row) for row in self.rows}
        keys = [key for key in (*ID_KEYS, *PICTURE_KEYS) if all(key in line.fields for line in file.lines)]
        for spelt, key in ((spelt, key) for spelt in (names_of_line, tails_of_line) for key in keys):
            if max(map(len, found)) > 1:
                kept = _narrowed(found, [spelt(line, key) for line in file.lines], names)
                if kept is not None and kept != found:
                    found, used = kept, [*used, key]
        return found, used

    def _of_categories(self, file: AnswerFile, found: Found) -> tuple[Found, list[str]]:
        """Rows of the categories in the lines; if there are none, of the category in the file's name."""
        types = {row.id: frozenset([row.type or ""]) for row in self.rows}
        word = max((row.type for row in self.rows if row.type and row.type in file.path.name), key=len, default="")
        named = {
            "category": [frozenset(categories_in(line)) for line in file.lines],
            "name of the file": [frozenset([word])] * len(file.lines),
        }
        for how, wanted in named.items():
            kept = _narrowed(found, wanted, types)
            if kept is not None:
                return kept, [how] if kept != found else []
        return found, []

    def _in_order(self, file: AnswerFile) -> list[str] | None:
        """Ids in the order of the questions, or of whole categories, if the question in every line agrees."""
        texts = [{row.id for row in self.asking(line)} for line in file.lines]
        parts: dict[str | None, list[str]] = defaultdict(list)
        for row in self.rows:
            parts[row.type].append(row.id)
        words = [name for name in parts if name and name in file.path.name]
        named = [parts[max(words, key=len)]] if words else list(parts.values())
        whole = [row.id for row in self.rows]
        return _laid_out(texts, named) or (whole if len(whole) == len(texts) and _asks(texts, whole) else None)


def _narrowed(found: Found, wanted: Sequence[Names], names: Mapping[str, Names]) -> Found | None:
    """For each line, its rows with a wanted name; None if a line would keep no row."""
    kept = []
    for rows, called in zip(found, wanted, strict=True):
        kept.append([row for row in rows if not names[row.id].isdisjoint(called)])
        if not kept[-1]:
            return None
    return kept


def _ambiguous(file: AnswerFile, found: Found, benchmark: str) -> ValueError:
    """The error for lines that could belong to several questions."""
    for line, rows in zip(file.lines, found, strict=True):
        if len(rows) > 1:
            return ValueError(
                f"{line.place}: {len(rows)} questions of {benchmark} read so, first {rows[0].id!r} and "
                f"{rows[1].id!r}; give the id, the picture or the category beside the answer, or all answers in the "
                "order of the questions"
            )
    seen: set[str] = set()
    for line, (row,) in zip(file.lines, found, strict=True):
        if row.id in seen:
            return ValueError(f"{line.place}: {row.id!r} is answered a second time; each question has one answer")
        seen.add(row.id)
    raise AssertionError("every line has one question of its own")


def _laid_out(texts: Sequence[set[str]], parts: Sequence[Sequence[str]]) -> list[str] | None:
    """The only order of whole parts in which every line asks its question; None if there is none or more than one."""
    order: list[str] = []
    left = list(parts)
    while len(order) < len(texts):
        rest = texts[len(order) :]
        fits = [part for part in left if _asks(rest, part)]
        if len(fits) != 1:
            return None
        left.remove(fits[0])
        order += fits[0]
    return order


def _asks(texts: Sequence[set[str]], part: Sequence[str]) -> bool:
    return len(part) <= len(texts) and all(name in text for name, text in zip(part, texts, strict=False))


def _one_of_each_category(lines: Sequence[AnswerLine], found: Sequence[Sequence[Row]]) -> bool:
    """Whether each line has one question, or one in each of the categories it names."""
    for line, rows in zip(lines, found, strict=True):
        types = [row.type for row in rows]
        if len(rows) != 1 and not (len(set(types)) == len(types) and set(types) <= set(categories_in(line))):
            return False
    return True


def _is_once(names: Sequence[tuple[str, ...]]) -> bool:
    flat = [name for ids in names for name in ids]
    return len(set(flat)) == len(flat)
