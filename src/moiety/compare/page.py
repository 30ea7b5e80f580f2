"""The comparison as one HTML file that needs nothing else: no script, no font, no request."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from moiety.compare.sentences import limits, made, result, sight, title_of, told_apart
from moiety.compare.summary import Comparison
from moiety.compare.table import (
    caption,
    conflict_table,
    contrast_table,
    cost_table,
    notes,
    score_table,
    start_notes,
    start_table,
)
from moiety.records.pages import (
    html_command,
    html_contrasts,
    html_figure,
    html_fold,
    html_heading,
    html_list,
    html_note,
    html_table,
    html_terms,
    report,
)
from moiety.stats.permutation import shown_p

CONTROLS = ("blank image", "majority", "question-only", "chance")
"""A row of the table whose name ends in one of these is a control and no scheme."""
WORDS = {
    "activated parameters": "the parameters that one token passes through; the cost of a token depends on these, "
    "not on the number of all parameters",
    "starts as the dense model": "before it is trained, the scheme computes what the dense model computes, so nothing "
    "that the dense model knew is lost",
    "text loss": "how badly a model predicts the next word of plain sentences, without a picture; less is better",
    "blank image": "the same model asked again with an empty picture: what it can answer without looking",
    "majority": "always the answer that is most frequent in training for this type of question",
    "question-only": "the most frequent training answer to the same question, word by word",
    "chance": "guessing among the options of a multiple-choice question",
}


def report_page(comparison: Comparison, pictures: Mapping[str, Path], commands: Mapping[str, str] | None = None) -> str:
    """HTML of the whole report.

    Args:
        comparison: What is reported.
        pictures: Caption -> PNG file; a file that does not exist is left out.
        commands: What a reader may do next -> the command, to be typed in the folder of the page.
    """
    sections = [
        *(html_figure(text, path) for text, path in pictures.items() if path.exists()),
        *_scores(comparison),
        *_contrasts(comparison),
        *_section("Evidence against memory", conflict_table(comparison), 2),
        html_heading(f"{comparison.reference} minus each other scheme"),
        *_differences(comparison),
        html_heading("Is the picture used?"),
        f"<p>{html.escape(sight(comparison))}</p>",
        *_standings(comparison),
        *_start(comparison),
        html_heading("Parameters and cost"),
        html_table(cost_table(comparison)),
        *map(html_note, notes(comparison, starting=False)),
        html_heading("What the words mean"),
        html_terms(_words(comparison)),
        *_next(commands or {}),
    ]
    said = (made(comparison), result(comparison), limits(comparison))
    return report(title_of(comparison), said, sections, comparison.context)


def _scores(comparison: Comparison) -> list[str]:
    if not comparison.records:
        return [html_note(caption(comparison))]
    return [html_heading("Scores"), html_table(score_table(comparison), CONTROLS), html_note(caption(comparison))]


def _words(comparison: Comparison) -> list[tuple[str, str]]:
    """The schemes of this comparison, and what the controls are."""
    schemes = [(row.scheme, row.meaning) for row in comparison.rows if row.meaning]
    names = [line[0] for line in score_table(comparison)[1:]] if comparison.records else []
    ends = {word for word in CONTROLS if any(name.endswith(word) for name in names)}
    shown = {*WORDS} - {*CONTROLS} | ends
    if len(start_table(comparison)) == 1:
        shown -= {"starts as the dense model", "text loss"}
    return schemes + [(word, text) for word, text in WORDS.items() if word in shown]


def _next(commands: Mapping[str, str]) -> list[str]:
    if not commands:
        return []
    parts = [html_heading("What to do next"), html_note("In the folder of this page:")]
    return parts + [f"<p>{html.escape(what)}:</p>{html_command(command)}" for what, command in commands.items()]


def _contrasts(comparison: Comparison) -> list[str]:
    """The questions of the recipe and their answers; they stand before every other test."""
    asked = {name: comparison.asked.weights(name) for name in comparison.asked.contrasts}
    how_tested = (
        "Verdicts read the exact two-sided sign-flip test over paired seeds at 0.05, after Holm's correction over the "
        "types that a contrast is tested on. The interval is Student's."
    )
    return html_contrasts(how_tested, asked, contrast_table(comparison))


def _section(title: str, lines: Sequence[Sequence[str]], num_texts: int) -> list[str]:
    return [html_heading(title), html_table(lines, num_texts=num_texts)] if len(lines) > 1 else []


def _start(comparison: Comparison) -> list[str]:
    """What each scheme is before training, and how much of its language a given model keeps."""
    found = _section("The start, and how much language is kept", start_table(comparison), 2)
    return [*found, *map(html_note, start_notes(comparison))] if found else []


def _standings(comparison: Comparison) -> list[str]:
    found = [(standing.sentence, standing.sees) for standing in comparison.standings()]
    return [html_fold(f"All {len(found)}, one by one", html_list(found))] if found else []


def _differences(comparison: Comparison) -> list[str]:
    found = comparison.reference_minus_others()
    parts = [f"<p>{html.escape(told_apart(comparison))}</p>"]
    if not found:
        return parts
    tested = sum(difference.is_tested for difference in found)
    note = (
        "Paired by seed: both runs of a pair share data, data order and dense base. All seeds share one dense base, so "
        "the intervals speak about the sparse stages only."
    )
    if tested:
        most = max((difference.test for difference in found), key=lambda test: test.num_values)
        note += (
            f" Verdicts read the interval: with {tested} comparisons at 95 %, about {0.05 * tested:.2f} would look "
            "different by chance alone if nothing differed. p is the exact two-sided sign-flip test, which "
            f"{most.num_values} seeds cannot bring below {shown_p(most.smallest)}; corrected is Holm's p over all of "
            "them."
        )
    sentences = [(difference.sentence, difference.is_clear) for difference in found]
    clear = [sentence for sentence in sentences if sentence[1]]
    parts += [html_list(clear)] if 0 < len(clear) <= 6 else []
    return [*parts, html_fold(f"All {len(found)}, one by one", html_note(note), html_list(sentences))]
