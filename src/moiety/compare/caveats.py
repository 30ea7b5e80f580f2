"""What a reader has to know before any score: which schemes are not equal, and which do not start as the dense one."""

from __future__ import annotations

from collections.abc import Sequence

from moiety.compare.summary import Comparison, SchemeRow
from moiety.records.pages import counted, listed, spread


def caveats(comparison: Comparison) -> list[str]:
    """Sentences for the plan, for the log before the first run, and for the report."""
    return [*unequal(comparison), *starts(comparison)]


def unequal(comparison: Comparison) -> list[str]:
    """One sentence for each scheme whose activated parameters are not those of the reference."""
    found = []
    for row in comparison.rows:
        if not row.has_equal_budget:
            share = f"{100 * abs(row.relative_difference):.1f} % {'more' if row.relative_difference > 0 else 'fewer'}"
            why = f": {row.why_unequal}" if row.why_unequal else ""
            found.append(
                f"{row.scheme} passes each token through {row.activated:,} parameters, {share} than "
                f"{comparison.reference}{why}. A difference between the two may come from size alone."
            )
    return found


def starts(comparison: Comparison) -> list[str]:
    """Whether the schemes start as the dense model, and what follows for verdicts; empty if there is nothing to say."""
    rows, base = [row for row in comparison.rows if row.starts_as_dense is not None], comparison.base
    lost = [row for row in rows if not row.starts_as_dense]
    if not lost:
        well = "All schemes start as the dense model: before training they compute the same."
        return [well] if rows and base.given else []
    texts = [f"{_lost(lost, comparison)} not start as the dense model."]
    if not base.given:
        texts.append("The recipe builds that model from nothing, so there is nothing to lose, and verdicts are given.")
    elif base.recovery:
        texts.append(f"Stage {base.recovery!r} is there to bring this back (`recovers: true`), so verdicts are given.")
    elif base.stops:
        texts.append(
            "The comparison stops there before it trains, unless the recipe says that a sparse stage brings this back "
            "(`recovers: true` in that stage) or allows it (`model.allow_damage: true`)."
        )
    else:
        texts.append(
            "No verdict is given between such a scheme and one that does: it would have to learn again what it lost. "
            "If a sparse stage is long enough for that, say so with `recovers: true` in that stage."
        )
    return [" ".join(texts)]


def _lost(rows: Sequence[SchemeRow], comparison: Comparison) -> str:
    """``asymoe (text loss 29.579, dense 3.368) does``."""
    before = comparison.base.text_loss
    names = []
    for row in rows:
        measured = before is not None and row.start_text_loss is not None
        names.append(row.scheme + (f" (text loss {row.start_text_loss:.3f}, dense {before:.3f})" if measured else ""))
    return f"{listed(names)} {'does' if len(names) == 1 else 'do'}"


def language(comparison: Comparison) -> str:
    """How the loss of plain text changed from the dense base to the trained models; empty if it was not measured."""
    before = comparison.base.text_loss
    after = [sum(losses) / len(losses) for row in comparison.rows if (losses := comparison.text_losses(row.scheme))]
    if before is None or not after:
        return ""
    return f"Loss of plain text: {before:.3f} in the dense model, {spread(after, '.3f')} after training."


def language_caption(comparison: Comparison) -> str:
    """What the numbers of :func:`moiety.compare.table.start_table` mean."""
    base = comparison.base
    if base.text_loss is None:
        return ""
    return (
        f"Text loss: mean loss of a token in {counted(base.num_texts, 'plain text')} without a picture, in nats; less "
        f"is better. Language kept: from the dense base before all runs ({base.text_loss:.3f}) to the trained model, "
        "mean over seeds with Student's 95 % interval where there are several."
    )
